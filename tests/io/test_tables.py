"""The one reader of a column of vectors knows every type that tables keep them in, and every row it names is right."""

from __future__ import annotations

import json
import math
import pickle

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nla_sdk.errors import ActivationShapeError, InputError, NonFiniteActivationError, ZeroActivationError
from nla_sdk.io.tables import (
    conform,
    holds_vectors,
    read_vectors,
    rechunk,
    unified,
    usable_vectors,
    vector_column,
    widths_of,
)

NUMBERS = {"half": pa.float16(), "float": pa.float32(), "double": pa.float64(), "int": pa.int32()}
LISTS = ("fixed", "list", "large", "tensor", "ray")


def column_of(rows: list, lists: str, numbers: str) -> tuple[pa.Array, dict | None]:
    """A column of the rows, and what its field says of itself."""
    kind = NUMBERS[numbers]
    width = next((len(row) for row in rows if row is not None), 2)
    if lists == "fixed":
        return pa.array(rows, pa.list_(kind, width)), None
    if lists == "tensor":
        storage = pa.array(rows, pa.list_(kind, width))
        return pa.ExtensionArray.from_storage(pa.fixed_shape_tensor(kind, (width,)), storage), None
    if lists == "ray":  # its extension type, where Ray is not installed: the storage, and a note on the field
        name, about = b"ray.data.arrow_tensor_v2", json.dumps([width]).encode()
        return pa.array(rows, pa.large_list(kind)), {b"ARROW:extension:name": name, b"ARROW:extension:metadata": about}
    return pa.array(rows, pa.list_(kind) if lists == "list" else pa.large_list(kind)), None


def table_of(pieces: list[list], lists: str, numbers: str, start: int = 0, stop: int | None = None) -> pa.Table:
    """A table of one chunk a piece, cut to the rows from `start` to `stop`."""
    made = [column_of(piece, lists, numbers) for piece in pieces]
    field = pa.field("activation_vector", made[0][0].type, metadata=made[0][1])
    table = pa.table([pa.chunked_array([array for array, _ in made])], schema=pa.schema([field]))
    return table.slice(start, None if stop is None else stop - start)


@st.composite
def tables(draw):
    """(pieces, list type, number type, first row, row after the last): rows of small whole numbers, exact in any."""
    width = draw(st.integers(1, 4))
    vector = st.lists(st.integers(-9, 9), min_size=width, max_size=width)
    # One row of numbers at least in every piece, so that each knows its width.
    piece = st.tuples(st.lists(st.none() | vector, max_size=4), vector, st.lists(st.none() | vector, max_size=4))
    pieces = draw(st.lists(piece.map(lambda parts: [*parts[0], parts[1], *parts[2]]), min_size=1, max_size=3))
    count = sum(map(len, pieces))
    start = draw(st.integers(0, count - 1))
    return (
        pieces,
        draw(st.sampled_from(LISTS)),
        draw(st.sampled_from([*NUMBERS])),
        start,
        draw(st.integers(start, count)),
    )


@settings(deadline=None, max_examples=300)
@given(tables())
@example(([[[1, 2], None, [3, 4], None]], "fixed", "float", 1, 4))
@example(([[None, [1, 2]], [[3, 4], None]], "list", "half", 0, 3))
def test_the_vectors_are_those_that_plain_python_counts(made):
    pieces, lists, numbers, start, stop = made
    rows = [row for piece in pieces for row in piece][start:stop]
    table, width = table_of(*made), len(next(row for row in pieces[0] if row is not None))
    assert holds_vectors(table.schema.field(0))
    expected = [[math.nan] * width if row is None else row for row in rows]
    found = read_vectors(table, nulls_as_nan=True)
    assert found.dtype == np.float32 and len(found) == len(rows)
    if any(row is not None for row in rows):  # a variable list of nothing but nulls has no width
        np.testing.assert_array_equal(found, np.array(expected, np.float32).reshape(len(rows), width))
        assert widths_of(table) == {width}
    if None in rows:
        with pytest.raises(InputError, match=rf"^acts, row {100 + rows.index(None)}: activation_vector is empty; exp"):
            read_vectors(table, name="acts", first=100)
    elif rows:
        np.testing.assert_array_equal(read_vectors(table, width=width), np.array(rows, np.float32))


@settings(deadline=None, max_examples=100)
@given(tables(), st.data())
def test_the_row_without_a_direction_is_the_first_one(made, data):
    pieces, lists, numbers, start, stop = made
    pieces = [[row for row in piece if row is not None] for piece in pieces]
    rows = [row for piece in pieces for row in piece][start:stop]
    table = table_of(pieces, lists, numbers, start, stop)
    zero = next((number for number, row in enumerate(rows) if not any(row)), None)
    if zero is None:
        assert len(usable_vectors(table)) == len(rows)
        return
    with pytest.raises(ZeroActivationError, match=rf"row {7 + zero}: activation_vector is all zeros"):
        usable_vectors(table, first=7)


@pytest.mark.parametrize("lists", ["list", "large"])
def test_the_row_of_another_width_is_named_past_nulls(lists):
    pieces = [[None, [1.0, 2.0]], [[3.0, 4.0], None, [5.0], [6.0, 7.0]]]
    with pytest.raises(
        ActivationShapeError, match="^acts, row 14: activation_vector has 1 numbers, rows before it 2; "
    ):
        read_vectors(table_of(pieces, lists, "float"), name="acts", first=10, nulls_as_nan=True)
    with pytest.raises(ActivationShapeError, match="^acts, row 4: the activation_vector has 1 numbers, expected 2 in "):
        read_vectors(table_of(pieces, lists, "float"), name="acts", width=2, nulls_as_nan=True)
    assert widths_of(table_of(pieces, lists, "float")) == {1, 2}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e300])
