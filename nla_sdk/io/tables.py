"""Tables of activations: the one column of vectors, written and read, and tables joined."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ..errors import (
    ActivationShapeError,
    InputError,
    NonFiniteActivationError,
    TextError,
    ZeroActivationError,
    first_line,
)

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

_VECTOR_NAME = re.compile(r"(^|[_.\s-])(activation|vector|embedding|hidden_?state|residual|reconstruction)s?$")


# --- the column of vectors ----------------------------------------------------------------------------------------
def vector_column(vectors: ArrayLike, there: np.ndarray | None = None) -> pa.FixedSizeListArray:
    """[n, d] → a FixedSizeList<float32>[d] column: variable lists overflow their offsets near 600k rows.

    Args:
        there: bool [n], which rows have a vector; the others are null, whatever `vectors` holds there. None: all.
    """
    array = np.ascontiguousarray(vectors, dtype=np.float32)
    if there is None:
        return pa.FixedSizeListArray.from_arrays(pa.array(array.reshape(-1)), array.shape[1])
    numbers = pa.array(np.where(there[:, None], array, np.float32(0)).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(numbers, array.shape[1], mask=pa.array(~there))


def read_vectors(
    table: pa.Table,
    column: str = "activation_vector",
    *,
    name: str = "the table",
    first: int = 0,
    width: int | None = None,
    nulls_as_nan: bool = False,
) -> np.ndarray:
    """The vectors of a column of any type that tables keep vectors in: float32 [n, d], row by row.

    Types are fixed-size, variable and large lists of numbers, and the tensor columns of Arrow and Ray. The numbers
    themselves may be anything, NaN and zeros too; see `usable_vectors`.

    Args:
        name, first: the file and the number of the table's first row in it, for messages.
        width: d, where it is known.
        nulls_as_nan: a row without a vector is a row of NaN; else it is refused.
    Raises:
        InputError: the column holds something else, or a row has no vector.
        ActivationShapeError: vectors of different widths, of none, or of another one than `width`.
    Example:
        >>> read_vectors(pa.table({"activation_vector": [[1.0, 2.0], [3.0, 4.0]]}))
        array([[1., 2.],
               [3., 4.]], dtype=float32)
    """
    lists = _lists(table, column, name)
    there = lists.is_valid().to_numpy()
    if not there.all() and not nulls_as_nan:
        raise InputError(f"{name}, row {first + int(np.argmin(there))}: {column} is empty; expected a vector.")
    rows, lengths = np.flatnonzero(there), pc.list_value_length(lists).drop_null().to_numpy()
    size = width or (lengths[0] if len(lengths) else getattr(lists.type, "list_size", 0))
    if (lengths != size).any():
        wrong = int(np.argmax(lengths != size))
        where = f"{name}, row {first + rows[wrong]}: "
        if width:
            raise ActivationShapeError(
                f"{where}the {column} has {lengths[wrong]} numbers, expected {width} in every row."
            )
        raise ActivationShapeError(
            f"{where}{column} has {lengths[wrong]} numbers, rows before it {size}; expected one d_model throughout."
        )
    if len(rows) and not size:
        raise ActivationShapeError(f"{name}, row {first + rows[0]}: {column} has no numbers.")
    vectors = _numbers(lists).reshape(len(rows), size)
    if len(rows) == len(there):
        return vectors
    full = np.full((len(there), size), np.nan, dtype=np.float32)
    full[rows] = vectors
    return full


def usable_vectors(
    table: pa.Table, column: str = "activation_vector", *, name: str = "the table", first: int = 0
) -> np.ndarray:
    """As `read_vectors`, and every one has a direction: it is finite and not zero.

    Raises:
        InputError, ActivationShapeError, NonFiniteActivationError, ZeroActivationError: each names the row.
    """
    vectors = read_vectors(table, column, name=name, first=first)
    if not (finite := np.isfinite(vectors).all(axis=1)).all():
        row = first + int(np.argmin(finite))
        raise NonFiniteActivationError(
            f"{name}, row {row}: {column} holds NaN or infinity; it has no direction. float16 extraction overflows "
            "above 65504: extract in bfloat16 or float32."
        )
    if not (nonzero := vectors.any(axis=1)).all():
        row = first + int(np.argmin(nonzero))
        raise ZeroActivationError(f"{name}, row {row}: {column} is all zeros; it has no direction.")
    return vectors


def widths_of(table: pa.Table, column: str = "activation_vector", *, name: str = "the table") -> set[int]:
    """How many numbers the vectors of a column have; a null has none and does not count.

    Raises:
        InputError: the column holds no vectors.
    """
    lists = _lists(table, column, name)
    if pa.types.is_fixed_size_list(lists.type):
        return {lists.type.list_size}
    return set(pc.unique(pc.list_value_length(lists)).drop_null().to_pylist())


def holds_vectors(field: pa.Field) -> bool:
    """Whether a column's type is one of those that `read_vectors` knows."""
    kind = _storage(field.type)
    lists = pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind) or pa.types.is_large_list(kind)
    if not lists or len(_tensor_shape(field)) > 1:
        return False
    return pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type)


