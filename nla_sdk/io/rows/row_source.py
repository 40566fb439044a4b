"""Rows that a command works on: of a file here or in a store, or of a text."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import pyarrow as pa

from ...errors import ActivationShapeError, EmptyBatchError, InputError
from ..files import sha256_of
from ..origins import RowFacts, common, facts_of_record, facts_of_sidecar
from ..tables import rechunk, texts_of, unified, usable_vectors, vector_column
from ..text import check_text
from .readers import ROWS_PER_READ, Reader
from .stores import Stored

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
        path: the file it is read from, here or in a store; None for a text of the command line.
        column: holds the vectors or the texts.
        holds: VECTORS or TEXTS.
        read: its rows.
    """

    name: str
    path: Path | Stored | None
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
        return None if self.holds == TEXTS else common(self.beside).layer

    @cached_property
    def beside(self) -> list[RowFacts]:
        """What the sidecar beside it says of all its rows."""
        if isinstance(self.path, Stored):
            return [*facts_of_record(self.path.sidecar())]
        return [*facts_of_sidecar(self.path)]

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
        """Size and SHA-256 of what is read; of a file in a store what tells that it has changed."""
        if self.path is None:
            content = "".join(text for table in self.read(0) for text in table[self.column].to_pylist()).encode()
            return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        if isinstance(self.path, Stored):
            return self.path.identity()
        return {"bytes": self.path.stat().st_size, "sha256": sha256_of(self.path)}
