"""Long work goes on where it was, with whole results only, and OUT appears whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from filelock import FileLock

from nla_sdk.contract import Contract
from nla_sdk.errors import InputError
from nla_sdk.io.chunks import LOCK, MANIFEST
from nla_sdk.io.rows.sources import RowSource, open_source
from nla_sdk.io.tables import vector_column
from nla_sdk.jobs.faults import SetAsideError
from nla_sdk.jobs.local import MADE_FROM, Made, Target, outputs_of, run

ABOUT = Contract.from_dict({"kind": "nla_dataset", "base_model": "owner/base", "d_model": 4, "layer": 2})


class Doubling:
    """Work that counts its calls and stops before one of them."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.firsts: list[int] = []
        self.stop_at = stop_at

    def __call__(self, table: pa.Table, first: int) -> pa.Table:
        if first == self.stop_at:
            raise KeyboardInterrupt
        self.firsts.append(first)
        return table.append_column("row", pa.array(range(first, first + table.num_rows)))


@pytest.fixture
def source(tmp_path) -> RowSource:
    vectors = np.random.default_rng(0).normal(size=(10, 4))
    pq.write_table(pa.table({"activation_vector": vector_column(vectors)}), tmp_path / "in.parquet")
    return open_source(str(tmp_path / "in.parquet"), ("activation_vector",))


def work_on(source: RowSource, out: Path, work, *, overwrite: bool = False, **made_from) -> None:
    target = Target(out, "parquet" if out.suffix == ".parquet" else "jsonl", overwrite=overwrite)
    run(source, 10, work, target, chunk_rows=3, made_from=made_from, about=ABOUT)


def stopped(source: RowSource, out: Path, at: int = 6) -> Path:
    with pytest.raises(KeyboardInterrupt, match=f"{at} of 10 rows are kept"):
        work_on(source, out, Doubling(at))
    return out.with_name(f"{out.name}.chunks")


@pytest.mark.parametrize("damage", ["cut", "one bit", "no line", "lost"])
def test_what_is_not_whole_is_made_again(source, tmp_path, damage):
    work_on(source, tmp_path / "undisturbed.parquet", Doubling())
    out = tmp_path / "out.parquet"
    chunk = stopped(source, out) / "00000001.results.parquet"
    if damage == "no line":  # as a kill between a chunk and its line leaves it
        manifest = chunk.with_name(MANIFEST)
        manifest.write_text(manifest.read_text().splitlines(keepends=True)[0])
    elif damage == "lost":
        chunk.unlink()
    else:
        data = bytearray(chunk.read_bytes())
        data[20] ^= 1  # a file that still opens, with other numbers in it
        chunk.write_bytes(data[:50] if damage == "cut" else data)
    again = Doubling()
    work_on(source, out, again)
    assert again.firsts == [3, 6, 9]
    assert out.read_bytes() == (tmp_path / "undisturbed.parquet").read_bytes()
    assert not chunk.parent.exists()


