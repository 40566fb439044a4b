"""Tables of activations: the one column of vectors, written and read, and tables joined."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..errors import ActivationShapeError, InputError, NonFiniteActivationError, ZeroActivationError, first_line


def vector_column(vectors) -> pa.FixedSizeListArray:
    """[n, d] → a FixedSizeList<float32>[d] column."""
    array = np.ascontiguousarray(vectors, dtype=np.float32)
    return pa.FixedSizeListArray.from_arrays(pa.array(array.reshape(-1)), array.shape[1])


def usable_vectors(table: pa.Table, column: str, *, name: str = "the table", first: int = 0) -> np.ndarray:
    """The vectors of a list column: float32 [n, d], finite and not zero.

    Args:
        name, first: the file and the number of the table's first row in it, for messages.
    Raises:
        InputError, ActivationShapeError, NonFiniteActivationError, ZeroActivationError: each names the row.
    """
    values = table[column].combine_chunks()
    if values.null_count:
        row = first + int(np.argmax(values.is_null().to_numpy(zero_copy_only=False)))
        raise InputError(f"{name}, row {row}: {column} is empty; expected a vector.")
    lengths = np.asarray(pc.list_value_length(values))
    if (lengths != lengths[0]).any():
        row = int(np.argmax(lengths != lengths[0]))
        raise ActivationShapeError(
            f"{name}, row {first + row}: {column} has {lengths[row]} numbers, rows before it {lengths[0]}; expected "
            "one d_model throughout."
        )
    if not lengths[0]:
        raise ActivationShapeError(f"{name}, row {first}: {column} has no numbers.")
    with np.errstate(over="ignore"):
        flat = np.asarray(values.flatten().to_numpy(zero_copy_only=False), dtype=np.float32)
    vectors = flat.reshape(len(values), -1)
    if not (finite := np.isfinite(vectors).all(axis=1)).all():
        row = first + int(np.argmin(finite))
        raise NonFiniteActivationError(f"{name}, row {row}: {column} holds NaN or infinity; it has no direction.")
    if not (nonzero := vectors.any(axis=1)).all():
        row = first + int(np.argmin(nonzero))
        raise ZeroActivationError(f"{name}, row {row}: {column} is all zeros; it has no direction.")
    return vectors


def rechunk(tables: Iterator[pa.Table], size: int) -> Iterator[pa.Table]:
    """The same rows in tables of `size` (the last one of fewer).

    Raises:
        InputError: a column changes its type on the way.
    """
    held: list[pa.Table] = []
    rows = 0
    for table in tables:
        while table.num_rows:
            held.append(table.slice(0, size - rows))
            table = table.slice(size - rows)
            rows += held[-1].num_rows
            if rows == size:
                yield _joined(held)
                held, rows = [], 0
    if held:
        yield _joined(held)


def _joined(tables: list[pa.Table]) -> pa.Table:
    unified([table.schema for table in tables], "the input")
    return pa.concat_tables(tables, promote_options="permissive")


def unified(schemas: list[pa.Schema], name: str) -> pa.Schema:
    try:
        return pa.unify_schemas(schemas, promote_options="permissive")
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise InputError(f"{name}: a column changes its type from row to row: {first_line(error)}") from None


def read_vectors(table, column: str = "activation_vector"):
    """A FixedSizeList (or list) column → float32 [n, d]."""
    values = table[column].combine_chunks()
    flat = values.flatten().to_numpy(zero_copy_only=False)
    return np.asarray(flat, dtype=np.float32).reshape(len(values), -1)
