"""Tables of every tool: each type of column, nulls that keep their rows, and what is said beside the vectors."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nla_sdk import vectors
from nla_sdk.errors import ActivationShapeError, EmptyBatchError, InputError
from nla_sdk.io.sidecars import write_sidecar
from nla_sdk.vectors.faults import UnstatedVectorError, VectorFileError
from nla_sdk.vectors.loading import look
from tests.vectors.written import FILES, expected

TOLD = {"kind": "direction", "layer": 3}
ELSEWHERE = [("duckdb", "fixed_null.parquet"), ("pyarrow", "fixed.parquet")]  # unreadable; has tests of its own
READ = [
    (path.parent.name, name)
    for tool in ("duckdb", "pandas", "polars", "pyarrow", "datasets", "ray")
    for path in [FILES / tool / "expected.json"]
    for name in json.loads(path.read_text(encoding="utf-8"))
    if (tool, name) not in ELSEWHERE
]


@pytest.mark.parametrize("tool, name", READ, ids=lambda value: value)
def test_each_row_is_its_own_and_a_null_keeps_its_number_and_its_id(tool, name):
    said, ref = expected(tool, name), FILES / tool / name
    found = look(ref)[2]
    nulls = np.flatnonzero(np.isnan(said["rows"]).all(axis=1))
    assert found.missing == set(nulls) and found.count == len(said["rows"])
    for row, label in enumerate(said["labels"]):
        if row in nulls:
            with pytest.raises(VectorFileError, match=f"no vector in {label} .1 of the rows .* name the others with #"):
                vectors.load(f"{ref}#{label}", **TOLD)
            continue
        for select in (row, label):
            loaded = vectors.load(f"{ref}#{select}", **TOLD)
            assert np.abs(loaded.vectors.numpy() - said["rows"][row]).max() <= 1e-6
            assert loaded.labels == (label,)


def test_rows_come_in_the_order_that_was_asked_for():
    rows = expected("pyarrow", "fixed.parquet")["rows"]
    loaded = vectors.load(f"{FILES / 'pyarrow' / 'fixed.parquet'}#4,0,3")
    assert np.array_equal(loaded.vectors.numpy(), rows[[4, 0, 3]])
    assert loaded.labels == ("eva", "ada", "dora") and loaded.layer == (4, 3, 4)


def test_a_column_of_kinds_says_what_rows_of_our_column_are(tmp_path):
    rows = {"kind": ["direction", None, "direction"], "activation_layer": [3] * 3}
    vectors_of = pa.array([[1.0, 2.0], None, [3.0, 4.0]], pa.list_(pa.float32()))
    pq.write_table(pa.table({**rows, "activation_vector": vectors_of}), path := tmp_path / "explained.parquet")
    assert vectors.load(f"{path}#2").kind == "direction"
    assert vectors.load(f"{path}#2", kind="activation").kind == "activation"
    mixed = {**rows, "kind": ["direction", None, "activation"]}
    pq.write_table(pa.table({**mixed, "activation_vector": vectors_of}), path)
    with pytest.raises(UnstatedVectorError, match="column kind says activation, direction"):
        vectors.load(f"{path}#2")
    pq.write_table(pa.table({**rows, "kind": ["noun", "verb", "noun"], "activation_vector": vectors_of}), path)
    assert vectors.load(f"{path}#2").kind == "activation"  # a column of their own


def test_a_row_keeps_its_number_where_a_layer_is_said(tmp_path):
    layers, rows = [5, 12, 5, 12, 12], [[float(row), 1.0] for row in range(5)]
    pq.write_table(pa.table({"activation_layer": layers, "v": rows}), path := tmp_path / "layers.parquet")
    for how in ({"ref": f"{path}#3@12"}, {"ref": f"{path}#3", "layer": 12}):
        assert vectors.load(**how, kind="direction").vectors[0, 0] == 3
    assert vectors.load(f"{path}#-1,1@12", kind="direction").vectors[:, 0].tolist() == [4, 1]
    assert vectors.load(f"{path}#2:4@12", kind="direction").labels == ("#3",)
    for select in ("2", "0:1"):
        with pytest.raises(InputError, match=f"#{select} is (not )?of the layer that was said; leave one"):
            vectors.load(f"{path}#{select}@12", kind="direction")
    with pytest.raises(InputError, match="there is no #5"):
        vectors.load(f"{path}#5@12", kind="direction")


def test_columns_say_layer_and_model_and_our_column_is_of_activations():
    ref = FILES / "pyarrow" / "fixed.parquet"
    loaded = vectors.load(f"{ref}#0:2")
    assert (loaded.kind, loaded.layer, loaded.model) == ("activation", 3, "ada/base")
    assert vectors.load(f"{ref}@4").labels == ("dora", "eva")
    with pytest.raises(InputError, match="layer 3, 4, none of 7"):
        vectors.load(f"{ref}@7")


def test_what_nobody_says_is_asked():
    with pytest.raises(UnstatedVectorError, match="kind .a column embedding may hold any.*layer .neither a column"):
        vectors.load(FILES / "pandas" / "float32.parquet")
    with pytest.raises(UnstatedVectorError, match="does not say: kind [^;]*activation"):
        vectors.load(FILES / "duckdb" / "list.parquet")  # its column says the layer


def test_a_row_that_does_not_say_its_layer_is_asked_about(tmp_path):
    table = pa.table({"activation_layer": [3, None], "activation_vector": [[1.0, 2.0], [3.0, 4.0]]})
    pq.write_table(table, tmp_path / "t.parquet")
    with pytest.raises(UnstatedVectorError, match="layer .row 1 does not say it"):
        vectors.load(tmp_path / "t.parquet")
    assert vectors.load(tmp_path / "t.parquet", layer=[3, 5]).layer == (3, 5)


def test_a_sidecar_says_it_of_all_rows(tmp_path):
    pq.write_table(pa.table({"activation_vector": [[1.0, 2.0], [3.0, 4.0]]}), tmp_path / "t.parquet")
    write_sidecar(tmp_path / "t.parquet", {"base_model": "ada/base", "layer": 7})
    loaded = vectors.load(tmp_path / "t.parquet")
    assert (loaded.layer, loaded.model, loaded.kind) == (7, "ada/base", "activation")


def test_a_fixed_column_of_duckdb_with_a_null_names_the_cast_that_mends_it():
    with pytest.raises(InputError, match=r"cast the column to FLOAT\[\] there"):
        vectors.load(FILES / "duckdb" / "fixed_null.parquet", **TOLD)


def test_a_column_of_pickles_is_refused_by_name(tmp_path):
    pq.write_table(pa.table({"embedding": [b"\x80\x04N."], "other_vector": [[1.0]]}), tmp_path / "t.parquet")
    with pytest.raises(VectorFileError, match="column 'embedding' holds binary; .*a pickle is never opened here"):
        vectors.load(tmp_path / "t.parquet", **TOLD)
    assert vectors.load(tmp_path / "t.parquet", **TOLD, column="other_vector").vectors.tolist() == [[1.0]]
    with pytest.raises(VectorFileError, match="column 'embedding' holds .*pickle"):
        vectors.load(FILES / "ray" / "pickled.parquet", **TOLD)


@pytest.mark.parametrize("tool", ["pyarrow", "datasets"])
def test_rows_of_two_dimensions_are_refused(tool):
    with pytest.raises(VectorFileError, match=r"shape \(2, 3\)|list<element: list"):
        vectors.load(FILES / tool / "square.parquet", **TOLD)


def test_of_several_columns_one_is_to_be_named(tmp_path):
    table = pa.table({"a": [[1.0]], "b": [[2.0]], "ids": [[3]], "text": ["x"]})
    pq.write_table(table, tmp_path / "t.parquet")
    with pytest.raises(UnstatedVectorError, match="column .*a: list<element: double>; b: "):
        vectors.load(tmp_path / "t.parquet", **TOLD)
    assert vectors.load(tmp_path / "t.parquet", **TOLD, column="b").vectors.tolist() == [[2.0]]
    with pytest.raises(VectorFileError, match="'ids' holds list<element: int64>; expected lists of floats"):
        vectors.load(tmp_path / "t.parquet", **TOLD, column="ids")
    with pytest.raises(InputError, match="no column 'c'; it has a, b, ids, text"):
        vectors.load(tmp_path / "t.parquet", **TOLD, column="c")
    with pytest.raises(VectorFileError, match=r"no column of vectors.*text \(string\)"):
        pq.write_table(table.select(["text"]), tmp_path / "t.parquet")
        vectors.load(tmp_path / "t.parquet", **TOLD)


def test_rows_of_different_widths_are_refused_with_the_row(tmp_path):
    rows = [[1.0, 2.0]] * 300 + [None, [1.0]]
    pq.write_table(pa.table({"vector": rows}), tmp_path / "t.parquet")
    with pytest.raises(ActivationShapeError, match="row 301: the vector has 1 numbers, expected 2"):
        vectors.load(tmp_path / "t.parquet", **TOLD)


def test_json_lines_may_begin_with_nulls_and_hold_whole_numbers(tmp_path):
    rows: list = [None] * 300 + [[1, 2], [0.5, 2]]
    lines = [json.dumps({"id": at} | ({} if row is None else {"vector": row})) for at, row in enumerate(rows)]
    (tmp_path / "t.jsonl").write_text("\n".join(lines), encoding="utf-8")
    found = look(tmp_path / "t.jsonl")[2]
    assert (found.count, found.width, len(found.missing)) == (302, 2, 300)
    loaded = vectors.load(f"{tmp_path / 't.jsonl'}#300:302", **TOLD)
    assert loaded.vectors.tolist() == [[1, 2], [0.5, 2]] and loaded.labels == ("300", "301")


def test_a_table_without_rows_or_without_vectors_says_so(tmp_path):
    empty = pa.table({"vector": pa.array([], pa.list_(pa.float32(), 2))})
    pq.write_table(empty, tmp_path / "t.parquet")
    with pytest.raises(EmptyBatchError, match="holds no rows"):
        vectors.load(tmp_path / "t.parquet", **TOLD)
    pq.write_table(pa.table({"vector": pa.array([None], pa.list_(pa.float32()))}), tmp_path / "t.parquet")
    with pytest.raises(VectorFileError, match="no vector in #0"):
        vectors.load(tmp_path / "t.parquet", **TOLD)
