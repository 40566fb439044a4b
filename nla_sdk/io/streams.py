"""Activations, texts and explanations in and out of files: .npy, parquet, JSON lines, plain text, stdin.

Rows travel as pyarrow tables of bounded size, whatever the file's. A row's vector is always FixedSizeList<float32>[d]
(variable lists overflow their offsets near 600k rows); columns this package knows nothing about are carried along.
"""

from __future__ import annotations

import atexit
import hashlib
import json
import math
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ..errors import (
    ActivationShapeError,
    EmptyBatchError,
    InputError,
    NonFiniteActivationError,
    ZeroActivationError,
    first_line,
)

VECTORS, TEXTS = "vectors", "texts"
READ_SUFFIXES = (".npy", ".parquet", ".jsonl", ".ndjson", ".txt")
FORMATS = {".parquet": "parquet", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".npy": "npy"}
ROWS_PER_READ = 256
ROWS_PER_GROUP = 4096

Reader = Callable[[int], Iterator[pa.Table]]
"""Tables of consecutive rows, from the row given."""


# --- in ---------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Source:
    """Rows to work on.

    Attributes:
        name: what to call it in messages.
        path: the file it is read from; None for a text of the command line.
        column: holds the vectors or the texts.
        holds: VECTORS or TEXTS.
        read: its rows.
    """

    name: str
    path: Path | None
    column: str
    holds: str
    read: Reader

    def batches(self, size: int, start: int = 0) -> Iterator[pa.Table]:
        """Tables of `size` rows (the last one of fewer), from row `start`; vectors as FixedSizeList<float32>."""
        row = start
        for table in rechunk(self.read(start), size):
            if self.holds == VECTORS:
                column = vector_column(vectors_of(table, self.column, name=self.name, first=row))
                table = table.set_column(table.column_names.index(self.column), self.column, column)
            yield table
            row += table.num_rows

    def check(self, *, empty_texts: bool = False) -> int:
        """Read all of it once and count the rows, so that what is malformed is refused before any work is done.

        Args:
            empty_texts: whether the empty string is a text.
        Raises:
            InputError, and its kinds: each names the row.
        """
        rows, width, schema = 0, None, None
        for table in self.batches(ROWS_PER_READ):
            if self.path and self.path.suffix != ".parquet":
                schema = _unified([schema or table.schema, table.schema], self.name)
            if self.holds == VECTORS:
                found = table[self.column].type.list_size
                if width not in (None, found):
                    raise ActivationShapeError(
                        f"{self.name}: the vectors have {width} numbers before row {rows} and {found} after it; "
                        "expected one d_model throughout."
                    )
                width = found
            else:
                for number, text in enumerate(table[self.column].to_pylist(), rows):
                    if text is None or not (text or empty_texts):
                        raise InputError(f"{self.name}, row {number}: {self.column} is empty; expected a text.")
            rows += table.num_rows
        if not rows:
            raise EmptyBatchError(f"{self.name} holds no rows; expected at least one.")
        return rows

    def identity(self) -> dict[str, int | str]:
        """Size and SHA-256 of what is read."""
        if self.path is None:
            content = "".join(text for table in self.read(0) for text in table[self.column].to_pylist()).encode()
            return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        return {"bytes": self.path.stat().st_size, "sha256": sha256_of(self.path)}


def open_source(
    given: str,
    columns: Sequence[str],
    *,
    column: str | None = None,
    holds: Sequence[str] = (VECTORS, TEXTS),
    lines: bool = False,
) -> Source:
    """Find out what a command was given: a file by its suffix, `-` for stdin, anything else a text.

    Args:
        given: INPUT as typed.
        columns: names under which the rows' content is looked for, in this order.
        column: the name, if the user says it.
        holds: what is accepted.
        lines: plain text holds one text a line; else it is one text.
    Raises:
        InputError: no such file, not readable, no such column, or it holds something else.
    """
    default = column or next((name for name in columns if name != "activation_vector"), "text")
    if given == "-":
        path, suffix, name = *_spool_stdin(), "stdin"
    else:
        path, suffix, name = Path(given), Path(given).suffix.lower(), given
        spaced = any(character.isspace() for character in given)
        if not _is_file(path) and (spaced or suffix not in READ_SUFFIXES):
            if not given:
                raise InputError("The text is empty. Pass a text, a file or - for stdin.")
            return Source("the text", None, default, TEXTS, _rows_of([pa.table({default: [given]})]))
        if suffix not in READ_SUFFIXES:
            raise InputError(
                f"{given} is a file of a kind that is not read here; expected {', '.join(READ_SUFFIXES)}. To take its "
                f"content as text, pass - and redirect it: - < {given}"
            )
    try:
        if suffix == ".npy":
            read, column = _npy(path, name), "activation_vector"
        elif suffix == ".parquet":
            read = _parquet(path)
        elif suffix == ".txt":
            read, column = _plain(path, name, default, lines), default
        else:
            read = _json_lines(path, name)
        first = next(read(0), None)
    except pa.ArrowInvalid as error:
        raise InputError(f"{name} is not a readable {suffix[1:]} file: {first_line(error)}") from None
    if first is None:
        raise EmptyBatchError(f"{name} holds no rows; expected at least one.")
    column = _pick(first.schema, name, column, columns)
    kind = _kind(first.schema.field(column).type)
    if kind not in holds:
        raise InputError(
            f"{name}: column {column!r} holds {kind or first.schema.field(column).type}; expected "
            f"{' or '.join(holds)}. Name another one with --column."
        )
    return Source(name, path, column, kind, read)