@pytest.mark.parametrize("lists", LISTS)
def test_what_is_not_finite_as_float32_is_named(lists, value):
    table = table_of([[[1.0, 2.0]], [[3.0, 4.0], [5.0, value]]], lists, "double")
    with pytest.raises(NonFiniteActivationError, match="row 2: activation_vector holds NaN or infinity"):
        usable_vectors(table)
    assert read_vectors(table).shape == (3, 2)


def test_a_missing_number_is_no_number():
    with pytest.raises(NonFiniteActivationError, match="row 1"):
        usable_vectors(pa.table({"activation_vector": pa.array([[1, 2], [None, 3]], pa.list_(pa.float32(), 2))}))


def test_vectors_of_no_numbers_and_tables_of_no_rows():
    with pytest.raises(ActivationShapeError, match="row 0: activation_vector has no numbers"):
        read_vectors(pa.table({"activation_vector": pa.array([[], []], pa.list_(pa.float32()))}))
    empty = pa.table({"activation_vector": pa.array([], pa.list_(pa.float32(), 3))})
    assert read_vectors(empty).shape == usable_vectors(empty).shape == (0, 3)
    nulls = pa.table({"activation_vector": pa.array([None, None], pa.list_(pa.float32(), 3))})
    assert np.isnan(read_vectors(nulls, nulls_as_nan=True)).all() and widths_of(nulls) == {3}


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary()])
def test_pickled_bytes_are_refused_with_the_reason_and_never_opened(kind, tmp_path):
    class Bomb:
        def __reduce__(self):
            return (tmp_path.joinpath("opened").touch, ())

    table = pa.table({"activation_vector": pa.array([pickle.dumps(Bomb())], kind)})
    with pytest.raises(InputError, match=f"activation_vector is a column of {kind}; .*Ray Data writes pickled objects"):
        read_vectors(table)
    assert not (tmp_path / "opened").exists()


@pytest.mark.parametrize(
    "column",
    [
        pa.array(["[1.0]"]),
        pa.array([[["a"]]]),
        pa.array([["a"]]),
        pa.array([[True]]),
        pa.array([1.0]),
        pa.array([{"data": [1.0], "shape": [1]}]),  # Ray's tensors of different shapes
    ],
)
def test_what_holds_no_vectors_is_refused_by_its_type(column):
    table = pa.table({"activation_vector": column})
    assert not holds_vectors(table.schema.field(0))
    with pytest.raises(InputError, match="is a column of .*; expected lists of float32"):
        read_vectors(table)


def test_a_tensor_of_several_dimensions_is_no_vector():
    storage = pa.array([[1.0, 2.0, 3.0, 4.0]], pa.list_(pa.float32(), 4))
    arrow = pa.table({"v": pa.ExtensionArray.from_storage(pa.fixed_shape_tensor(pa.float32(), (2, 2)), storage)})
    about = {b"ARROW:extension:name": b"ray.data.arrow_tensor", b"ARROW:extension:metadata": b"[2, 2]"}
    ray = pa.table([storage], schema=pa.schema([pa.field("v", storage.type, metadata=about)]))
    for table in (arrow, ray):
        with pytest.raises(InputError, match=r"rows are arrays of shape \(2, 2\): write one vector a row"):
            read_vectors(table, "v")


@pytest.mark.parametrize("lists", LISTS)
def test_parquet_keeps_all_of_them(tmp_path, lists):
    table = table_of([[[1, 2], None], [[3, 4]]], lists, "float")
    pq.write_table(table, tmp_path / "t.parquet")
    found = read_vectors(pq.read_table(tmp_path / "t.parquet"), nulls_as_nan=True)
    np.testing.assert_array_equal(found, np.array([[1, 2], [np.nan, np.nan], [3, 4]], np.float32))


def test_what_is_written_is_read(tmp_path):
    vectors = np.random.default_rng(0).normal(size=(5, 3))
    for given_as in (vectors, np.asfortranarray(vectors), vectors[::-1][::-1], vectors.astype(np.float16)):
        column = vector_column(given_as)
        assert column.type == pa.list_(pa.float32(), 3)
        found = read_vectors(pa.table({"v": column}), "v")
        np.testing.assert_array_equal(found, np.asarray(given_as, np.float32))


# --- tables joined ----------------------------------------------------------------------------------------------------
@given(st.lists(st.integers(0, 5), max_size=6), st.integers(1, 7))
def test_tables_of_any_sizes_are_the_same_rows_in_steps(sizes, step):
    rows = iter(range(sum(sizes)))
    made = [pa.table({"n": pa.array([next(rows) for _ in range(size)], pa.int64())}) for size in sizes]
    found = list(rechunk(iter(made), step))
    assert [row for table in found for row in table["n"].to_pylist()] == list(range(sum(sizes)))
    assert all(table.num_rows == step for table in found[:-1])


def test_columns_that_differ_are_joined_where_types_go_together():
    whole, half = pa.table({"a": [1]}), pa.table({"a": [0.5], "b": ["x"]})
    schema = unified([whole.schema, half.schema], "this")
    assert conform(whole, schema).to_pylist() == [{"a": 1.0, "b": None}]
    assert conform(half, schema).to_pylist() == [{"a": 0.5, "b": "x"}]
    with pytest.raises(InputError, match="^out.parquet cannot be one table: .*int64 vs string"):
        unified([whole.schema, pa.table({"a": ["x"]}).schema], "out.parquet cannot be one table")
