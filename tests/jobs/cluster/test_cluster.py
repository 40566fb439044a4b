"""A job on a real Ray cluster of this machine has the results of the local run, whatever dies on the way."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nla_sdk.errors import InputError, SuspectActivationsWarning
from nla_sdk.io.chunks import MANIFEST
from nla_sdk.io.tables import vector_column
from nla_sdk.jobs.cluster.pool import Pool
from nla_sdk.jobs.cluster.sizes import ActorSize
from nla_sdk.jobs.cluster.stages import made
from nla_sdk.jobs.faults import ClusterError
from nla_sdk.jobs.local import Target, run
from tests import tiny
from tests.commands import run_nla
from tests.jobs.cluster.conftest import NODE
from tests.jobs.cluster.counting import ABOUT, CHUNK_ROWS, NEEDS_RAY, Counting, Here, Numbers, spread, write_rows

pytestmark = NEEDS_RAY
ROOT = Path(__file__).parents[3]


def plainly(source, unit: Counting, out: Path) -> bytes:
    """What the local run makes of it."""
    rows = source.check()
    run(source, rows, unit, Target(out, "parquet"), chunk_rows=CHUNK_ROWS, made_from={}, about=ABOUT)
    return out.read_bytes()


def test_chunks_made_here_and_there_are_one_file_and_its_sidecar(ray, tmp_path):
    source = write_rows(tmp_path, 95)
    (tmp_path / "here").mkdir()
    expected = plainly(source, Counting(tmp_path / "here"), tmp_path / "here" / "out.parquet")
    stopped = Counting(tmp_path, wrong=30)  # a local run that ends there
    with pytest.raises(InputError, match="row 30: it is wrong"):
        plainly(source, stopped, tmp_path / "out.parquet")
    unit = Counting(tmp_path)
    (tmp_path / "calls").unlink()
    with pytest.warns(SuspectActivationsWarning) as caught:
        assert spread(ray, unit, source, tmp_path / "out.parquet") == 0
    assert (tmp_path / "out.parquet").read_bytes() == expected
    names = [f"{folder}out.parquet.nla_meta.yaml" for folder in ("here/", "")]
    assert len({(tmp_path / name).read_text() for name in names}) == 1
    assert sorted(unit.calls()) == [(first, min(10, 95 - first)) for first in range(30, 95, 10)]
    assert len(caught) == 1, "all actors warn of the same"


def test_a_refusal_is_the_local_one_and_the_local_run_goes_on(ray, tmp_path):
    source = write_rows(tmp_path, 60)
    with pytest.raises(InputError, match="^in.parquet, row 41: it is wrong.$"), pytest.warns():
        spread(ray, Counting(tmp_path, wrong=41), source, tmp_path / "out.parquet", actors=1)
    unit = Counting(tmp_path / "here")  # the actor may be at a further chunk until it is ended
    unit.folder.mkdir()
    plainly(source, unit, tmp_path / "out.parquet")
    assert unit.calls() == [(40, 10), (50, 10)]


def test_actors_that_die_are_replaced_and_a_row_that_ends_them_is_set_aside(ray, tmp_path, capfd):
    source = write_rows(tmp_path, 50)
    (tmp_path / "here").mkdir()
    plainly(source, Counting(tmp_path / "here"), tmp_path / "here" / "out.parquet")
    unit, out = Counting(tmp_path, fatal=(13,), once=(41,)), tmp_path / "out.parquet"
    with pytest.warns():
        assert spread(ray, unit, source, out) == 1
    everything = pq.read_table(tmp_path / "here" / "out.parquet")
    kept = pa.concat_tables([everything.slice(0, 13), everything.slice(14)])
    assert pq.read_table(out) == kept
    (line,) = (tmp_path / "out.parquet.failed.jsonl").read_text().splitlines()
    assert json.loads(line)["row"] == 13 and re.search("died|unavailable", json.loads(line)["error"])
    calls = unit.calls()
    assert calls.count((10, 10)) >= 2 and calls.count((13, 1)) == 2 and calls.count((14, 1)) == 1
    assert calls.count((40, 10)) >= 2
    captured = capfd.readouterr()
    assert captured.out == "" and "row 13 has ended 2 actors and is set aside" in captured.err


def test_the_chunks_of_stages_are_the_local_ones_and_one_that_ends_two_actors_ends_its_stage(ray, tmp_path):
    folders = [tmp_path / name for name in ("here", "first", "second")]
    for folder in folders:
        folder.mkdir()
    here = dict(plain(made(Numbers(folders[0], (3, 3, 2)), [0, 1, 2], "the actor's pair")))
    with Pool(ray, Feeding(tmp_path, fatal=(900,)), ActorSize(), 2, Here()) as pool:
        stage = Numbers(folders[1], (3, 3, 2), once=1)
        assert dict(plain(made(stage, [0, 1, 2], pool))) == here and stage.pair is None
        calls = [int(line.split()[0]) for line in (folders[1] / "calls").read_text().splitlines()]
        assert calls.count(1) == 2 and set(calls) == {0, 1, 2}
        rows = next(write_rows(tmp_path, 2).batches(2))
        with pytest.warns(SuspectActivationsWarning):
            fed = {one.number: one.outputs["rows"]["row"].to_pylist() for one in pool.fed((n, rows) for n in (1, 2, 3))}
        assert fed == {1: [100, 101], 2: [200, 201], 3: [300, 301]}
        with pytest.raises(ClusterError, match=r"Chunk 9 \(2 rows\) has ended 2 actors"):
            list(pool.fed(iter([(9, rows)])))
        stage = Numbers(folders[2], (5, 5), fatal=1)
        with pytest.raises(ClusterError, match=r"Chunk 1 \(5 rows\) has ended 2 actors"):
            list(made(stage, [0, 1], pool))


class Feeding(Counting):
    """Its driver reads what is in a chunk; tables by name come back."""

    def __call__(self, table: pa.Table, number: int) -> dict[str, pa.Table]:
        return {"rows": super().__call__(table, 100 * number)}


def plain(chunks):
    """(number, its tables as lists) of each chunk."""
    for one in chunks:
        yield one.number, {name: table.to_pydict() for name, table in one.outputs.items()}


def test_a_node_is_lost_and_the_others_do_its_chunks(cluster, ray, tmp_path):
    source = write_rows(tmp_path, 120)
    (tmp_path / "here").mkdir()
    expected = plainly(source, Counting(tmp_path / "here"), tmp_path / "here" / "out.parquet")

    def lose() -> None:
        while not (tmp_path / "calls").exists() or len((tmp_path / "calls").read_text().splitlines()) < 4:
            time.sleep(0.02)
        cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)

    losing = threading.Thread(target=lose)
    losing.start()
    with pytest.warns():
        assert spread(ray, Counting(tmp_path, pause=0.2), source, tmp_path / "out.parquet") == 0
    losing.join()
    cluster.add_node(**NODE)
    assert (tmp_path / "out.parquet").read_bytes() == expected


def test_a_killed_driver_loses_what_was_in_flight_and_no_more(cluster, ray, tmp_path):
    source = write_rows(tmp_path, 150)
    (tmp_path / "here").mkdir()
    expected = plainly(source, Counting(tmp_path / "here"), tmp_path / "here" / "out.parquet")
    command = [sys.executable, "-m", "tests.jobs.cluster.counting", cluster.address, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}) as driver:
        manifest = tmp_path / "out.parquet.chunks" / MANIFEST
        while driver.poll() is None and not (manifest.exists() and manifest.read_text().count("\n") >= 3):
            time.sleep(0.02)
        driver.send_signal(signal.SIGKILL)
    assert driver.returncode == -signal.SIGKILL
    done = manifest.read_bytes().count(b"\n")
    assert 3 <= done < 15
    (tmp_path / "calls").unlink()
    unit = Counting(tmp_path)
    with pytest.warns():
        assert spread(ray, unit, source, tmp_path / "out.parquet") == 0
    assert (tmp_path / "out.parquet").read_bytes() == expected
    assert len([first for first, _ in unit.calls()]) <= 15 - done + 4  # the old actors may still have ended theirs


OWN = """
import psutil
from nla_sdk.jobs.cluster.connection import connected, machines
for _ in range(2):  # a config with two label sets has one after the other
    with connected(None) as ray:
        assert machines(ray)[0].cpus
        parts = psutil.Process().children(recursive=True)
        assert "0" in {part.environ().get("RAY_USAGE_STATS_ENABLED") for part in parts if part.name() == "gcs_server"}
        for found in (one for part in parts for one in part.net_connections() if one.status == psutil.CONN_LISTEN):
            print(found.laddr.ip)
