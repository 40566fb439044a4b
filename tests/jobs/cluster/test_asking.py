"""What is asked of a cluster makes sense, fits, and reaches somebody; no cluster is started here."""

from __future__ import annotations

import os
import pickle
import shutil
import socket
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pytest
from safetensors import safe_open

from nla_sdk import __version__
from nla_sdk.cli.doctor import _cluster_lines
from nla_sdk.errors import InputError, NLAError, NonFiniteOutputError
from nla_sdk.io.rows.row_source import TEXTS, VECTORS
from nla_sdk.io.tables import vector_column
from nla_sdk.jobs.cluster import connection
from nla_sdk.jobs.cluster.actors import Answer, Worker, packed
from nla_sdk.jobs.cluster.pool import Pool, why
from nla_sdk.jobs.cluster.sizes import PROCESS, ActorSize, Machine, fit
from nla_sdk.jobs.facts import Told
from nla_sdk.jobs.faults import ClusterError
from nla_sdk.jobs.identity import BaseLying, Lying, identify
from nla_sdk.jobs.unit import Unit
from tests import configs
from tests.commands import invoke, run_nla
from tests.jobs.cluster.counting import NEEDS_RAY, Counting
from training.data import extract

TWO = [Machine("a", 4, 0, 8e9), Machine("b", 8, 2, 4e9)]
ROWS = Told("in.parquet", "activation_vector", VECTORS, "in", None)


