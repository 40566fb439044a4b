"""Rows go out whole, in each format, and a table beside its sidecar."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nla_sdk.errors import ChunkError, InputError
from nla_sdk.io.files import sha256_of
from nla_sdk.io.rows.formats import encoding_of, json_lines, pick_format, write_stream, write_tables
from nla_sdk.io.sidecars import read_sidecar
from nla_sdk.io.tables import vector_column

VECTORS = np.arange(6, dtype=np.float32).reshape(3, 2) + 1
TABLE = pa.table({"v": vector_column(VECTORS), "name": ["ä", "b", None]})


def written(path: Path, form: str) -> Path:
    pieces = iter([TABLE.slice(0, 2), TABLE.slice(2)])
    write_tables(path, form, pieces, rows=3, vectors="v", hidden=["v"])
    return path


def test_every_format_holds_every_row(tmp_path):
    assert pq.read_table(written(tmp_path / "a.parquet", "parquet")).equals(TABLE)
    np.testing.assert_array_equal(np.load(written(tmp_path / "a.npy", "npy")), VECTORS)
    lines = written(tmp_path / "a.jsonl", "jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == [{"name": "ä"}, {"name": "b"}, {"name": None}]
    listed = json.loads(written(tmp_path / "a.json", "json").read_text(encoding="utf-8"))
    assert [row["name"] for row in listed] == ["ä", "b", None]


def test_nan_becomes_null_in_json():
    assert list(json_lines(pa.table({"a": [math.nan, 1.0], "b": [[math.inf], [2.0]]}))) == [
        '{"a": null, "b": [null]}',
        '{"a": 1.0, "b": [2.0]}',
    ]


def test_a_suffix_says_the_format_unless_one_is_asked_for():
    assert [pick_format(f"a{end}", None) for end in (".PARQUET", ".ndjson")] == ["parquet", "jsonl"]
    assert pick_format("a.parquet", "json") == "json"
    assert pick_format("s3://bucket/a.parquet?region=x", None) == "parquet"
    with pytest.raises(InputError, match="no suffix that says its format"):
        pick_format("a.xlsx", None)


def test_a_stream_is_one_file_with_its_rows_and_hash_beside_it(tmp_path):
    path = write_stream(tmp_path / "a.parquet", [TABLE.slice(0, 1), TABLE.slice(1)], {"stage": "x"})
    assert pq.read_table(path).equals(TABLE)
    about = read_sidecar(path)
    assert (about["rows"], about["sha256"], about["stage"]) == (3, sha256_of(path), "x")


def test_a_stream_of_nothing_needs_a_schema(tmp_path):
    with pytest.raises(ChunkError, match="No rows for a.parquet: everything was dropped ..'short': 3.."):
        write_stream(tmp_path / "a.parquet", [], {"drops": {"short": 3}})
    assert list(tmp_path.iterdir()) == []
    assert pq.read_table(write_stream(tmp_path / "a.parquet", [], {}, TABLE.schema)).schema.equals(TABLE.schema)


@pytest.mark.parametrize("kind", [pa.list_, pa.large_list, lambda of: pa.list_(of, 64)])
@pytest.mark.parametrize("of", [pa.float32(), pa.float16()])
def test_vectors_of_float32_are_split_into_their_bytes_and_all_come_back_as_they_were(kind, of, tmp_path):
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((2000, 64)).astype(of.to_pandas_dtype())
    names = [["a", "b"]] * 2000
    table = pa.table({"v": pa.array(list(vectors), kind(of)), "names": names, "nothing": pa.nulls(2000, kind(of))})
    plain, split = tmp_path / "plain.parquet", tmp_path / "split.parquet"
    pq.write_table(table, plain, compression="zstd", use_dictionary=False)
    pq.write_table(table, split, **encoding_of(table.schema))
    assert pq.read_table(split).equals(table)
    columns = pq.read_metadata(split).row_group(0)
    found = {columns.column(at).path_in_schema.split(".")[0]: columns.column(at).encodings for at in range(3)}
    assert ("BYTE_STREAM_SPLIT" in found["v"]) == (of == pa.float32()) and "BYTE_STREAM_SPLIT" not in found["names"]
    if of == pa.float32():
        assert split.stat().st_size < 0.97 * plain.stat().st_size