def test_what_only_has_to_be_merged_is_merged(source, tmp_path, monkeypatch):
    out = tmp_path / "out.jsonl"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("nla_sdk.jobs.local._merge", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        work_on(source, out, Doubling())
    assert not out.exists()
    again = Doubling()
    work_on(source, out, again)
    assert again.firsts == [] and [json.loads(line)["row"] for line in out.read_text().splitlines()] == [*range(10)]


def test_a_merge_that_fails_leaves_the_old_file_and_the_chunks(source, tmp_path, monkeypatch):
    out = tmp_path / "out.jsonl"
    out.write_text("old")

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
        patch.setattr("nla_sdk.jobs.local.write_tables", full)
        work_on(source, out, Doubling(), overwrite=True)
    assert out.read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.parquet", "out.jsonl", "out.jsonl.chunks"]
    again = Doubling()
    work_on(source, out, again, overwrite=True)
    assert again.firsts == [] and len(out.read_text().splitlines()) == 10


def test_work_made_from_something_else_is_refused_then_cleared_away_if_told_to(source, tmp_path):
    out = tmp_path / "out.parquet"
    chunks = stopped(source, out)
    facts = json.loads((chunks / MADE_FROM).read_text())
    with pytest.raises(InputError, match="something else .options: None there, {'seed': 1} here.. Repeat"):
        work_on(source, out, Doubling(), options={"seed": 1})
    assert json.loads((chunks / MADE_FROM).read_text()) == facts and (chunks / "00000001.results.parquet").exists()
    again = Doubling()
    work_on(source, out, again, overwrite=True, options={"seed": 1})
    assert again.firsts == [0, 3, 6, 9] and not chunks.exists()


def test_who_is_refused_leaves_the_others_folder(source, tmp_path):
    chunks = tmp_path / "out.parquet.chunks"
    chunks.mkdir()
    (chunks / MADE_FROM).write_text("theirs")
    with FileLock(chunks / LOCK), pytest.raises(InputError, match="Another process is writing"):
        work_on(source, tmp_path / "out.parquet", Doubling())
    assert (chunks / MADE_FROM).read_text() == "theirs"


def test_a_column_that_changes_its_type_is_said_and_the_chunks_stay(source, tmp_path):
    def work(table: pa.Table, first: int) -> pa.Table:
        return table.append_column("label", pa.array(["x" if first else 1] * table.num_rows))

    with pytest.raises(InputError, match="out.parquet cannot be one table, a column changes its type: .*label"):
        work_on(source, tmp_path / "out.parquet", work)
    assert len(list((tmp_path / "out.parquet.chunks").glob("*.parquet"))) == 4


def test_a_parquet_file_has_its_sidecar(source, tmp_path):
    work_on(source, tmp_path / "out.parquet", Doubling(), command="explain")
    contract = Contract.load(tmp_path / "out.parquet")
    assert (contract.layer, contract.d_model, contract.provenance) == (2, 4, {"command": "explain"})
    assert contract.extras["rows"] == 10


@pytest.mark.parametrize("name", ["thesis.tex", "mine.parquet", "folder"])
def test_somebodys_folder_of_that_name_is_left_alone(source, tmp_path, name):
    out = tmp_path / "out.parquet"
    theirs = tmp_path / "out.parquet.chunks" / name
    theirs.parent.mkdir()
    theirs.mkdir() if name == "folder" else theirs.write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(InputError, match=f"holds {name}, which is none"):
            run(
                source,
                10,
                Doubling(),
                Target(out, "parquet", overwrite=overwrite),
                chunk_rows=4,
                made_from={},
                about=ABOUT,
            )
        assert theirs.exists()


def aside_of(rows: set[int]):
    """Chunks made last to first, without these rows."""

    def making(chunk_rows: int):
        def make(given):
            for number, table in reversed(list(given)):
                first = number * chunk_rows
                numbers = range(first, first + table.num_rows)
                kept = [row - first for row in numbers if row not in rows]
                results = Doubling()(table, first).take(pa.array(kept, pa.int64()))
                aside = {row: "it died" for row in numbers if row in rows}
                yield Made(number, table.num_rows, outputs_of(results, aside))

        return make

    return making


def test_rows_that_are_set_aside_are_listed_beside_the_file_until_all_are_done(source, tmp_path):
    target = Target(tmp_path / "out.parquet", "parquet", overwrite=True)
    how = {"chunk_rows": 3, "made_from": {}, "about": ABOUT}
    assert run(source, 10, Doubling(), target, making=aside_of({1, 9}), **how) == 2
    assert pq.read_table(target.out)["row"].to_pylist() == [0, 2, 3, 4, 5, 6, 7, 8]
    lines = [json.loads(line) for line in target.aside.read_text().splitlines()]
    assert lines == [{"row": 1, "error": "it died"}, {"row": 9, "error": "it died"}]
    assert Contract.load(target.out).extras["rows_set_aside"] == 2
    assert run(source, 10, Doubling(), target, **how) == 0
    assert not target.aside.exists() and "rows_set_aside" not in Contract.load(target.out).extras


def test_where_no_row_can_be_done_there_is_no_file_and_the_command_may_try_again(source, tmp_path):
    target = Target(tmp_path / "out.parquet", "parquet")
    how = {"chunk_rows": 3, "made_from": {}, "about": ABOUT}
    with pytest.raises(SetAsideError, match="None of 10 rows could be done"):
        run(source, 10, Doubling(), target, making=aside_of(set(range(10))), **how)
    assert len(target.aside.read_text().splitlines()) == 10
    assert not target.out.exists() and not target.chunks.exists()
    assert run(source, 10, Doubling(), target, **how) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "in.parquet",
        "out.parquet",
        "out.parquet.nla_meta.yaml",
    ]
