"""Stages of data, training and evaluation on a real Ray cluster have the tables of the local run, whoever is killed."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import socket
import time
from collections import Counter, deque
from types import SimpleNamespace

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nla_sdk.evaluation.schema import CLAIMS_TABLE, EVALUATION, ROWS, VARIANTS
from nla_sdk.io.chunks import Chunks
from nla_sdk.io.tables import vector_column
from nla_sdk.jobs.cluster.actors import answered
from nla_sdk.jobs.cluster.pieces import Piece, Seat
from nla_sdk.jobs.cluster.pool import Pool
from nla_sdk.model.statistics.states import STATISTICS_FILE, ActivationStatistics
from tests import configs
from tests.commands import invoke
from tests.jobs.cluster.counting import NEEDS_RAY
from tests.label import data
from tests.label.server import LabelServer
from training.configs.command import cluster_stage
from training.configs.config import Config
from training.data import extract
from training.data.tables.columns import response_of
from training.evaluate import extras
from training.evaluate.__main__ import app
from training.fit import expert, on_policy
from training.label import __main__ as label
from training.label.budget import Budget, Prices
from training.label.cache import Cache
from training.label.cluster.account import Account
from training.label.cluster.actors import RUN, Labelling
from training.label.faults import LabelError
from training.label.passes import Passes
from training.label.stage import READ

pytestmark = NEEDS_RAY
WORDS = ["the", "cat", "sat", "on", "a", "mat", "and", "then", "ran", "to", "sea", "by", "noon", "or", "so", "said"]


def killed_after(count: int):
    """A driver that is killed when it has kept so many chunks."""
    real, kept = Chunks.write, iter(range(1, 1000))

    def write(self, index, outputs, drops=None):
        real(self, index, outputs, drops)
        if next(kept) == count:
            raise KeyboardInterrupt

    patch = pytest.MonkeyPatch()
    patch.setattr(Chunks, "write", write)
    return patch


def kill_an_actor() -> None:
    """As a machine without memory does."""
    for part in psutil.Process().children(recursive=True):
        if part.name().startswith("ray::Worker"):
            return part.send_signal(signal.SIGKILL)
    raise AssertionError("no actor is there")


def chunks_kept(out) -> int:
    """How many finished chunks lie in a folder."""
    return sum(len(file.read_text().splitlines()) for file in (out / "chunks").glob("*/manifest.jsonl"))


@pytest.fixture
def heldout(tmp_path, pair):
    rng = np.random.default_rng(0)
    said = [" ".join(rng.choice(WORDS, 12)) for _ in range(14)]
    table = {
        "doc_id": [f"d{at // 2}" for at in range(14)],
        "activation_vector": vector_column(pair.extract(said).vectors.numpy()),
        "detokenized_text_truncated": said,
        "api_explanation": [f'Ends in "{text[-9:]}". A list of words.' for text in said],
    }
    pq.write_table(pa.table(table), tmp_path / "eval.parquet")
    return tmp_path / "eval.parquet"


def test_an_evaluation_has_the_same_figures_whoever_measured_which_chunk(
    ray, cluster, tmp_path, heldout, lora_folders, monkeypatch
):
    here = os.getpid()

    def say(text: str) -> str:
        assert os.getpid() == here, "a key is not taken to another machine"
        return text.upper()

    monkeypatch.setattr(extras, "paraphraser", lambda _: extras.Paraphraser("loud", "0" * 64, say))
    monkeypatch.setattr("training.evaluate.measuring.rows.ROWS_PER_CHUNK", 4)
    monkeypatch.setattr("training.evaluate.measuring.variants.VARIANTS_PER_CHUNK", 2)
    monkeypatch.setattr("training.evaluate.claims.measuring.READ_PER_CHUNK", 2)
    monkeypatch.setattr("training.evaluate.claims.measuring.PER_CHUNK", 5)
    shutil.copytree(lora_folders["shared"], tmp_path / "pair")
    given = ("--av", tmp_path / "pair", "--data", heldout, "--device", "cpu", "--paraphraser", tmp_path / "loud.yaml")
    given += ("--controls", 4, "--signal", 4, "--claims", 4)
    spread = ("--engine", "ray", "--address", cluster.address, "--actors", 2)
    done = invoke(app, *given, "--out", tmp_path / "here")
    assert done.exit_code == 0, done.stderr

    there = (*given, "--out", tmp_path / "there")
    patch = killed_after(4)
    done = invoke(app, *there)
    patch.undo()
    assert done.exit_code == 130 and "Run the same command again to go on" in done.stderr, done.stderr
    assert chunks_kept(tmp_path / "there") == 4
    done = invoke(app, *there, *spread)
    assert done.exit_code == 0, done.stderr
    assert "2 actors, each 1 CPU" in done.stderr

    files = [json.loads((tmp_path / name / EVALUATION).read_text()) for name in ("here", "there")]
    costs = [file.pop("cost") for file in files]
    for file in files:
        file.pop("created"), file.pop("sha256")
    assert files[0] == files[1]
    assert set(costs[0]["seconds"]) == set(costs[1]["seconds"])
    for name in (ROWS, VARIANTS, CLAIMS_TABLE):
        assert (tmp_path / "here" / name).read_bytes() == (tmp_path / "there" / name).read_bytes()
    variants = pq.read_table(tmp_path / "there" / VARIANTS).to_pylist()
    assert len([one for one in variants if one["variant"] == "paraphrased" and one["text"].isupper()]) == 4


ROWS_OF_A_STAGE, LABEL = 10, "cat and a mat"


@pytest.fixture
def configured(tmp_path, gemma_base, lora_folders, pair):
    """A config, as trainers leave its folder, in two places: here and there."""
    vectors = pair.extract([f"The cat sat on mat {number}." for number in range(ROWS_OF_A_STAGE)]).vectors.numpy()
    columns = {
        "row_id": [f"r{at}" for at in range(len(vectors))],
        "doc_id": [f"doc{at}" for at in range(len(vectors))],
        "n_raw_tokens": [9] * len(vectors),
        "activation_layer": [1] * len(vectors),
        "detokenized_text_truncated": ["the cat"] * len(vectors),
        "source_family": ["a"] * len(vectors),
        "activation_vector": vector_column(vectors),
        "response": [response_of(LABEL)] * len(vectors),
        "labeler_model": ["extractive"] * len(vectors),
    }
    found = {}
    for name in ("here", "there"):
        settings = configs.sections(
            tmp_path / name,
            gemma_base,
            ar={"on_policy_rows": 8, "on_policy_sampled": 0.5},
            expert={"rows": 8, "best_of": 2, "vocabulary": "labels"},
            extract={"sources": [{"corpus": "unused.jsonl"}]},
        )
        found[name] = configs.write(tmp_path / name, settings)
        out = Config.load(found[name]).out
        for role in ("av", "ar"):
            shutil.copytree(lora_folders["shared"] / role, out / role / "final")
        for table in ("av_sft", "ar_sft", "rl"):
            pq.write_table(pa.table(columns), out / f"{table}.parquet")
    return found


def tables_of(path, stage: str) -> tuple[bytes, str]:
    """The finished table and what stands beside it."""
    out = Config.load(path).out
    return tuple((out / f"{stage}.parquet{more}").read_bytes() for more in ("", ".nla_meta.yaml"))


@pytest.mark.parametrize("stage", ["on_policy", "expert"])
def test_what_the_av_writes_is_the_same_table_whoever_wrote_it(ray, cluster, configured, monkeypatch, stage):
    monkeypatch.setattr("training.fit.engine.rollout.ROWS_PER_CHUNK", 3)
    command = cluster_stage({"on_policy": on_policy.run, "expert": expert.run}[stage])
    spread = ("--engine", "ray", "--address", cluster.address, "--actors", 1)
    done = invoke(command, "--config", configured["here"])
    assert done.exit_code == 0, done.stderr
    first, then = (spread, ()) if stage == "on_policy" else ((), spread)
    patch = killed_after(1)
    done = invoke(command, "--config", configured["there"], *first)
    patch.undo()
    assert done.exit_code == 130 and f"stopped in {stage}; 1 finished chunk kept" in done.stderr, done.stderr
    done = invoke(command, "--config", configured["there"], *then)
    assert done.exit_code == 0, done.stderr
    here, there = (tables_of(configured[name], stage) for name in ("here", "there"))
    assert here == there
    written = "".join(
        pq.read_table(Config.load(configured["there"]).out / f"{stage}.parquet")["api_explanation"].to_pylist()
    )
    assert written and set(written) <= set(response_of(LABEL)), "actors write the tokens of labels only"


BROKEN = '{"doc_id": "half", "text": "caf\\ud83d the cat sat on a mat", "family": "\\udfff"}'


@pytest.fixture
def corpus(tmp_path):
    """60 texts, one of which is none, and a config to read them with, in two places."""
    rng = random.Random(0)
    lines = [{"doc_id": f"d{at // 3}", "text": " ".join(rng.choices(configs.WORDS, k=16))} for at in range(59)]
    lines = [json.dumps(line | {"family": None if at % 2 else "a"}) for at, line in enumerate(lines)]
    (tmp_path / "texts.jsonl").write_text("\n".join([*lines[:20], BROKEN, *lines[20:]]))

    def config(name: str, base, **settings):
        sources = [{"corpus": str(tmp_path / "texts.jsonl"), "limit": 40}]
        sources += [{"corpus": str(tmp_path / "texts.jsonl"), "positions": "last"}]
        settings = {"sources": sources, "min_context": 6, "max_tokens": 40, "texts_per_chunk": 8, **settings}
        return configs.write(tmp_path / name, configs.sections(tmp_path / name, base, extract=settings))

    return config


def files_of(path) -> dict[str, object]:
    """All that a run leaves in `out:`; of the statistics, whose header is in any order, what they say."""
    out = Config.load(path).out
    files = {str(file.relative_to(out)): file.read_bytes() for file in sorted(out.rglob("*")) if file.is_file()}
    looks = vars(ActivationStatistics.load(out / STATISTICS_FILE))
    return files | {
        STATISTICS_FILE: {name: getattr(one, "tolist", lambda one=one: one)() for name, one in looks.items()}
    }


def test_activations_are_the_same_files_whoever_ran_the_base(ray, cluster, corpus, base, monkeypatch):
    here, there = (corpus(name, base, layers=[2]) for name in ("here", "there"))
    done = invoke(extract.main, "--config", here)
    assert done.exit_code == 0, done.stderr
    assert done.stderr.count("row 21 dropped: 'half' holds half a surrogate pair") == 2

    patch = killed_after(2)
    first = invoke(extract.main, "--config", there)
    patch.undo()
    assert first.exit_code == 130 and "stopped in extract; 2 finished chunks kept" in first.stderr, first.stderr
    assert chunks_kept(Config.load(there).out) == 2
    monkeypatch.setattr("nla_sdk.model.backbone.Backbone.load", None)  # the driver loads no model
    spread = ("--engine", "ray", "--address", cluster.address, "--actors", 2)
    real, killed = Chunks.write, []

    def write(self, index, *rest):
        real(self, index, *rest)
        if not killed:
            killed.append(index)
            kill_an_actor()

    monkeypatch.setattr(Chunks, "write", write)
    second = invoke(extract.main, "--config", there, *spread)
    assert second.exit_code == 0 and killed, second.stderr
    said = first.stderr + second.stderr
    assert said.count("row 21 dropped: 'half' holds half a surrogate pair") == 2 and "2 actors, each 1 CPU" in said
    assert files_of(here) == files_of(there) and len(files_of(here)) == 7


KEY = "sk-of-the-driver-0123456789"


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("A_LABEL_KEY", KEY)  # of this process, not of the nodes
    with LabelServer() as running:
        running.delay = 0.02
        yield running


def api(server: LabelServer, kind: str = "openai", **more) -> dict:
    return {"kind": kind, "model": "m", "base_url": server.base_url(kind), "key_env": "A_LABEL_KEY", **more}


def table_and_sidecar(path) -> tuple[bytes, str]:
    table = data.table_of(Config.load(path))
    return table.read_bytes(), table.with_name(f"{table.name}.nla_meta.yaml").read_text()


def test_a_table_is_the_local_one_and_no_row_is_paid_for_twice_whoever_dies(ray, cluster, tmp_path, server):
    providers, rows = [{"kind": "file", "path": str(tmp_path / "some.jsonl")}, api(server)], 48
    (tmp_path / "some.jsonl").write_text(f'{{"text": "{data.text_of(3)}", "explanation": "A row of somebody."}}\n')
    settings = {"rows_per_chunk": 8, "concurrency": 2}
    paths = [data.config_file(tmp_path / name, providers, rows, [api(server)], **settings) for name in ("a", "b")]
    done = invoke(label.command, "--config", paths[0])
    assert done.exit_code == 0, done.stderr
    server.calls.clear()

    spread = ("--engine", "ray", "--address", cluster.address, "--actors", 2)
    patch = killed_after(2)
    done = invoke(label.command, "--config", paths[1], *spread)
    patch.undo()
    assert done.exit_code == 130 and "stopped in label t/eval; 2 finished chunks kept" in done.stderr, done.stderr
    calls = len(server.calls)
    assert re.search(rf"^{calls} calls, 0 of them faults, ", done.stderr, re.M), (
        "calls in flight ended, and are counted"
    )
    assert {call.key for call in server.calls} == {"none"}, "a key stays where it is"

    seen = iter(range(1000))
    server.script = lambda call: kill_an_actor() if next(seen) == 9 else None
    done = invoke(label.command, "--config", paths[1], *spread)
    assert done.exit_code == 0, done.stderr
    assert table_and_sidecar(paths[0]) == table_and_sidecar(paths[1])
    asked = Counter(call.prompt for call in server.calls)
    assert len(asked) == 2 * rows - 1, "one row has its label from the file"
    again = sum(asked.values()) - len(asked)
    assert again <= 2 and calls < len(server.calls), "what was in flight in the actor that died"
    begun, faults = map(int, re.search(r"^(\d+) calls, (\d+) of them faults", done.stderr, re.M).groups())
    assert again <= begun - (len(asked) - calls) <= 2 and faults <= 2


def test_caps_hold_for_all_actors_together_and_a_node_without_a_key_is_named(ray, cluster, tmp_path, server):
    spread = ("--engine", "ray", "--address", cluster.address, "--actors", 2)
    path = data.config_file(tmp_path / "a", [api(server)], 40, rows_per_chunk=5, concurrency=3)
    done = invoke(label.command, "--config", path, *spread, "--max-calls", 11)
    assert done.exit_code == 2 and "Stopped at 11 calls (--max-calls 11)" in done.stderr, done.stderr
    assert len(server.calls) == 11
    done = invoke(label.command, "--config", path)
    assert done.exit_code == 0, done.stderr
    assert len(server.calls) == len({call.prompt for call in server.calls}) == 40, "answers are in this machine's cache"

    path = data.config_file(tmp_path / "b", [api(server, "anthropic")], 4)
    done = invoke(label.command, "--config", path, *spread[:4], "--actors", 1)
    wanted = (
        f"On the node {socket.gethostname()}: anthropic:m: no key. Put it into the environment variable A_LABEL_KEY."
    )
    assert done.exit_code == 2 and wanted in done.stderr, done.stderr
    assert len(server.calls) == 40 and KEY not in done.stderr


def test_a_quota_that_actors_wait_for_is_said_by_the_command(ray, cluster, tmp_path, server, monkeypatch):
    said = []

    def say(line: str) -> None:
        said.append(line)
        raise LabelError("a cap is reached")

    monkeypatch.setattr("training.label.cluster.actors.say", say)
    server.script = lambda call: "429-long"
    path = data.config_file(tmp_path, [api(server, timeout=90)], 8, rows_per_chunk=2)
    spread = ("--engine", "ray", "--address", cluster.address, "--actors", 1)
    start = time.monotonic()
    done = invoke(label.command, "--config", path, *spread, "--wait-for-quota")
    assert done.exit_code == 2 and len(said) == 1, done.stderr
    assert time.monotonic() - start < 80, "no call is in flight in an actor that waits for a quota"
    assert said[0].startswith("The quota of openai:m is used up (") and "; waiting until 20" in said[0]


@pytest.mark.parametrize("concurrency", [1, 2])
def test_rows_that_a_stopped_run_leaves_are_refused_in_a_line(tmp_path, concurrency):
    config = data.config(tmp_path, [{"kind": "openai", "model": "m", "base_url": "http://127.0.0.1:9"}], 4)
    settings = config.label.model_copy(update={"concurrency": concurrency})
    unit = Labelling(settings.sets[0], settings, Prices.load(), config.marker)
    cache = Cache(tmp_path / "labels.sqlite")
    unit._passes = Passes(settings.sets[0], settings, unit.prices, cache, Budget(), config.marker)
    unit._passes.stop.set()
    rows = pq.read_table(config.out / "split" / "eval.parquet", columns=list(READ)).replace_schema_metadata({RUN: "r"})
    answer = answered(lambda: unit(rows, 0))
    assert isinstance(answer.refusal, LabelError) and "no further call is begun" in str(answer.refusal)
    unit._passes.close(), cache.close()


class Sleeping:
    """An actor that takes its time."""

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


def test_what_waited_behind_a_chunk_that_nobody_has_heard_of_is_waited_for_too(ray):
    actor = ray.remote(Sleeping).options(num_cpus=0).remote()
    handed = [actor.sleep.remote(seconds) for seconds in (0.0, 0.5)]
    ray.get(handed[0])
    seat = Seat(actor, None, deque((asked, Piece(at, 1)) for at, asked in enumerate(handed)))
    Pool.drain(SimpleNamespace(ray=ray, seats=[seat]), 30.0)
    assert ray.wait(handed[1:], timeout=0)[0], "calls in it are paid for"
    ray.kill(actor)


class Waiting:
    """An actor that does nothing."""


def test_the_calls_of_an_actor_that_died_count_with_their_dearest_outcome(ray, cluster, tmp_path):
    actor, other = (ray.remote(Waiting).options(num_cpus=0).remote() for _ in range(2))
    account = Account(tmp_path / "labels.sqlite", Budget(max_usd=1.0).facts(), socket.gethostname())
    assert account.open().refusal is None
    assert account.begin("actor", actor, 0.6).value == 1
    for _ in range(3):  # it may cost less than what is set aside
        assert account.begin("other", other, 0.6).value is None
        time.sleep(0.05)
    ray.kill(actor)
    deadline = time.monotonic() + 30
    while (answer := account.begin("other", other, 0.6)).refusal is None and time.monotonic() < deadline:
        time.sleep(0.05)
    assert "Stopped at $0.6000: another call could pass --max-usd 1" in str(answer.refusal)
    assert account.begin("other", other, 0.3).value == 2
    for hour in (10, 11):  # two actors meet with one quota
        account.tell(f"waiting until {hour}:00")
    assert account.told().value[0] == ["waiting until 10:00"] and account.told().value[0] == []
    assert account.end(2, 0.1, False).refusal is None and account.close().value["usd"] == pytest.approx(0.7)
    assert "not here on elsewhere" in str(Account(tmp_path / "x", Budget().facts(), "elsewhere").open().refusal)