"""


def test_a_cluster_that_is_started_here_is_reached_from_here_only(tmp_path):
    """By what listens; and nothing of it is written into the user's home."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {"PYTHONPATH": str(ROOT), "HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", OWN], env=environment, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    addresses = {address.removeprefix("::ffff:") for address in done.stdout.split()}
    assert addresses == {"127.0.0.1"} and not list(tmp_path.iterdir())


@pytest.fixture
def vectors(tmp_path, pair) -> Path:
    texts = [f"The cat sat on mat {number}." for number in range(80)]
    found = pair.extract(texts).vectors.numpy()
    table = pa.table({"doc_id": [f"d{row}" for row in range(80)], "activation_vector": vector_column(found)})
    pq.write_table(table, tmp_path / "acts.parquet")
    return tmp_path / "acts.parquet"


def test_a_pair_explains_on_two_nodes_as_it_does_here(
    ray, cluster, capsys, tmp_path, vectors, lora_folders, monkeypatch
):
    monkeypatch.setattr("nla_sdk.cli.rows.ROWS_PER_CHUNK", {"explain": 16})
    options = ("--av", lora_folders["shared"], "--device", "cpu", "--max-new-tokens", 8, "--temperature", 0.7)
    code, _, err = run_nla(capsys, ["explain", vectors, *options, "-o", tmp_path / "here.parquet"])
    assert code == 0, err
    there = ("--engine", "ray", "--address", cluster.address, "--actors", 2, "-o", tmp_path / "there.parquet")
    code, out, err = run_nla(capsys, ["explain", vectors, *options, *there])
    assert (code, out) == (0, ""), err
    assert "2 actors, each 1 CPU, about 0.8 GB RAM" in err and "rows/s each:" in err
    assert (tmp_path / "there.parquet").read_bytes() == (tmp_path / "here.parquet").read_bytes()
    sidecars = [(tmp_path / f"{name}.parquet.nla_meta.yaml").read_text() for name in ("here", "there")]
    assert sidecars[0] == sidecars[1]


REFUSED = {
    "missing vectors": ({"activation_vector": [[1.0] * tiny.D_MODEL, None]}, "row 1: activation_vector is empty"),
    "strings": ({"activation_vector": ["[1.0, 2.0]"]}, "holds texts; under this name vectors are expected"),
    "two models": (
        {"activation_vector": [[1.0] * tiny.D_MODEL] * 2, "activation_model": ["/models/gemma", "/models/other"]},
        "activations of model /models/other .row 1.; this pair reads model .*gemma",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_refused_locally_is_refused_before_any_actor_starts(capsys, tmp_path, lora_folders, monkeypatch, what):
    columns, refusal = REFUSED[what]
    pq.write_table(pa.table(columns), tmp_path / "in.parquet")
    command = ["explain", tmp_path / "in.parquet", "--av", lora_folders["shared"], "-o", tmp_path / "out.parquet"]
    here = run_nla(capsys, command)
    monkeypatch.setattr("nla_sdk.jobs.cluster.connection.connected", None)
    there = run_nla(capsys, [*command, "--engine", "ray"])
    assert here[0] == there[0] == 2 and here[2] == there[2]
    assert re.search(refusal, there[2]), there[2]
