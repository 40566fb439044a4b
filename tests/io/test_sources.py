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

from nla_sdk.errors import InputError, TextError
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


# --- what a column's name promises --------------------------------------------------------------------------------
def saved(path: Path, **columns) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


FLOATS, STRINGS, TEXT = [[1.0, 2.0]] * 2, ["[1.0, 2.0]"] * 2, ["a cat", "a dog"]


@pytest.mark.parametrize(
    ("columns", "column", "says"),
    [
        ({"activation_vector": STRINGS}, None, "'activation_vector' holds texts; under this name vectors are expected"),
        ({"activation_vector": TEXT, "text": TEXT}, None, "'activation_vector' holds texts"),
        ({"my_embedding": TEXT}, "my_embedding", "'my_embedding' holds texts"),
        ({"hiddenStates": TEXT}, "hiddenStates", "'hiddenStates' holds texts"),
        ({"text": STRINGS}, None, "row 0: text holds a list written out as text"),
        ({"numbers": STRINGS}, "numbers", "row 0: numbers holds a list written out"),
        ({"text": TEXT, "vector": FLOATS}, None, r"has texts \(text\) and vectors \(vector\); say which"),
        ({"text": FLOATS}, None, "column 'text' holds vectors; .* say --column text"),
        ({"text": [1, 2]}, None, "column 'text' holds int64; expected vectors or texts"),
        ({"text": [True, False]}, None, "holds bool"),
        ({"text": [{"a": 1}] * 2}, None, "holds struct"),
        ({"text": [["a"], ["b"]]}, None, "holds list"),
        ({"text": [None, None]}, None, "column 'text' is null"),
        ({"activation_vector": [None, None]}, None, "column 'activation_vector' is null"),
        ({"activation_vector": [[[1.0]], [[2.0]]]}, None, "holds list"),
        ({"text": TEXT}, "activation_vector", "no column 'activation_vector'"),
    ],
)  # fmt: skip
def test_a_column_is_what_its_name_promises_or_refused(tmp_path, columns, column, says):
    with pytest.raises(InputError, match=f"a.parquet.*{says}"):
        opened(saved(tmp_path / "a.parquet", **columns), column=column)
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(InputError, match=f"a.jsonl.*{says}"):
        opened(tmp_path / "a.jsonl", column=column)


def test_a_column_that_is_named_is_read_beside_others_and_lists_within_texts_are_texts(tmp_path):
    both = saved(tmp_path / "a.parquet", text=["[1] as cited", "[2, 3]"], vector=FLOATS, note=[None, "[1]"])
    assert opened(both, column="text").holds == TEXTS
    assert opened(both, column="vector").holds == VECTORS
    assert opened(saved(tmp_path / "b.parquet", text=FLOATS), column="text").check() == 2


KINDS = {
    "string": (pa.string(), "a"),
    "large": (pa.large_string(), "a"),
    "view": (pa.string_view(), "a"),
    "dictionary": (pa.dictionary(pa.int8(), pa.string()), "a"),
    "int": (pa.int8(), 1),
    "double": (pa.float64(), 1.5),
    "bool": (pa.bool_(), True),
    "binary": (pa.binary(), b"a"),
    "floats": (pa.list_(pa.float16()), [1.0]),
    "fixed": (pa.list_(pa.float32(), 2), [1.0, 2.0]),
    "ints": (pa.large_list(pa.int16()), [1]),
    "words": (pa.list_(pa.string()), ["a"]),
    "struct": (pa.struct({"a": pa.int8()}), {"a": 1}),
    "date": (pa.date32(), 1),
    "null": (pa.null(), None),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["activation_vector", "text", "x"])
def test_a_column_of_any_type_under_any_name_is_read_as_what_it_is_or_refused(tmp_path, name, kind):
    arrow, value = KINDS[kind]
    path = saved(tmp_path / "a.parquet", **{name: pa.array([value] * 3, arrow)})
    texts = kind in ("string", "large", "view", "dictionary")
    allowed = {"activation_vector": () if texts else (VECTORS,), "text": (TEXTS,), "x": (VECTORS, TEXTS)}[name]
    expected = TEXTS if texts else VECTORS if kind in ("floats", "fixed", "ints") else None
    try:
        source = opened(path, column="x" if name == "x" else None)
        found = source.holds if source.check() == 3 else None
    except InputError:
        found = None
    assert found == (expected if expected in allowed else None)


