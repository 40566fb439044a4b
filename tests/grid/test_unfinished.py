"""What a killed run left, damaged: the next run says so or makes it again, and never goes on from a wrong state."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from nla_sdk.io.files import sha256_of
from tests.grid.damage import ANY, DEEP, GARBAGE, of, remove
from tests.grid.outcome import refused, run

NLA = ("nla", "explain", "rows.parquet", "--av", "pair", "-o", "made.parquet")
TORN = {
    "empty": b"",
    "cut": b'{"rows": 4, "chu',
    "garbage": GARBAGE,
    "null": b"null",
    "no object": b"[1]",
    "nested deeply": b"[" * DEEP,
    "a huge number": b"9" * 5000,
}


def unfinished(monkeypatch) -> Path:
    """The folder of a job that was stopped after its chunks, before its file."""
    with monkeypatch.context() as patch:
        patch.setattr("nla_sdk.jobs.local._merge", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        assert run(*NLA).exit_code == 130
    return Path("made.parquet.chunks")


@pytest.mark.parametrize("kind", TORN)
def test_torn_facts_of_a_job_are_refused_and_overwrite_starts_over(kind, here, monkeypatch):
    (unfinished(monkeypatch) / "manifest.json").write_bytes(TORN[kind])
    refused(run(*NLA), ["manifest.json is damaged"])
    assert run(*NLA, "--overwrite").exit_code == 0
    assert len(pq.read_table("made.parquet")) == 4


@pytest.mark.parametrize("kind", TORN)
def test_torn_lines_of_a_job_are_made_again(kind, here, monkeypatch):
    assert run(*NLA).exit_code == 0
    expected = pq.read_table("made.parquet")
    remove("made.parquet", "made.parquet.nla_meta.yaml")
    (unfinished(monkeypatch) / "manifest.jsonl").write_bytes(TORN[kind] + b"\n")
    assert run(*NLA).exit_code == 0
    assert pq.read_table("made.parquet").equals(expected)


def test_a_line_that_points_out_of_its_folder_counts_for_nothing(here, monkeypatch):
    output = {"file": "../rows.parquet", "rows": 4, "sha256": sha256_of(Path("rows.parquet"))}
    line = json.dumps({"chunk": 0, "outputs": {"results": output}, "drops": {}})
    (unfinished(monkeypatch) / "manifest.jsonl").write_text(line + "\n")
    assert run(*NLA).exit_code == 0
    assert "api_explanation" in pq.read_table("made.parquet").column_names


@pytest.mark.parametrize("kind", [kind for kind in ANY if kind not in ("missing", "a folder", "a symlink loop")])
@pytest.mark.parametrize("command", ["fit.av", "fit.ar"])
def test_a_damaged_checkpoint_is_named(command, kind, here):
    folder = max(Path("out", command.removeprefix("fit.")).glob("step_*"))
    ANY[kind](folder / "trainer" / "state.pt")
    refused(run(command, "--config", "config.yaml"), ["state.pt"])


@pytest.mark.parametrize("kind", ["binary garbage", "an HTML page", "a git-lfs pointer", "its second half"])
def test_a_damaged_label_cache_is_named(kind, here):
    remove("out/labels", "results")
    ANY[kind](Path("labels.sqlite"))
    refused(run("label", "--config", "config.yaml"), ["labels.sqlite"])


@pytest.mark.parametrize("kind", ["empty", "binary garbage", "cut in half", "a folder"])
def test_a_damaged_list_of_results_is_named(kind, here):
    ANY[kind](Path("results/MANIFEST.json"))
    Path("out/split/eval.parquet").rename("out/split/eval.old")
    done = run("data.split", "--config", "config.yaml")
    assert done.exit_code == 2 and "MANIFEST.json" in done.stderr


@pytest.mark.parametrize("kind", ["empty", "binary garbage", "an HTML page", "a bomb", "nested deeply", "no mapping"])
def test_a_damaged_sidecar_of_a_table_is_never_a_traceback(kind, here):
    sidecar = Path("out/activations_L1.parquet.nla_meta.yaml")
    of(sidecar.name)[kind](sidecar)
    remove("out/split", "results")
    refused(run("data.split", "--config", "config.yaml"), [sidecar.name])