def _rows_of(tables: Sequence[pa.Table]) -> Reader:
    return lambda start: iter([pa.concat_tables(tables).slice(start)])


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a text is seldom a valid file name
        return False


def _spool_stdin() -> tuple[Path, str]:
    """Stdin as a temporary file, so that it is hashed, checked and read like any other."""
    if sys.stdin.isatty():
        print("reading stdin; end with Ctrl-D (Windows: Ctrl-Z, Enter)", file=sys.stderr)
    with tempfile.NamedTemporaryFile(prefix="nla-stdin-", delete=False) as file:
        path = Path(file.name)
        atexit.register(path.unlink, missing_ok=True)
        start = b""
        while block := sys.stdin.buffer.read(1 << 20):
            start = start or block.removeprefix(b"\xef\xbb\xbf").lstrip()[:1]
            file.write(block)
    if not start:
        raise InputError("stdin is empty; expected a text, or JSON lines.")
    return path, ".jsonl" if start == b"{" else ".txt"


def _npy(path: Path, name: str) -> Reader:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise InputError(f"{name} is not a readable .npy file of numbers: {first_line(error)}") from None
    if array.ndim not in (1, 2) or array.dtype.kind not in "fiu":
        raise ActivationShapeError(
            f"{name} holds {array.dtype} of shape {array.shape}; expected numbers of shape [d_model] or [n, d_model]."
        )
    array = array.reshape(-1, array.shape[-1])

    def read(start: int) -> Iterator[pa.Table]:
        for at in range(start, len(array), ROWS_PER_READ):
            yield pa.table({"activation_vector": vector_column(array[at : at + ROWS_PER_READ])})

    return read


def _parquet(path: Path) -> Reader:
    def read(start: int) -> Iterator[pa.Table]:
        # Buffered and unbuffered-ahead, a file of one huge row group is read page by page.
        with pq.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False) as file:
            group = 0
            while group < file.num_row_groups and start >= file.metadata.row_group(group).num_rows:
                start -= file.metadata.row_group(group).num_rows
                group += 1
            for batch in file.iter_batches(ROWS_PER_READ, row_groups=range(group, file.num_row_groups)):
                if start < batch.num_rows:
                    yield pa.Table.from_batches([batch.slice(start)]).replace_schema_metadata(None)
                start = max(0, start - batch.num_rows)

    return read


def _plain(path: Path, name: str, column: str, lines: bool) -> Reader:
    def read(start: int) -> Iterator[pa.Table]:
        # A file's last line break ends it and is not part of its text.
        with path.open(encoding="utf-8-sig") as file:
            try:
                texts = (line.rstrip("\r\n") for line in file) if lines else iter([file.read().rstrip("\r\n")])
                texts = islice(texts, start, None)
                while batch := list(islice(texts, ROWS_PER_READ)):
                    yield pa.table({column: batch})
            except UnicodeDecodeError as error:
                raise InputError(f"{name} is not UTF-8 text: {error}") from None

    return read


def _json_lines(path: Path, name: str) -> Reader:
    def rows(file) -> Iterator[dict]:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise InputError(
                    f"{name}, line {number}: not JSON ({error.msg}); expected one object a line."
                ) from None
            if not isinstance(row, dict):
                raise InputError(f"{name}, line {number}: a {type(row).__name__}; expected one JSON object a line.")
            yield row

    def read(start: int) -> Iterator[pa.Table]:
        with path.open(encoding="utf-8-sig") as file:
            try:
                wanted = islice(rows(file), start, None)
                while batch := list(islice(wanted, ROWS_PER_READ)):
                    names = dict.fromkeys(key for row in batch for key in row)
                    yield pa.table({key: _column(key, [row.get(key) for row in batch], name) for key in names})
            except UnicodeDecodeError as error:
                raise InputError(f"{name} is not UTF-8 text: {error}") from None

    return read


