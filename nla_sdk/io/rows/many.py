"""Rows of many files as those of one: a pattern here (acts/*.parquet) or in a store, in the order of the names."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import PurePath

import pyarrow as pa

from ...errors import ActivationShapeError, InputError
from ..origins import RowFacts
from ..tables import unified
from .readers import ROWS_PER_READ
from .row_source import VECTORS, RowSource


@dataclass(frozen=True)
class ManyRows(RowSource):
    """The rows of several sources, one after another; made by `ManyRows.of`.

    Attributes:
        parts: a source for each file.
    """

    parts: tuple[RowSource, ...] = ()
    _counts: list[int] = field(default_factory=list, repr=False)

    @classmethod
    def of(cls, name: str, parts: Sequence[RowSource]) -> ManyRows:
        """The rows of `parts`, whose columns are called and hold what those of the first do."""
        first = parts[0]
        made: ManyRows = cls(name, first.path, first.column, first.holds, lambda at: made._from(at), tuple(parts))
        return made

    @property
    def stem(self) -> str:
        """The folder's name."""
        return PurePath(self.name.partition("*")[0]).name or "rows"

    @cached_property
    def beside(self) -> list[RowFacts]:
        """See `RowSource.beside`."""
        return [(f"the sidecar of {part.name}", facts) for part in self.parts for _, facts in part.beside]

    @property
    def layer(self) -> int | None:
        """See `Rows`.

        Raises:
            InputError: the files' sidecars say several.
        """
        said = {part.layer for part in self.parts}
        if len(said) > 1:
            raise InputError(
                f"{self.name}: sidecars say that its files are of layers {', '.join(map(str, said))}. Run those of "
                "each layer by themselves, or say it row by row (column activation_layer)."
            )
        return said.pop()

    def check(self, *, empty_texts: bool = False, watch: Callable[[pa.Table, int], None] | None = None) -> int:
        """See `RowSource.check`; what is malformed is named by its file, and its row there."""
        schemas: list[pa.Schema] = []
        counts: list[int] = []
        for part in self.parts:
            before, seen = sum(counts), len(schemas)

            def show(table: pa.Table, first: int, before: int = before, seen: int = seen) -> None:
                if len(schemas) == seen:
                    schemas.append(table.schema)
                if watch is not None:
                    watch(table, before + first)

            counts.append(part.check(empty_texts=empty_texts, watch=show))
            widths = {schema.field(self.column).type.list_size for schema in schemas} if self.holds == VECTORS else {0}
            if len(widths) > 1:
                raise ActivationShapeError(
                    f"{part.name}: its vectors have another width than those before it ({sorted(widths)} numbers); "
                    "expected one d_model throughout."
                )
        unified(schemas, f"{self.name}: a column changes its type from file to file")
        self._counts[:] = counts
        return sum(counts)

    def identity(self) -> dict[str, int | str]:
        """How many files, and a hash of their names and what each says of itself."""
        said = [(PurePath(part.name).name, part.identity()) for part in self.parts]
        digest = hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()
        size = sum(int(facts["bytes"]) for _, facts in said)
        return {"files": len(said), "bytes": size, "sha256": digest}

    def _from(self, start: int) -> Iterator[pa.Table]:
        if start and not self._counts:
            self.check()
        for number, part in enumerate(self.parts):
            if self._counts and start >= self._counts[number]:
                start -= self._counts[number]
                continue
            yield from part.batches(ROWS_PER_READ, start)
            start = 0
