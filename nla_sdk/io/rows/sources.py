"""Rows in: .npy, parquet, JSON lines, plain text, stdin, as pyarrow tables of bounded size whatever the file's.

A row's vector is always FixedSizeList<float32>[d]; columns this package knows nothing about are carried along.
"""

from __future__ import annotations

import atexit
import hashlib
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pyarrow as pa

from ...errors import ActivationShapeError, EmptyBatchError, InputError
from ..files import sha256_of
from ..origins import common, facts_of_sidecar
from ..tables import (
    holds_texts,
    holds_vectors,
    promises_vectors,
    rechunk,
    texts_of,
    unified,
    usable_vectors,
    vector_column,
    why_not_vectors,
)
from ..text import BOM, check_text
from .kinds import AS_TEXT, file_of, is_json
from .readers import ROWS_PER_READ, Reader, json_rows, npy_rows, parquet_rows, text_rows

VECTORS, TEXTS = "vectors", "texts"


class Rows(Protocol):
    """What work is told of the rows that it is given, one table after another.

    Attributes:
        name: what to call them in messages.
        column: holds the vectors or the texts.
        holds: VECTORS or TEXTS.
    """

    @property
    def name(self) -> str: ...
    @property
    def column(self) -> str: ...
    @property
    def holds(self) -> str: ...
    @property
    def stem(self) -> str:
        """The first part of the ids of rows that have none."""
        ...

    @property
    def layer(self) -> int | None:
        """The block that all vectors were read from, as the sidecar says; None: it does not, or they are texts."""
        ...


@dataclass(frozen=True)
class RowSource:
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

    @property
    def stem(self) -> str:
        """See `Rows`."""
        return self.path.stem if self.path and self.name != "stdin" else self.name.removeprefix("the ")

    @property
    def layer(self) -> int | None:
        """See `Rows`."""
        return None if self.holds == TEXTS else common(facts_of_sidecar(self.path)).layer

    def batches(self, size: int, start: int = 0) -> Iterator[pa.Table]:
        """Tables of `size` rows (the last one of fewer), from row `start`; vectors as FixedSizeList<float32>."""
        row = start
        for table in rechunk(self.read(start), size):
            if self.column not in table.column_names:
                raise InputError(f"{self.name}: rows {row} to {row + table.num_rows - 1} have no {self.column}.")
            if self.holds == VECTORS:
                column = vector_column(usable_vectors(table, self.column, name=self.name, first=row))
                table = table.set_column(table.column_names.index(self.column), self.column, column)
            yield table
            row += table.num_rows

    def check(self, *, empty_texts: bool = False, watch: Callable[[pa.Table, int], None] | None = None) -> int:
        """Read all of it once and count the rows, so that what is malformed is refused before any work is done.

        Args:
            empty_texts: whether the empty string is a text.
            watch: is shown every table, with the number of its first row.
        Raises:
            InputError, and its kinds: each names the row.
        """
        rows, width, schema = 0, None, None
        for table in self.batches(ROWS_PER_READ):
            if self.path and self.path.suffix != ".parquet":
                schemas = [schema or table.schema, table.schema]
                schema = unified(schemas, f"{self.name}: a column changes its type from row to row")
            if self.holds == VECTORS:
                here = table[self.column].type.list_size
                if width not in (None, here):
                    raise ActivationShapeError(
                        f"{self.name}: the vectors have {width} numbers before row {rows} and {here} after it; "
                        "expected one d_model throughout."
                    )
                width = here
            else:
                for number, text in enumerate(texts_of(table, self.column, name=self.name, first=rows), rows):
                    if text is None or not (text or empty_texts):
                        found = "null" if text is None else "empty"
                        raise InputError(f"{self.name}, row {number}: {self.column} is {found}; expected a text.")
                    check_text(text, f"{self.name}, row {number}: {self.column}")
            if watch is not None:
                watch(table, rows)
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
    as_text: bool = False,
) -> RowSource:
    """Find out what a command was given: a file by its suffix, `-` for stdin, a text; what may be either is refused.

    Args:
        given: INPUT as typed.
        columns: names under which the rows' content is looked for, in this order.
        column: the name, if the user says it.
        holds: what is accepted.
        lines: plain text holds one text a line; else it is one text.
        as_text: `given` (of `-`, stdin) is a text whatever it looks like.
    Raises:
        InputError: no such file, not readable, no such column, or it holds something else than its name promises.
    """
    default = column or next((name for name in columns if name != "activation_vector"), "text")
    if given == "-":
        path, suffix, name = *_spool_stdin(as_text), "stdin"
    else:
        if not given:
            raise InputError("The text is empty. Pass a text, a file or - for stdin.")
        path = None if as_text else file_of(given)
        if path is None:
            check_text(given, "The text")
            return RowSource("the text", None, default, TEXTS, _rows_of([pa.table({default: [given]})]))
        suffix, name = path.suffix.lower(), given
    if suffix == ".npy":
        read, column = npy_rows(path, name), "activation_vector"
    elif suffix == ".parquet":
        read = parquet_rows(path, name)
    elif suffix == ".txt":
        read, column = text_rows(path, name, default, lines), default
    else:
        read = json_rows(path, name)
    first = next(read(0), None)
    if first is None:
        raise EmptyBatchError(f"{name} holds no rows; expected at least one.")
    column, said = _pick(first.schema, name, column, columns), column is not None
    field = first.schema.field(column)
    kind = _kind(field)
    if pa.types.is_null(field.type):
        raise InputError(f"{name}, row 0: column {column!r} is null; expected {' or '.join(holds)}.")
    if kind not in holds:
        raise InputError(
            f"{name}: column {column!r} holds {kind or field.type}; expected {' or '.join(holds)}."
            f"{why_not_vectors(field)} Name another one with --column."
        )
    if not as_text:
        _keep_promise(first, name, column, kind, said, holds)
    return RowSource(name, path, column, kind, read)