def _column(key: str, values: list, name: str) -> pa.Array:
    try:
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
        raise InputError(f"{name}: the values of {key!r} are of different kinds: {first_line(error)}") from None


def _pick(schema: pa.Schema, name: str, column: str | None, columns: Sequence[str]) -> str:
    wanted = [column] if column else columns
    for candidate in wanted:
        if candidate in schema.names:
            return candidate
    raise InputError(
        f"{name} has no column {' or '.join(map(repr, wanted))}; it has {', '.join(schema.names)}. Name the one to use "
        "with --column."
    )


def _kind(kind: pa.DataType) -> str | None:
    if pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return VECTORS if pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type) else None
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return TEXTS if pa.types.is_string(kind) or pa.types.is_large_string(kind) else None


# --- vectors ----------------------------------------------------------------------------------------------------
def vector_column(vectors) -> pa.FixedSizeListArray:
    """[n, d] → a FixedSizeList<float32>[d] column."""
    array = np.ascontiguousarray(vectors, dtype=np.float32)
    return pa.FixedSizeListArray.from_arrays(pa.array(array.reshape(-1)), array.shape[1])


def vectors_of(table: pa.Table, column: str, *, name: str = "the table", first: int = 0) -> np.ndarray:
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
    _unified([table.schema for table in tables], "the input")
    return pa.concat_tables(tables, promote_options="permissive")


def _unified(schemas: list[pa.Schema], name: str) -> pa.Schema:
    try:
        return pa.unify_schemas(schemas, promote_options="permissive")
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise InputError(f"{name}: a column changes its type from row to row: {first_line(error)}") from None


# --- out --------------------------------------------------------------------------------------------------------
def pick_format(out: Path, asked: str | None) -> str:
    """The format to write: what was asked for, else what the suffix says."""
    found = asked or FORMATS.get(out.suffix.lower())
    if found is None:
        raise InputError(f"{out} has no suffix that says its format; use {', '.join(FORMATS)}, or --format.")
    return found


def json_lines(table: pa.Table, hidden: Sequence[str] = ()) -> Iterator[str]:
    """One JSON object a row, without the `hidden` columns; NaN becomes null, as JSON has no NaN."""
    for row in table.drop_columns([name for name in hidden if name in table.column_names]).to_pylist():
        try:
            yield json.dumps(row, ensure_ascii=False, default=str, allow_nan=False)
        except ValueError:
            yield json.dumps(_without_nan(row), ensure_ascii=False, default=str)


def _without_nan(value):
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    return [_without_nan(item) for item in value] if isinstance(value, list) else value


def write_tables(
    path: Path, form: str, tables: Iterator[pa.Table], *, rows: int, vectors: str | None, hidden: Sequence[str] = ()
) -> None:
    """Write tables of one schema to one file, holding no more than a row group of them, and have it on the disk.

    Args:
        form: "parquet", "jsonl", "json" or "npy".
        rows: how many there are in all.
        vectors: the column a .npy file holds.
        hidden: columns left out of JSON.
    """
    first = next(tables)
    tables = chain([first], tables)
    if form == "parquet":
        with pq.ParquetWriter(path, first.schema, compression="zstd") as writer:
            for table in rechunk(tables, ROWS_PER_GROUP):
                writer.write_table(table.combine_chunks())
    elif form == "npy":
        header = {"descr": "<f4", "fortran_order": False, "shape": (rows, first.schema.field(vectors).type.list_size)}
        with path.open("wb") as file:
            np.lib.format.write_array_header_1_0(file, header)
            for table in tables:
                file.write(vectors_of(table, vectors).astype("<f4").tobytes())
    else:
        before, between, after = ("", "\n", "\n") if form == "jsonl" else ("[\n", ",\n", "\n]\n")
        with path.open("w", encoding="utf-8", newline="\n") as file:
            for number, line in enumerate(line for table in tables for line in json_lines(table, hidden)):
                file.write((between if number else before) + line)
            file.write(after)
    sync(path)


def sync(path: Path) -> None:
    """Have a file, or a folder's list of names, on the disk. Windows cannot sync folders."""
    if path.is_dir() and os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY if os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in bounded memory."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
