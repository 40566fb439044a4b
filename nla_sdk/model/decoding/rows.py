"""A call's rows, and what became of each; how several calls divide the room that there is."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING

import torch

from ...contract.prompts.prompt import Prompt
from ...sampling import Sampling
from ..running.together import Job
from ..running.watching import UNWATCHED, Watch
from .repeats import Said

if TYPE_CHECKING:
    from ..verbalizer import Verbalizer

Part = tuple[Sequence[int], Prompt, "torch.Tensor | None"]
"""Numbers of rows, the prompt they have in common, and what is put in: [rows, …]; None: nothing (one row)."""


@dataclass(eq=False)
class Row:
    """One text being written.

    Attributes:
        number: the call's.
        vector: what is put in; None: nothing.
        generator, before: it draws from, at a temperature above 0; and the generator's state before that.
        written: tokens so far, without an end token.
        finished: whether it came to an end of its own.
        told: the text that its caller knows.
        said: what is not to be said again, where the contract forbids it.
        refused: tokens chosen and not taken for that, in their order, by the number of the one that was.
    """

    call: Call
    number: int
    prompt: Prompt
    vector: torch.Tensor | None
    generator: torch.Generator | None
    before: torch.Tensor | None
    written: list[int] = field(default_factory=list)
    finished: bool = False
    told: str = ""
    said: Said = field(default_factory=Said)
    refused: dict[int, list[int]] = field(default_factory=dict)

    def anew(self) -> None:
        """Nothing of it is written. What is written then is the same."""
        self.written.clear()
        self.refused.clear()
        self.said = Said()
        if self.generator is not None and self.before is not None:
            self.generator.set_state(self.before)


class Call(Job):
    """Rows that one call wants written.

    Args:
        av: writes them.
        parts: the rows, each once; a part has at most `places` of them.
        limit: most tokens of each.
        places: how many rows are written at a time, where no other call is there.
        generators: one for each row, by its number, for a temperature above 0.
        watch: told of rows by their numbers.
    Attributes:
        waiting: parts that have not been started.
        written: of each row that has ended its tokens, and whether it came to an end of its own.
        refused: see `Row`; of the rows that have ended and had any.
        apart: whether its prompts are to be run beside no other call's: one of them could not be run.
    """

    def __init__(
        self,
        av: Verbalizer,
        parts: Sequence[Part],
        sampling: Sampling,
        *,
        limit: int,
        places: int,
        generators: Sequence[torch.Generator] | None = None,
        watch: Watch = UNWATCHED,
    ) -> None:
        super().__init__(watch)
        self.av, self.sampling, self.limit, self.places = av, sampling, limit, places
        self.generators = generators
        self.waiting = deque(parts)
        self.longest = max(len(prompt.ids) for _, prompt, _ in parts) + limit
        self.written: dict[int, tuple[list[int], bool]] = {}
        self.refused: dict[int, dict[int, list[int]]] = {}
        self.apart = False
        self._count = sum(len(rows) for rows, _, _ in parts)
        self._rows: dict[int, Row] = {}  # that have been started

    def take(self, count: int) -> list[Row]:
        """So many rows of the first part, to be started."""
        numbers, prompt, vectors = self.waiting[0]
        taken = numbers[:count]
        for at, number in enumerate(taken):
            if number not in self._rows:
                generator = None if self.generators is None else self.generators[number]
                before = None if generator is None else generator.get_state()
                vector = None if vectors is None else vectors[at]
                self._rows[number] = Row(self, number, prompt, vector, generator, before)
        if count < len(numbers):
            assert vectors is not None, "a row without a vector is alone"
            self.waiting[0] = numbers[count:], prompt, vectors[count:]
        else:
            self.waiting.popleft()
        return [self._rows[number] for number in taken]

    def begun(self, among: Iterable[Row] | None = None) -> list[Row]:
        """The rows that were started and have not ended."""
        others = {*self.written, *(number for numbers, _, _ in self.waiting for number in numbers)}
        rows = self._rows.values() if among is None else among
        return [row for row in rows if row.call is self and row.number not in others]

    def put_back(self, rows: Sequence[Row]) -> None:
        """Rows that were started are to be started anew, before the others."""
        for row in rows:
            row.anew()
        for prompt, same in groupby(reversed(rows), key=lambda row: row.prompt):
            part = [*same][::-1]
            vectors = [row.vector for row in part if row.vector is not None]
            self.waiting.appendleft(([row.number for row in part], prompt, torch.stack(vectors) if vectors else None))
        self._settle_if_done()

    def tell(self, row: Row, *, ended: bool = False) -> None:
        """Let the caller know how far a row is. What its callbacks raise is this call's error.

        A text that does not begin with what was told before, as of a row that is written anew, is told once it does, or
        has ended.
        """
        try:
            if (on_text := self.watch.on_text) is not None:
                text = str(self.av.parse(row.written, row.finished)) if ended else self.av.so_far(row.written)
                if text != row.told and (ended or text.startswith(row.told)):
                    row.told = text
                    on_text(row.number, text)
            if ended and self.watch.progress is not None:
                self.watch.progress(1)
        except KeyboardInterrupt:
            raise  # of the thread that writes
        except BaseException as error:
            self.settle(error)

    def end(self, row: Row) -> None:
        """A row has ended."""
        self.written[row.number] = row.written, row.finished
        if row.refused:
            self.refused[row.number] = row.refused
        self.tell(row, ended=True)
        self._settle_if_done()

    def takes(self, row: Row, token: int) -> bool:
        """Whether a row may go on with a token; what it says then is noted."""
        if not self.av.contract.output_no_repeats or (token in self.av.end_ids and not self.sampling.ignore_end):
            return True
        made = self.av.parse([*row.written, token], False)
        # With the white space at its end: a line break that ends a list shows before something follows it.
        return row.said.takes(str(made) + made.raw[len(made.raw.rstrip()) :])

    def _settle_if_done(self) -> None:
        if len(self.written) == self._count:
            self.settle()


def alike(one: Call, other: Call) -> bool:
    """Whether rows of both calls' first parts can be started in one batch."""
    (_, prompt, vectors), (_, other_prompt, other_vectors) = one.waiting[0], other.waiting[0]
    if vectors is None or other_vectors is None or prompt != other_prompt or one.apart or other.apart:
        return False
    facts = [(each.shape[1:], each.dtype, each.device) for each in (vectors, other_vectors)]
    return facts[0] == facts[1]


def shares(wanted: Sequence[int], room: int) -> list[int]:
    """How many rows each call starts: all as many, as far as they have them; the first ones what is left over.

    Example:
        >>> shares([500, 1, 3], 12), shares([4, 4, 4], 2)
        ([8, 1, 3], [1, 1, 0])
    """
    given = [0] * len(wanted)
    while room > 0 and (more := [at for at, count in enumerate(wanted) if given[at] < count]):
        each = max(1, room // len(more))
        for at in more:
            added = min(each, wanted[at] - given[at], room)
            given[at] += added
            room -= added
    return given