def holds_texts(field: pa.Field) -> bool:
    """Whether a column is one of strings, dictionaries of them too."""
    kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def promises_vectors(column: str) -> bool:
    """Whether a column is called as columns of vectors are.

    Example:
        >>> [promises_vectors(one) for one in ("activation_vector", "embedding", "activation_layer", "text")]
        [True, True, False, False]
    """
    return bool(_VECTOR_NAME.search(re.sub(r"(?<=[a-z])(?=[A-Z])", "_", column).lower()))


def texts_of(table: pa.Table, column: str, *, name: str = "the table", first: int = 0) -> list[str | None]:
    """The texts of a column, None where there is none.

    Args:
        name, first: the file and the number of the table's first row in it, for messages.
    Raises:
        InputError: the column holds no texts.
        TextError: bytes that are no UTF-8, which Arrow does not look at; names the row.
    """
    field = table.schema.field(column)
    if not holds_texts(field) and not pa.types.is_null(field.type):
        raise InputError(f"{name}: {column} is a column of {field.type}; expected texts.")
    try:
        return table[column].to_pylist()
    except UnicodeDecodeError:
        for row, text in enumerate(table[column], first):
            try:
                text.as_py()
            except UnicodeDecodeError as error:
                raise TextError(
                    f"{name}, row {row}: {column} is not UTF-8 ({error.reason}). Leave the row out, or write it again."
                ) from None
        raise


def why_not_vectors(field: pa.Field) -> str:
    """What there is to say of a column that `holds_vectors` is False for, as a sentence to append; may be empty."""
    kind = _storage(field.type)
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind):
        return (
            " Ray Data writes pickled objects where a row has no vector, and a pickle is never opened here, as that "
            "would run its code: write the table again without those rows."
        )
    if len(shape := _tensor_shape(field)) > 1:
        return f" Its rows are arrays of shape {tuple(shape)}: write one vector a row."
    return ""


def why_unreadable(error: Exception) -> str:
    """What Arrow says of a parquet file that it cannot read, and what mends it where that is known."""
    reason = first_line(error)
    if "list offsets" in reason and "values array" in reason:
        reason += (
            ". DuckDB writes a column FLOAT[n] with a NULL in it so that Arrow cannot read it: cast the column to "
            "FLOAT[] there, or leave those rows out, and write the file again"
        )
    return reason


def _lists(table: pa.Table, column: str, name: str) -> pa.ChunkedArray:
    """The column as plain lists, without the extension type around them."""
    field = table.schema.field(column)
    if not holds_vectors(field):
        raise InputError(
            f"{name}: {column} is a column of {field.type}; expected lists of float32.{why_not_vectors(field)}"
        )
    chunks = (chunk.storage if isinstance(chunk, pa.ExtensionArray) else chunk for chunk in table[column].chunks)
    return pa.chunked_array(chunks, type=_storage(field.type))


def _numbers(lists: pa.ChunkedArray) -> np.ndarray:
    """All numbers of all lists in order, float32; a missing number is NaN."""
    # Nulls go before the lists are flattened: flatten() knows nothing of the slots a null has in a fixed-size list.
    # Chunk by chunk: variable lists of many rows cannot be one array, their offsets overflow.
    chunks = (chunk.drop_null() if chunk.null_count else chunk for chunk in lists.chunks)
    with np.errstate(over="ignore"):
        flat = [np.asarray(chunk.flatten().to_numpy(zero_copy_only=False), dtype=np.float32) for chunk in chunks]
    return flat[0] if len(flat) == 1 else np.concatenate([np.empty(0, np.float32), *flat])