# --- text as it comes ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("row", "says"),
    [
        ('{"text": "caf\\ud83d e"}', "line 3: 'text' holds half a surrogate pair"),
        ('{"text": "a", "tags": ["x", "\\uDC00"]}', "line 3: 'tags' holds half"),
        ('{"text": "a", "\\udfff": 1}', "line 3: a key holds half"),
        ('{"text": "a\\u0000b"}', r"row 1: text holds a NUL character \('.x00' after 'a'\)"),
        ('{"text": "\\ufeffa"}', "row 1: text holds a byte order mark"),
        ('{"text": null}', "row 1: text is null"),
        ('{"text": ""}', "row 1: text is empty"),
        ('{"other": 1}', "row 1: text is null"),
        ('{"text": ' + "9" * 5000 + "}", "line 3: not JSON"),
        ("[" * 100_000, "line 3: not JSON"),
    ],
)
def test_a_row_that_is_no_text_is_named_before_any_work(tmp_path, row, says):
    (tmp_path / "a.jsonl").write_text('{"text": "good \\ud83d\\ude00 \\ufeff"}\n\n' + row + "\n")
    with pytest.raises(InputError, match=f"a.jsonl, {says}"):
        opened(tmp_path / "a.jsonl").check()


def test_a_row_far_down_without_the_column_is_refused(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n' * 256 + '{"other": "b"}\n' * 10)
    with pytest.raises(InputError, match="a.jsonl: rows 256 to 265 have no text"):
        opened(tmp_path / "a.jsonl").check()


def test_objects_without_keys_are_rows_too(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n' * 256 + "{}\n" * 256 + '{"text": "b"}\n')
    with pytest.raises(InputError, match="a.jsonl: rows 256 to 511 have no text"):
        opened(tmp_path / "a.jsonl").check()


def test_marks_at_the_beginning_of_a_file_and_of_files_appended_to_it_are_no_content(tmp_path):
    line = '\ufeff{"text": "The cat"}\n'
    (tmp_path / "a.jsonl").write_text(line * 2, encoding="utf-8")
    (tmp_path / "a.txt").write_text("\ufeffThe cat\n", encoding="utf-8")
    for name, rows in (("a.jsonl", 2), ("a.txt", 1)):
        source = opened(tmp_path / name)
        assert source.check() == rows
        assert [text for table in source.batches(9) for text in table["text"].to_pylist()] == ["The cat"] * rows
    (tmp_path / "b.txt").write_text("\ufeff\ufeffThe cat\n", encoding="utf-8")
    with pytest.raises(TextError, match="b.txt, row 0: text holds a byte order mark"):
        opened(tmp_path / "b.txt").check()


def test_bytes_that_are_no_utf8_in_a_column_of_strings_are_named(tmp_path):
    texts = pa.array([b"good", b"caf\xe9"], pa.binary())
    texts = pa.Array.from_buffers(pa.string(), 2, texts.buffers())  # as writers do that do not look
    pq.write_table(pa.table({"text": texts}), tmp_path / "a.parquet")
    with pytest.raises(TextError, match="a.parquet, row 1: text is not UTF-8"):
        opened(tmp_path / "a.parquet").check()


def test_float16_that_overflowed_is_explained_with_its_row(tmp_path):
    with np.errstate(over="ignore"):
        np.save(tmp_path / "a.npy", np.array([[1.0, 2.0], [1e5, 2.0]]).astype(np.float16))
    with pytest.raises(InputError, match="a.npy, row 1: .*infinity.*overflows above 65504: extract in bfloat16"):
        opened(tmp_path / "a.npy").check()


def test_a_npz_file_under_the_name_of_a_npy_file_and_vectors_of_no_width_are_refused(tmp_path):
    with (tmp_path / "a.npy").open("wb") as file:
        np.savez(file, layer12=np.ones(3))
    with pytest.raises(InputError, match="a.npy is a .npz file: np.save one of its arrays as .npy: layer12"):
        opened(tmp_path / "a.npy")
    np.save(tmp_path / "b.npy", np.ones((3, 0)))
    with pytest.raises(InputError, match=r"b.npy holds float64 of shape \(3, 0\)"):
        opened(tmp_path / "b.npy")
