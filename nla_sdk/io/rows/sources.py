"""Rows in: .npy, parquet, JSON lines, plain text, stdin, as pyarrow tables of bounded size whatever the file's.

A row's vector is always FixedSizeList<float32>[d]; columns this package knows nothing about are carried along.
"""

from __future__ import annotations

import atexit
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import pyarrow as pa

from ...errors import EmptyBatchError, InputError
from ..tables import holds_texts, holds_vectors, promises_vectors, texts_of, why_not_vectors
from ..text import BOM, check_text
from .kinds import AS_TEXT, file_of, files_of, is_json
from .many import ManyRows
from .readers import Reader, json_rows, npy_rows, parquet_rows, text_rows
from .row_source import TEXTS, VECTORS, RowSource
from .stores import Stored, is_address


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
        given: INPUT as typed; an address of a store, or a pattern of files here or there, too.
        columns: names under which the rows' content is looked for, in this order.
        column: the name, if the user says it.
        holds: what is accepted.
        lines: plain text holds one text a line; else it is one text.
        as_text: `given` (of `-`, stdin) is a text whatever it looks like.
    Raises:
        InputError: no such file, not readable, no such column, or it holds something else than its name promises.
    """
    wanted = _Wanted(columns, column, holds, lines, as_text)
    if given == "-":
        path, suffix = _spool_stdin(as_text)
        return wanted.open(path, "stdin", suffix)
    if not given:
        raise InputError("The text is empty. Pass a text, a file or - for stdin.")
    files: Sequence[Path | Stored] = ()
    if not as_text:
        files = Stored.at(given).files() if is_address(given) else files_of(given) or [*filter(None, [file_of(given)])]
    if not files:
        check_text(given, "The text")
        text = pa.table({wanted.default: [given]})
        return RowSource("the text", None, wanted.default, TEXTS, _rows_of([text]))
    alone = len(files) == 1 and isinstance(files[0], Path)
    first = wanted.open(files[0], given if alone else str(files[0]))
    if len(files) == 1:
        return first
    others = [replace(first, name=str(file), path=file, read=wanted.reader(file, str(file))) for file in files[1:]]
    return ManyRows.of(given, [first, *others])


@dataclass(frozen=True)
class _Wanted:
    """What a command looks for in files; see `open_source`."""

    columns: Sequence[str]
    column: str | None
    holds: Sequence[str]
    lines: bool
    as_text: bool

    @property
    def default(self) -> str:
        """The column of plain texts."""
        return self.column or next((name for name in self.columns if name != "activation_vector"), "text")

    def reader(self, path: Path | Stored, name: str, suffix: str | None = None) -> Reader:
        """Its rows, by its suffix."""
        suffix = suffix or path.suffix.lower()
        if suffix == ".parquet":
            return parquet_rows(path, name)
        if isinstance(path, Stored):  # not read by ranges, so fetched, once and when it is its turn
            here = cache(lambda: self.reader(path.fetched(), name, suffix))
            return lambda start: here()(start)
        if suffix == ".npy":
            return npy_rows(path, name)
        return text_rows(path, name, self.default, self.lines) if suffix == ".txt" else json_rows(path, name)

    def open(self, path: Path | Stored, name: str, suffix: str | None = None) -> RowSource:
        """A file's rows, its column chosen."""
        suffix = suffix or path.suffix.lower()
        read = self.reader(path, name, suffix)
        fixed = {".npy": "activation_vector", ".txt": self.default}.get(suffix, self.column)
        first = next(read(0), None)
        if first is None:
            raise EmptyBatchError(f"{name} holds no rows; expected at least one.")
        column, said = _pick(first.schema, name, fixed, self.columns), fixed is not None
        field = first.schema.field(column)
        kind = _kind(field)
        if pa.types.is_null(field.type):
            raise InputError(f"{name}, row 0: column {column!r} is null; expected {' or '.join(self.holds)}.")
        if kind not in self.holds:
            raise InputError(
                f"{name}: column {column!r} holds {kind or field.type}; expected {' or '.join(self.holds)}."
                f"{why_not_vectors(field)} Name another one with --column."
            )
        if not self.as_text:
            _keep_promise(first, name, column, kind, said, self.holds)
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