def _storage(kind: pa.DataType) -> pa.DataType:
    return kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind


def _tensor_shape(field: pa.Field) -> Sequence[int]:
    """The shape of each row's tensor; () of a column of lists, and of tensors that say nothing of theirs."""
    if isinstance(field.type, pa.BaseExtensionType):
        return getattr(field.type, "shape", None) or ()
    about = field.metadata or {}
    if b"tensor" not in about.get(b"ARROW:extension:name", b""):  # Ray's types, where Ray is not installed
        return ()
    try:
        shape = json.loads(about.get(b"ARROW:extension:metadata", b""))
    except ValueError:
        return ()
    return shape if isinstance(shape, list) else ()


# --- files of others ----------------------------------------------------------------------------------------------
@contextmanager
def parquet_of(path: Path) -> Iterator[None]:
    """Whatever Arrow cannot read inside the block is an error of the file `path`.

    Raises:
        InputError: it is missing, damaged, or no parquet file.
    """
    try:
        yield
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; expected a parquet file.") from None
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path} is not a readable parquet file: {why_unreadable(error)}") from error


def open_parquet(path: Path) -> pq.ParquetFile:
    """A parquet file, opened; InputError as `parquet_of`."""
    with parquet_of(path):
        return pq.ParquetFile(path)


def batches_of(path: Path, size: int, columns: Sequence[str]) -> Iterator[pa.Table]:
    """Columns of a parquet file, at most `size` rows at a time; InputError as `parquet_of`."""
    file = open_parquet(path)
    with parquet_of(path):
        for batch in file.iter_batches(batch_size=size, columns=list(columns)):
            yield pa.Table.from_batches([batch])


def read_table(path: Path, columns: Sequence[str] | None = None, texts: Sequence[str] = ()) -> pa.Table:
    """A parquet file in memory.

    Args:
        columns: those that are read, each of which must be there; None: all.
        texts: columns that must be there and hold a text in every row.
    Raises:
        InputError: as `parquet_of`; a column is missing or holds something else.
    """
    with parquet_of(path):
        names = pq.read_schema(path).names
        if missing := [name for name in dict.fromkeys([*(columns or ()), *texts]) if name not in names]:
            raise InputError(f"{path} has no column {', '.join(missing)}; it has {', '.join(names)}.")
        table = pq.read_table(path, columns=None if columns is None else list(columns))
    require_texts(table, texts, str(path))
    return table


def require_texts(table: pa.Table, columns: Sequence[str], name: str, first: int = 0, *, missing: bool = False) -> None:
    """Every one of these columns holds a text in every row.

    Args:
        missing: rows may lack one.
        name, first: the file and the number of the table's first row in it, for messages.
    Raises:
        InputError: names the column, and the row.
    """
    for column in columns:
        found, kind = table[column], table[column].type
        kind = kind.value_type if pa.types.is_dictionary(kind) else kind
        if table.num_rows > found.null_count and not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
            raise InputError(f"{name}: {column} is a column of {found.type}; expected texts.")
        if found.null_count and not missing:
            row = first + pc.index(found.is_null(), True).as_py()
            raise InputError(f"{name}, row {row}: {column} is null; expected a text.")


# --- tables joined ------------------------------------------------------------------------------------------------
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
    if len(tables) == 1:
        return tables[0]  # one without columns keeps its rows, which Arrow's joining forgets
    unified([table.schema for table in tables], "the input: a column changes its type from row to row")
    return pa.concat_tables(tables, promote_options="permissive")


def unified(schemas: Sequence[pa.Schema], complaint: str) -> pa.Schema:
    """The schema that all tables of these can be cast to.

    Args:
        complaint: how the message begins if there is none.
    Raises:
        InputError: a column is of types that do not go together.
    """
    try:
        return pa.unify_schemas(schemas, promote_options="permissive")
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise InputError(f"{complaint}: {first_line(error)}") from None


def conform(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """`table` with the schema's columns, null where it has none."""
    columns = [
        table[field.name].cast(field.type) if field.name in table.column_names else pa.nulls(table.num_rows, field.type)
        for field in schema
    ]
    return pa.table(columns, schema=schema)
