"""Chunks that are finished stay so through every kind of interruption, and only those of the same facts are found."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from filelock import FileLock

from nla_sdk.errors import ChunkError, InputError
from nla_sdk.io import chunks as store
from nla_sdk.io.chunks import LOCK, MANIFEST, ChunkFolder, Chunks, identity_of, is_finished, locked
from nla_sdk.io.sidecars import read_sidecar
from nla_sdk.io.tables import vector_column


def rows_of(index: int) -> pa.Table:
    return pa.table({"n": [index, index + 0.5], "v": vector_column(np.full((2, 3), index + 1))})


def opened(folder: Path) -> ChunkFolder:
    return ChunkFolder(folder, "{index:03d}.{output}.parquet", "Do it again.")


@pytest.fixture
def folder(tmp_path) -> Path:
    """Three finished chunks, written out of order."""
    chunks = opened(tmp_path / "chunks")
    for index in (2, 0, 1):
        outputs = {"rows": rows_of(index), "odd": rows_of(index) if index % 2 else rows_of(index).slice(0, 0)}
        chunks.write(index, outputs, {"short": index})
    return chunks.folder


def numbers(chunks: ChunkFolder, output: str = "rows") -> list[float]:
    return [number for table in chunks.tables(output) for number in table["n"].to_pylist()]


# --- one folder -------------------------------------------------------------------------------------------------------
def test_what_was_written_is_there_for_the_next_process_in_order(folder):
    chunks = opened(folder)
    assert [chunks.has(index) for index in range(4)] == [True, True, True, False]
    assert numbers(chunks) == [0, 0.5, 1, 1.5, 2, 2.5]
    assert (chunks.rows("rows"), chunks.rows("odd"), chunks.rows("none")) == (6, 2, 0)
    assert numbers(chunks, "odd") == [1, 1.5] and [file.name for file in chunks.files("odd")] == ["001.odd.parquet"]
    assert chunks.drops() == {"short": 3}


def test_a_line_torn_by_a_kill_is_cut_off_and_its_chunk_made_again(folder):
    manifest = folder / MANIFEST
    whole = manifest.read_text()
    manifest.write_text(whole + '{"chunk": 3, "outp')
    assert not opened(folder).has(3) and manifest.read_text() == whole
    manifest.write_text('{"chunk": 0, "outp')
    assert opened(folder).done == {} and manifest.read_text() == ""


def test_a_file_without_a_line_is_no_chunk(folder):
    pq.write_table(rows_of(3), folder / "003.rows.parquet")
    chunks = opened(folder)
    assert not chunks.has(3) and chunks.rows("rows") == 6


def test_a_kill_between_file_and_line_costs_that_chunk_only(tmp_path, monkeypatch):
    chunks = opened(tmp_path / "chunks")
    chunks.write(0, {"rows": rows_of(0)})

    def killed(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(store.json, "dumps", killed)
        chunks.write(1, {"rows": rows_of(1)})
    again = opened(tmp_path / "chunks")
    assert again.has(0) and not again.has(1)
    again.write(1, {"rows": rows_of(1)})
    assert numbers(again) == [0, 0.5, 1, 1.5]


@pytest.mark.parametrize("damage", ["lost", "cut", "changed"])
def test_a_damaged_chunk_is_told_from_a_whole_one_and_never_read(folder, damage):
    file = folder / "001.rows.parquet"
    data = bytearray(file.read_bytes())
    if damage == "lost":
        file.unlink()
    else:
        data[10] ^= 1
        file.write_bytes(data[:50] if damage == "cut" else data)
    chunks = opened(folder)
    assert [chunks.is_whole(index) for index in range(4)] == [True, False, True, False]
    assert chunks.has(1) == (damage != "lost")
    with pytest.raises(ChunkError, match="001.rows.parquet is missing or damaged. Do it again."):
        numbers(chunks)
    chunks.write(1, {"rows": rows_of(1)})
    assert numbers(opened(folder)) == [0, 0.5, 1, 1.5, 2, 2.5]


# --- held by one process ----------------------------------------------------------------------------------------------
def test_a_folder_is_held_by_one_process_whose_chunks_another_does_not_touch(tmp_path):
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "facts.json").write_text("theirs")
    with FileLock(tmp_path / "c" / LOCK):
        with pytest.raises(InputError, match="^busy$"), locked(tmp_path / "c", "busy"):
            raise AssertionError
        assert (tmp_path / "c" / "facts.json").read_text() == "theirs"


def test_a_held_folder_goes_unless_chunks_are_in_it(tmp_path):
    with locked(tmp_path / "c", "busy"):
        (tmp_path / "c" / "manifest.json").write_text("{}")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(KeyboardInterrupt), locked(tmp_path / "c", "busy"):
        opened(tmp_path / "c").write(0, {"rows": rows_of(0)})
        raise KeyboardInterrupt
    with locked(tmp_path / "c", "busy"):
        assert opened(tmp_path / "c").has(0)
        opened(tmp_path / "c").remove()
    assert list(tmp_path.iterdir()) == []


# --- stages -----------------------------------------------------------------------------------------------------------
def test_other_facts_are_another_folder(tmp_path):
    first = Chunks(tmp_path / "chunks", "split", {"seed": 0, "inputs": {"a": "1"}})
    first.write(0, {"eval": rows_of(0)})
    assert Chunks(tmp_path / "chunks", "split", {"inputs": {"a": "1"}, "seed": 0}).has(0)
    assert not Chunks(tmp_path / "chunks", "split", {"seed": 1, "inputs": {"a": "1"}}).has(0)
    assert first.folder == tmp_path / "chunks" / f"split-{first.identity}"
    assert [file.name for file in first.files("eval")] == ["0000000.eval.parquet"]


def finished(parent: Path, order: list[int]) -> tuple[bytes, str]:
    path = parent / "eval.parquet"
    for index in order:  # another process for each chunk
        Chunks(parent / "chunks", "split", {"seed": 0}).write(index, {"eval": rows_of(index)}, {"short": 1})
    chunks = Chunks(parent / "chunks", "split", {"seed": 0})
    chunks.finish("eval", path, {"seed": 0})
    chunks.remove()
    assert [file.name for file in parent.iterdir() if not file.name.startswith("eval.parquet")] == []
    return path.read_bytes(), path.with_name("eval.parquet.nla_meta.yaml").read_text()


def test_the_finished_table_does_not_depend_on_interruptions(tmp_path):
    assert finished(tmp_path / "a", [0, 1, 2]) == finished(tmp_path / "b", [2, 0, 1])
    about = read_sidecar(tmp_path / "a" / "eval.parquet")
    assert (about["stage"], about["rows"], about["drops"]) == ("split", 6, {"short": 3})


def test_a_finished_table_is_known_by_identity_and_hash(tmp_path):
    finished(tmp_path, [0])
    path, identity = tmp_path / "eval.parquet", identity_of({"seed": 0})
    assert is_finished(path, identity) and not is_finished(tmp_path / "none.parquet", identity)
    with pytest.raises(ChunkError, match="made with other settings or inputs. Nothing is overwritten: pass --overwr"):
        is_finished(path, identity_of({"seed": 1}))
    assert not is_finished(path, identity_of({"seed": 1}), overwrite=True)
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(ChunkError):
        is_finished(path, identity)


def test_identities_are_those_of_earlier_versions():
    assert identity_of({"seed": 0, "name": "ü"}) == identity_of(json.loads('{"name": "ü", "seed": 0}'))
    assert identity_of({}) == "44136fa355b3678a"
