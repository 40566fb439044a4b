"""What a pool keeps account of: pieces of chunks, chunks taken apart, the seats of actors."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from ..local import Made, outputs_of


@dataclass(eq=False)
class Piece:
    """Rows of a chunk that are done together: all of it, or one.

    Attributes:
        number: of the chunk; `first`: of its first row in INPUT.
        stream: the rows; of a stage's chunk empty, as its number is enough.
        stage: a reference to the stage; None: the actors' unit does it.
        needed: it is made to tables by name, and the others are of no use without it: no row of it is set aside.
        deaths: how many actors have died of it.
        lost: how often its results were lost with a node.
    """

    number: int
    rows: int
    first: int = 0
    stream: bytes = b""
    stage: Any = None
    needed: bool = False
    deaths: int = 0
    lost: int = 0
    alone: bool = False

    @property
    def suspect(self) -> bool:
        """Whether it may be what ends actors."""
        return self.alone or self.deaths > 0


@dataclass(eq=False)
class Apart:
    """A chunk whose rows are done one by one.

    Attributes:
        whole: the chunk.
        tables, errors: by row, what came of it.
    """

    whole: Piece
    tables: dict[int, pa.Table] = field(default_factory=dict)
    errors: dict[int, str] = field(default_factory=dict)

    @property
    def done(self) -> bool:
        """Whether each row has its end."""
        return len(self.tables) + len(self.errors) == self.whole.rows

    def made(self) -> Made:
        """All rows together, in their order."""
        tables = [self.tables[row] for row in sorted(self.tables)]
        table = pa.concat_tables(tables, promote_options="permissive") if tables else pa.table({})
        return Made(self.whole.number, self.whole.rows, outputs_of(table, dict(sorted(self.errors.items()))))


@dataclass(eq=False)
class Seat:
    """A place for an actor, whoever has it now.

    Attributes:
        waiting: what its actor was handed, in the order in which it does it.
        loading: its pair; None: it is loaded.
        strikes: actors that died here while they loaded it, one after another.
        rows, seconds: of what was done here.
    """

    actor: Any
    loading: Any
    waiting: deque[tuple[Any, Piece]] = field(default_factory=deque)
    strikes: int = 0
    rows: int = 0
    seconds: float = 0.0
