"""`nla explain --av-engine`, `nla round-trip --av-engine`, and rollouts of training."""

from __future__ import annotations

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from nla_sdk.cli import rows as cli_rows
from nla_sdk.engines.connection import KEY
from nla_sdk.io.tables import vector_column
from nla_sdk.jobs.cluster.actors import Worker
from nla_sdk.jobs.facts import Told
from nla_sdk.jobs.identity import Lying
from nla_sdk.jobs.unit import Unit
from tests import tiny
from tests.commands import run_nla

COUNT = 11


@pytest.fixture
def made(exports):
    return exports("llama-raw")


@pytest.fixture
def table(tmp_path):
    import pyarrow as pa

    vectors = tiny.random(COUNT, tiny.D_MODEL, seed=8, scale=2.0).numpy().astype(np.float32)
    pq.write_table(
        pa.table({"activation_vector": vector_column(vectors), "id": range(COUNT)}), tmp_path / "acts.parquet"
    )
    return tmp_path / "acts.parquet"


def test_a_file_is_explained_as_here_and_a_broken_job_goes_on(made, serve, table, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(cli_rows.ROWS_PER_CHUNK, "explain", 1)  # of 8 with a server
    monkeypatch.setenv(KEY, "geheim-123")
    server = serve(made.folder / "av", key="geheim-123")
    words = ["explain", table, "--av", made.folder / "av", "--av-engine", server.url, "-o", tmp_path / "out.parquet"]
    server.faults.extend([None] * 3 + [None] * 8 + [400])  # the probes, a chunk, then the end
    code, _, err = run_nla(capsys, words)
    assert code == 2 and "HTTP 400" in err and "Traceback" not in err
    chunks = tmp_path / "out.parquet.chunks"
    assert [file.name for file in sorted(chunks.glob("*.parquet"))] == ["00000000.results.parquet"]
    server.faults.clear()
    asked, kept = len(server.bodies), {body["cache_salt"] for body in server.bodies[3:11]}
    assert run_nla(capsys, words)[0] == 0
    again = {body["cache_salt"] for body in server.bodies[asked:]}
    assert len(kept) == 8 and not kept & again and len(again) >= COUNT - 8
    found = pq.read_table(tmp_path / "out.parquet")
    expected = made.pair.explain(tiny.random(COUNT, tiny.D_MODEL, seed=8, scale=2.0))
    assert found["api_explanation"].to_pylist() == [str(text) for text in expected]
    assert found["id"].to_pylist() == list(range(COUNT))
    sidecar = (tmp_path / "out.parquet.nla_meta.yaml").read_text(encoding="utf-8")
    about = yaml.safe_load(sidecar)["provenance"]["pair"]["engine"]
    assert about == {"server": "vLLM", "version": "0.19.1", "model": "av"}
    assert "geheim" not in sidecar and server.url not in sidecar


def test_a_job_is_not_gone_on_with_by_another_server(made, serve, table, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(cli_rows.ROWS_PER_CHUNK, "explain", 1)
    servers = serve(made.folder / "av"), serve(made.folder / "av", "sglang")
    servers[0].faults.extend([None] * 11 + [400])

    def explain(server):
        words = [
            "explain",
            table,
            "--av",
            made.folder / "av",
            "--av-engine",
            server.url,
            "-o",
            tmp_path / "out.parquet",
        ]
        return run_nla(capsys, words)

    assert explain(servers[0])[0] == 2
    code, _, err = explain(servers[1])
    assert code == 2 and "pair.engine.server: vLLM there, SGLang here" in err


def test_actors_of_a_cluster_hold_the_halves_that_are_named(made, serve):
    """An AV whose server writes; its partner, which nobody named, is not looked for on their nodes."""
    told = {"av": str(made.folder), "av_engine": serve(made.folder / "av").url}
    rows = Told("acts.parquet", "activation_vector", "vectors", "acts", None)
    _, _, identity = Worker(Unit("explain", rows, told, {}), 1, ".").load().value
    assert identity["engine"]["server"] == "vLLM" and "ar" not in identity
    assert Lying.find(told).identity().items() <= identity.items()


def test_a_round_trip_takes_the_ar_that_is_named(made, serve, table, capsys):
    words = ["round-trip", table, "--av", made.folder / "av", "--av-engine", serve(made.folder / "av").url, "--json"]
    code, _, err = run_nla(capsys, words)
    assert code == 2 and "round_trip needs an AR" in err
    code, out, _ = run_nla(capsys, [*words, "--ar", made.folder / "ar"])
    assert code == 0
    rows = [json.loads(line) for line in out.splitlines()]
    assert [row["api_explanation"] for row in rows] == made.pair.explain(
        tiny.random(COUNT, tiny.D_MODEL, seed=8, scale=2.0)
    )
    assert all("cosine" in row for row in rows)


def test_what_is_refused_is_one_line(lora_folders, table, capsys):
    words = ["explain", table, "--av", lora_folders["shared"] / "av", "--av-engine", "http://127.0.0.1:9"]
    code, out, err = run_nla(capsys, words)
    assert code == 2 and not out
    assert "cannot be run by an inference server" in err and len(err.strip().splitlines()) == 1
