"""Rows come in from any file from any row, and what is malformed is refused before any work is done."""

from __future__ import annotations

import base64
import json
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nla_sdk.errors import InputError
from nla_sdk.io.rows.sources import TEXTS, VECTORS, RowSource, open_source
from nla_sdk.io.tables import usable_vectors, vector_column

# DuckDB 2.0.1: copy (values (1, [1, 2, 3]::FLOAT[3]), (2, NULL), (3, [4, 5, 6]::FLOAT[3])) to a parquet file.
DUCKDB = (
    "eNplUc1Kw0AQnt2GNRcPKcySQA5RTIgQSiMWIwj9IXjwVIpHIbTJisH+QJrmXEQ8+BQefQLPPoTPIT6Cs0KhIMw3zDC73zff7ng4iRHwBMMIBR"
    "UCBUA75QAgGKOsqxaBZs8c7yNs7049MfeIBsMPBhWdHDLf7P+0Kh9eGNxu+zQaUBC2hDfC5wC5c9cD+7DY5I/FLFvnD2oxRQOQ+9wWxSrPysI/"
    "hh63rWlel820LlfLrFF5vaqQk2jPsI15ua6RA5p050DN1UIta5DCcZ0oAJckEJwdGXIp5LW8Ccwr29A2bEObkhDudZYFjovaoTarOUzNkfzf4U"
    "97p0ncbfnO5SsLJsSu/em87UsR7nWWJWGfX37TToEpvxiEYUoPkY68RlVrUvGas063E3vhbFPOCy8pLpI4PleX3VMncgEoYEQLj+nPfgHNBE51"
)


@pytest.fixture
def vectors() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(10, 4)).astype(np.float32)


def opened(path: Path, **options) -> RowSource:
    return open_source(str(path), ("activation_vector", "text"), **options)


@pytest.mark.parametrize("form", ["parquet", "npy", "jsonl"])
def test_pieces_of_any_size_from_any_row_are_the_file(vectors, tmp_path, form):
    path = tmp_path / f"acts.{form}"
    if form == "parquet":
        pq.write_table(pa.table({"activation_vector": vector_column(vectors)}), path, row_group_size=4)
    elif form == "npy":
        np.save(path, vectors)
    else:
        path.write_text("\n".join(json.dumps({"activation_vector": vector.tolist()}) for vector in vectors))
    source = opened(path)
    assert source.check() == 10 and source.holds == VECTORS
    for start in (0, 3, 4, 9):
        for size in (1, 3, 4, 100):
            tables = list(source.batches(size, start))
            assert all(table.num_rows == size for table in tables[:-1])
            found = np.concatenate([usable_vectors(table) for table in tables])
            np.testing.assert_array_equal(found, vectors[start:])


def test_a_text_that_ends_like_a_file_name_is_a_text():
    source = open_source("please read notes.txt", ("activation_vector", "text"))
    assert (source.path, source.holds) == (None, TEXTS)


def test_tensor_columns_of_arrow_are_vectors(vectors, tmp_path):
    storage = vector_column(vectors)
    column = pa.ExtensionArray.from_storage(pa.fixed_shape_tensor(pa.float32(), (4,)), storage)
    pq.write_table(pa.table({"activation_vector": column}), tmp_path / "acts.parquet")
    [table] = opened(tmp_path / "acts.parquet").batches(100)
    assert table["activation_vector"].to_pylist() == storage.to_pylist()


@pytest.mark.parametrize("kind", [pa.list_(pa.float32()), pa.list_(pa.float32(), 2), pa.large_list(pa.float64())])
def test_a_row_without_a_vector_is_named_whatever_the_column_and_however_far_down(kind, tmp_path):
    rows = [[1.0, 2.0]] * 700
    rows[613] = None
    pq.write_table(pa.table({"activation_vector": pa.array(rows, kind)}), tmp_path / "a.parquet", row_group_size=300)
    with pytest.raises(InputError, match="a.parquet, row 613: activation_vector is empty; expected a vector"):
        opened(tmp_path / "a.parquet").check()


def test_a_column_of_pickles_is_refused_with_the_reason(tmp_path):
    pq.write_table(pa.table({"activation_vector": [b"\x80\x05."]}), tmp_path / "a.parquet")
    with pytest.raises(InputError, match="'activation_vector' holds binary; .* pickled objects .*--column"):
        opened(tmp_path / "a.parquet")


def test_duckdbs_arrays_with_a_null_are_explained(tmp_path):
    (tmp_path / "a.parquet").write_bytes(zlib.decompress(base64.b64decode(DUCKDB)))
    try:
        pq.read_table(tmp_path / "a.parquet")
    except pa.ArrowInvalid:
        match = r"a.parquet is not a readable parquet file: .*DuckDB .* cast the column to FLOAT\[\]"
    else:  # an Arrow that can
        match = "row 1: activation_vector is empty"
    with pytest.raises(InputError, match=match):
        opened(tmp_path / "a.parquet").check()
