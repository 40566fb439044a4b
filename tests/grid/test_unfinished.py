"""What a killed run left, damaged: the next run says so or makes it again, and never goes on from a wrong state."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nla_sdk.io.files import sha256_of
from tests.grid import world
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


@pytest.fixture(scope="module")
def stopped(first_world, tmp_path_factory) -> tuple[Path, pa.Table]:
    """A world with a job that was stopped after its chunks, before its file; and what that file would have held."""
    folder = world.copy(first_world, tmp_path_factory.mktemp("stopped") / "world")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert run(*NLA).exit_code == 0
        expected = pq.read_table("made.parquet")
        remove("made.parquet", "made.parquet.nla_meta.yaml")
        patch.setattr("nla_sdk.jobs.local._merge", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        assert run(*NLA).exit_code == 130
    return folder, expected


@pytest.fixture
def left(stopped, tmp_path, monkeypatch) -> Path:
    """The folder of that job, in a world of its own, which is the current folder."""
    monkeypatch.chdir(world.copy(stopped[0], tmp_path / "left"))
    return Path("made.parquet.chunks")


def torn(file: Path, content: bytes) -> None:
    file.unlink()  # it may be another world's too
    file.write_bytes(content)


@pytest.mark.parametrize("kind", TORN)
def test_torn_facts_of_a_job_are_refused(kind, left):
    torn(left / "manifest.json", TORN[kind])
    refused(run(*NLA), ["manifest.json is damaged"])


def test_overwrite_starts_over_where_the_facts_of_a_job_are_torn(left):
    torn(left / "manifest.json", TORN["cut"])
    assert run(*NLA, "--overwrite").exit_code == 0
    assert len(pq.read_table("made.parquet")) == 4


@pytest.mark.parametrize("kind", TORN)
def test_torn_lines_of_a_job_are_made_again(kind, left, stopped):
    torn(left / "manifest.jsonl", TORN[kind] + b"\n")
    assert run(*NLA).exit_code == 0
    assert pq.read_table("made.parquet").equals(stopped[1])


def test_a_line_that_points_out_of_its_folder_counts_for_nothing(left):
    output = {"file": "../rows.parquet", "rows": 4, "sha256": sha256_of(Path("rows.parquet"))}
    line = json.dumps({"chunk": 0, "outputs": {"results": output}, "drops": {}})
    torn(left / "manifest.jsonl", (line + "\n").encode())
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