def _rows_of(tables: Sequence[pa.Table]) -> Reader:
    return lambda start: iter([pa.concat_tables(tables).slice(start)])


def _keep_promise(first: pa.Table, name: str, column: str, kind: str, said: bool, holds: Sequence[str]) -> None:
    """Refuse a column that is something else than it is called, or of whose kind another one is.

    Args:
        said: the user named it.
    """
    if VECTORS not in holds:
        return
    if kind == VECTORS:
        if not said and column == "text":
            raise InputError(f"{name}: column 'text' holds vectors; if they are activations, say --column text.")
        return
    if promises_vectors(column):
        raise InputError(
            f"{name}: column {column!r} holds texts; under this name vectors are expected: lists of numbers, not "
            "numbers written out. If it is text to be read, rename the column."
        )
    others = [field.name for field in first.schema if promises_vectors(field.name) and holds_vectors(field)]
    if others and not said:
        raise InputError(f"{name} has texts ({column}) and vectors ({others[0]}); say which with --column.")
    texts = [text for text in texts_of(first, column, name=name) if text]
    if texts and all(is_json(text) and text.lstrip().startswith("[") for text in texts):
        raise InputError(
            f"{name}, row 0: {column} holds a list written out as text. Vectors are lists of numbers, not strings."
        )


def _spool_stdin(as_text: bool) -> tuple[Path, str]:
    """Stdin as a temporary file, so that it is hashed, checked and read like any other."""
    if sys.stdin.isatty():
        print("reading stdin; end with Ctrl-D (Windows: Ctrl-Z, Enter)", file=sys.stderr)
    with tempfile.NamedTemporaryFile(prefix="nla-stdin-", delete=False) as file:
        path = Path(file.name)
        atexit.register(path.unlink, missing_ok=True)
        start = b""
        while block := sys.stdin.buffer.read(1 << 20):
            start = start or block.removeprefix(BOM.encode()).lstrip()[:1]
            file.write(block)
    if not start:
        raise InputError("stdin is empty; expected a text, or JSON lines.")
    if start == b"{" and not as_text:
        return path, ".jsonl"
    if start == b"[" and not as_text and is_json(path.read_bytes().decode("utf-8", "replace").strip()):
        raise InputError(f"stdin is a list of JSON; expected a text, or JSON lines: one object a line. {AS_TEXT}")
    return path, ".txt"


def _pick(schema: pa.Schema, name: str, column: str | None, columns: Sequence[str]) -> str:
    wanted = [column] if column else columns
    for candidate in wanted:
        if candidate in schema.names:
            return candidate
    raise InputError(
        f"{name} has no column {' or '.join(map(repr, wanted))}; it has {', '.join(schema.names)}. Name the one to use "
        "with --column."
    )


def _kind(field: pa.Field) -> str | None:
    return VECTORS if holds_vectors(field) else TEXTS if holds_texts(field) else None