def bytes_of(*folders, width: int = 4) -> int:
    """Of every tensor, opened one by one."""
    total = 0
    for file in (file for folder in folders for file in folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as opened:
            total += sum(opened.get_tensor(name).numel() * width for name in opened.keys())  # noqa: SIM118
    return total


def test_an_actor_takes_its_weights_and_what_a_process_takes(lora_folders, gemma_base):
    folder = lora_folders["shared"]
    lying = Lying.find({"av": str(folder)})
    found = fit(lying, {"device": "cpu"}, VECTORS, TWO)
    adapters = sum(file.stat().st_size for role in ("av", "ar") for file in (folder / role).glob("*.safetensors"))
    assert found.weights == bytes_of(gemma_base) + adapters
    assert found.size == ActorSize(1.0, 0.0, found.weights + PROCESS, None)
    assert found.actors == min(4, int(8e9 / found.size.memory)) + min(8, int(4e9 / found.size.memory))
    assert str(found).splitlines()[-1] == f"in all: {found.actors} actors"


def test_gpus_are_taken_where_there_are_some_and_hold_half_precision(full_folder):
    lying = Lying.find({"av": str(full_folder)})
    found = fit(lying, {"device": "auto"}, VECTORS, TWO)
    assert (found.size.gpus, found.actors) == (1.0, 2)
    assert found.weights == bytes_of(full_folder / "av", full_folder / "ar", width=2)
    assert fit(lying, {"device": "auto"}, VECTORS, TWO, gpus=0.5, cpus=4).actors == 2
    assert fit(lying, {"device": "auto"}, VECTORS, [Machine("c", 0.5, 0, 1e12)]).actors == 0


def test_an_av_that_a_server_holds_takes_no_memory_of_an_actor(full_folder):
    told = {"av": str(full_folder / "av"), "av_engine": "http://127.0.0.1:9"}
    found = fit(Lying.find(told), told, VECTORS, TWO)
    assert (found.weights, found.size.gpus) == (0, 0.0)
    told["ar"] = str(full_folder / "ar")
    found = fit(Lying.find(told), told, VECTORS, TWO)
    assert (found.weights, found.size.gpus) == (bytes_of(full_folder / "ar", width=2), 1.0)


def test_a_dry_run_says_what_fits_here_and_touches_nothing(capsys, tmp_path, lora_folders, monkeypatch, pair):
    (tmp_path / "in.jsonl").write_text('{"text": "The cat sat."}\n')
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(connection, "this_machine", lambda: TWO[0])
    given = ["extract", tmp_path / "in.jsonl", "--av", lora_folders["shared"], "--engine", "ray", "--dry-run"]
    code, out, err = run_nla(capsys, given)
    assert (code, err) == (0, "") and "a: 4 CPUs, 8.0 GB RAM: 4 actors" in out
    assert [file.name for file in tmp_path.iterdir()] == ["in.jsonl"]


REFUSED = {
    "no file": (["--engine", "ray"], "--engine ray writes a file; say which with -o"),
    "no cluster": (["--actors", "2"], "--actors is of a cluster; add --engine ray"),
    "nobody there": (
        ["--engine", "ray", "--address", "127.0.0.1:{port}", "-o", "x.parquet"],
        "No Ray cluster answers at",
    ),
    "no address": (["--engine", "ray", "--address", "node0", "-o", "x.parquet"], "expected HOST:PORT"),
}


@NEEDS_RAY
@pytest.mark.parametrize("what", REFUSED)
def test_what_makes_no_sense_is_said_in_a_line(capsys, tmp_path, lora_folders, monkeypatch, what):
    monkeypatch.chdir(tmp_path)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # nobody listens at it
        options = [option.format(port=closed.getsockname()[1]) for option in REFUSED[what][0]]
        given = ["extract", "A text.", "--av", lora_folders["shared"], *options]
        code, out, err = run_nla(capsys, given)
    assert (code, out) == (2, "") and REFUSED[what][1] in err and len(err.splitlines()) == 1
    assert not list(tmp_path.iterdir())


@NEEDS_RAY
def test_doctor_says_which_cluster_it_sees(monkeypatch, tmp_path):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    assert connection.seen()["address"] is None
    assert _cluster_lines(connection.seen())[0][1].startswith("none: RAY_ADDRESS names none")
    (tmp_path / "ray").mkdir()
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        there = f"127.0.0.1:{closed.getsockname()[1]}"
        (tmp_path / "ray" / "ray_current_cluster").write_text(there)  # as one that was killed leaves it
        assert connection.seen()["problem"].startswith(f"No Ray cluster answers at {there}")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "pip install 'nla-sdk[cluster]'" in _cluster_lines(connection.seen())[0][1]


@NEEDS_RAY
def test_nobody_waits_for_minutes_for_what_listens_and_is_no_cluster(monkeypatch):
    import ray

    told = {}

    def init(**_) -> None:
        told.update(os.environ)
        raise ConnectionError("it says nothing")

    for name in connection.ASKED:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(ray, "init", init)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{silent.getsockname()[1]}")
        assert connection.seen()["problem"].endswith("it says nothing")
    assert told.items() >= connection.ASKED.items() and not connection.ASKED.keys() & os.environ.keys()


def test_a_unit_travels_without_its_pair_and_does_the_same(pair, lora_folders):
    unit = Unit("explain", ROWS, {"av": str(lora_folders["shared"]), "quantization": None}, {"max_new_tokens": 4})
    unit._pair = pair
    table = tiny_table(pair)
    sent = pickle.loads(pickle.dumps(unit))
    assert sent._pair is None and sent(table, 0) == unit(table, 0)
    assert sent.identity() == identify(pair) == unit.identity()


def tiny_table(pair) -> pa.Table:
    found = pair.extract("The cat sat on the mat.", "all").vectors.numpy()
    return pa.table({"activation_vector": vector_column(found)})


class Refusing(Counting):
    """Raises what it is told."""

    def __call__(self, table, first):
        raise self.wrong


class Odd(NLAError):
    """Cannot be unpickled."""

    def __init__(self, one, two):
        super().__init__(f"{one}, {two}")


def test_errors_come_back_as_they_are_or_as_their_words(tmp_path, pair, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where a worker goes, and this process goes on
    stream = packed(tiny_table(pair).slice(2, 1))
    known = NonFiniteOutputError("it gives NaN", [3], "in.parquet")
    for error, kind in ((known, NonFiniteOutputError), (InputError("no"), InputError), (Odd("a", "b"), NLAError)):
        refusal = Worker(Refusing(tmp_path, wrong=error), 1, str(tmp_path)).work(stream, 0).refusal
        assert type(refusal) is kind and str(refusal) == str(error)


class Elsewhere:
    """An actor and its seat, whose node has the pair in this folder."""

    def __init__(self, folder: Path) -> None:
        self.lying = Lying.find({"av": str(folder)})
        self.actor = self.digests = self

    def remote(self) -> Answer:
        return Answer(self.lying.digests(), None, (), 0.0)

    def identity(self, device: str = "cpu") -> dict:
        return {"device": device} | self.lying.identity()


def test_actors_hold_the_same_pair_whatever_the_times_of_its_files(lora_folders, copied):
    here, there = Elsewhere(lora_folders["shared"]), Elsewhere(copied())
    pool = object.__new__(Pool)  # without actors
    pool.lying, pool.identity, pool._digests, pool._told = here.lying, {}, {}, set()
    pool.ray = SimpleNamespace(get=lambda answer: answer)
    assert there.lying.identity() != here.lying.identity()
    pool._hold_alike(there, __version__, there.identity())
    assert pool.identity == {"device": "cpu"} | here.lying.identity()
    weights = there.lying.av.folder / "adapter_model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(ClusterError, match="holds another pair: av/0/adapter_model.safetensors differ"):
        pool._hold_alike(there, __version__, there.identity())
    with pytest.raises(ClusterError, match="in two ways: device cpu and cuda"):
        pool._hold_alike(here, __version__, here.identity("cuda"))
    with pytest.raises(ClusterError, match="An actor has nla-sdk 0.0.1"):
        pool._hold_alike(here, "0.0.1", here.identity())


def test_actors_hold_the_same_base_whatever_the_times_of_its_files(gemma_base, tmp_path, monkeypatch):
    lying = BaseLying.at(str(gemma_base))
    shutil.copytree(gemma_base, tmp_path / "copy", copy_function=shutil.copyfile)
    copy = BaseLying.at(str(tmp_path / "copy"))
    assert copy.identity() != lying.identity() and copy.digests() == lying.digests() and "config.json" in copy.digests()
    there = replace(lying, files=replace(lying.files, path=tmp_path / "copy"))  # under one name on two machines
    seat = SimpleNamespace(actor=SimpleNamespace(digests=SimpleNamespace()))
    seat.actor.digests.remote = lambda: Answer(there.digests(), None, (), 0.0)
    pool = object.__new__(Pool)
    pool.lying, pool.identity, pool._digests, pool._told = lying, {}, {}, set()
    pool.ray = SimpleNamespace(get=lambda answer: answer)
    run = {"device": "cpu", "dtype": "float32"}
    pool._hold_alike(seat, __version__, run | there.identity())
    with pytest.raises(
        ClusterError, match="run the base in two ways: dtype float32 and bfloat16.*dtype .* in the config"
    ):
        pool._hold_alike(seat, __version__, run | {"dtype": "bfloat16"} | there.identity())
    (tmp_path / "copy" / "config.json").write_text("{}")
    with pytest.raises(ClusterError, match="holds another base: config.json differ"):
        pool._hold_alike(seat, __version__, run | there.identity())
    lying = replace(lying, files=replace(lying.files, commit="a" * 40))  # of the Hub: the commit says it
    pool.lying, pool._digests = lying, {}
    there = replace(there, files=replace(there.files, commit="b" * 40))
    with pytest.raises(ClusterError, match="holds another base: commit differ"):
        pool._hold_alike(seat, __version__, run | there.identity())


def test_a_base_takes_its_weights_of_an_actor_and_a_dry_run_says_so(gemma_base, tmp_path, monkeypatch):
    corpus = tmp_path / "texts.txt"
    corpus.write_text("The cat sat on a mat.")
    config = configs.write(
        tmp_path, configs.sections(tmp_path, gemma_base, extract={"sources": [{"corpus": str(corpus)}]})
    )
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(connection, "this_machine", lambda: TWO[0])
    before = sorted(tmp_path.rglob("*"))
    done = invoke(extract.main, "--config", config, "--engine", "ray", "--dry-run")
    assert done.exit_code == 0 and "a: 4 CPUs, 8.0 GB RAM: 4 actors" in done.stdout, done.stderr
    assert sorted(tmp_path.rglob("*")) == before
    found = fit(BaseLying.at(str(gemma_base)), {"dtype": "bfloat16"}, TEXTS, TWO)
    assert (found.weights, found.size.gpus) == (bytes_of(gemma_base, width=2), 1.0)
    done = invoke(extract.main, "--config", config, "--merge", "--engine", "ray")
    assert done.exit_code == 2 and "leave --engine ray out" in done.stderr


def test_of_what_ray_says_of_a_death_the_reason_is_kept():
    said = "The actor died unexpectedly before finishing this task.\n\tpid: 7\nThe actor is dead because its worker "
    said += "process has died. Worker exit detail: End of file. Some common causes include: (1) the OOM killer."
    assert why(RuntimeError(said)).endswith("has died. Worker exit detail: End of file.")
    assert why(RuntimeError("it failed\nModuleNotFoundError: No module named 'nla_sdk'")).startswith("ModuleNotFound")
