"""Rows written from their prompts to their ends, so many at a time: where one ends a waiting one takes its place.

The rows may be of several calls, and each is what it is alone: greedy or drawn at its own temperature, with a limit of
its own. A call's fault, or its end, leaves the others where they are.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch

from ...errors import NonFiniteOutputError
from ..fast.blocks import read_blocks
from ..fast.parts import hooked
from ..fast.steps import Steps
from ..faults import first_rows, no_numbers
from .drawing import draw
from .rows import Call, Row, alike, shares
from .stepping import ModelSteps, Stepping

if TYPE_CHECKING:
    from ..fast.head import Head
    from ..verbalizer import Verbalizer

GUESTS = 32  # rows beyond the places, one of each call that would have none otherwise
ROWS_A_STEP = 8  # rows being written for each step that new calls wait: a start costs as much as some rows' step


class Writing:
    """Rows being written. The caller holds the backbone, without gradients.

    Attributes:
        calls: those that have rows waiting, in the order of their turns.
    """

    def __init__(self, av: Verbalizer) -> None:
        self.av = av
        self.calls: deque[Call] = deque()
        self._came: dict[Call, None] = {}  # and are not over
        self._row: list[Row] = []  # of each place
        self._chosen = torch.empty(0, dtype=torch.long)
        self._way: Stepping | None = None  # that steps are made in; None: no row is being written
        self._window: int | None = None  # tokens that fit it
        self._as_it_was: object = None  # the model, when these rows were begun
        self._since_start = 0  # steps
        self.places = 0
        self.head: Head | None = None
        self._by_call = False  # logits that only the model's own call gives

    def come(self, calls: Iterable[Call]) -> None:
        """Take in the calls that are not there yet."""
        for call in calls:
            if call not in self._came and not call.settled:
                self._came[call] = None
                self.calls.append(call)

    def turn(self) -> None:
        """Start rows that wait where there is room, and write one token of each that has been started.

        What goes wrong with a row ends its call; what goes wrong with a step, all calls that have rows in it. Neither
        is raised here. An interrupt is, and the rows that were being written will be written anew.
        """
        try:
            self._let_go()
            self._admit()
            if self._row:
                self._step()
        except Exception as error:
            for call in [call for call in self._came if call.begun()] or self._came:
                call.settle(error)
            self._row, self._way = [], None
        except BaseException:
            for call in self._came:
                call.put_back(call.begun())
            self.calls = deque(call for call in self._came if call.waiting)
            self._row, self._way = [], None
            raise

    def _let_go(self) -> None:
        """Let the rows of calls go that are over."""
        for call in [*self._came]:
            call.look()
            if call.settled:
                del self._came[call]
        self.calls = deque(call for call in self.calls if not call.settled)
        going = [at for at, row in enumerate(self._row) if not row.call.settled]
        self._keep(going, self._chosen)

    def _keep(self, going: list[int], chosen: torch.Tensor) -> None:
        """Only the rows in these places are written on, each with the token that was chosen for it."""
        if len(going) < len(self._row) and self._way is not None:
            going = self._way.keep(going)
            self._row = [self._row[at] for at in going]
            chosen = chosen[torch.tensor(going, dtype=torch.long, device=chosen.device)]
        self._chosen = chosen
        if not self._row:
            self._way = None

    # --- rows come ------------------------------------------------------------------------------------------------
    def _admit(self) -> None:
        """Run the prompts of waiting rows, where there is room for a good part of them at once."""
        waited = self._since_start >= len(self._row) // ROWS_A_STEP
        while self.calls and (self._way is None or self._way.joins):
            if self._way is None:
                try:
                    self._open(self.calls[0])
                except Exception as error:
                    self.calls.popleft().settle(error)
                    continue
                calls, room = [*self.calls], self.places
            else:
                calls, room = self._due(waited)
                # Who cannot join is not passed by: what is being written ends, and all begins anew.
                if not calls or not self._fits(self.calls[0]) or self._model_now() != self._as_it_was:
                    return
            self._start(self._take_rows(calls, room))
            self.calls = deque(call for call in self.calls if not call.settled)

    def _open(self, call: Call) -> None:
        """Begin with no rows, as the model is now; this call's rows are among the first."""
        self.head = self.av.fast_head()
        self._by_call = self.head is None and self.av.vocabulary is None
        self._chosen = torch.empty(0, dtype=torch.long)
        self.places, self._as_it_was = call.places, self._model_now()
        self._way = self._stepping(call)

    def _stepping(self, call: Call) -> Stepping:
        """The way a step is made: from weights where that is known to be the same, else by the model itself."""
        self._window = None
        if self.av.fast and not self._by_call and (blocks := read_blocks(self.av.backbone)) is not None:
            fits = blocks.window is None or call.longest <= blocks.window
            if fits and self.av.steps_alike(blocks, call.waiting[0][1]):
                self._window = blocks.window
                return Steps(blocks)
        return ModelSteps(self._forward, self.av.backbone.device)

    def _model_now(self) -> object:
        """What rows that are written together have in common: what is on the model, and how it is run."""
        watched = any(hooked(module) for module in self.av.backbone.model.modules())
        return self.av.fast, id(self.av.vocabulary), self.av.backbone.active, watched

    def _fits(self, call: Call) -> bool:
        return self._window is None or call.longest <= self._window

    def _forward(self, tokens: torch.Tensor, cache: Any) -> torch.Tensor:
        return self.av.forward(tokens, cache, logits=self._by_call)

    def _due(self, waited: bool) -> tuple[list[Call], int]:
        """The calls of which rows are to be started beside others now, and how many in all."""
        wanted = sum(len(call.waiting[0][0]) for call in self.calls)
        free, good_part = max(0, self.places - len(self._row)), max(1, self.places // 4)
        several = len(self._came) > 1
        if several and wanted < good_part and not waited:
            return [], 0  # a few steps' calls are started together: one row's prompt costs as much as many rows' step
        if free >= min(wanted, good_part):
            return [*self.calls], free
        there = {row.call for row in self._row}
        guests = [call for call in self.calls if call not in there][: self.places + GUESTS - len(self._row)]
        return (guests, len(guests)) if several else ([], 0)

    def _take_rows(self, calls: Sequence[Call], room: int) -> list[Row]:
        """Rows to be started together: of the first call, and of all whose prompt is the same."""
        first = calls[0]
        group = [one for one in calls if one is first or (alike(first, one) and self._fits(one))]
        rows = []
        for call, count in zip(group, shares([len(one.waiting[0][0]) for one in group], room), strict=True):
            if count:
                rows += call.take(count)
                self.calls.remove(call)
                if call.waiting:
                    self.calls.append(call)  # its next turn comes after the others'
        return rows

    def _start(self, rows: Sequence[Row]) -> None:
        """Run the prompt of rows, which is the same, and write the first token of each."""
        av, prompt = self.av, rows[0].prompt
        fresh = av.prefixes.of(prompt.ids[: prompt.marker], len(rows))
        tail = torch.tensor([prompt.ids[prompt.marker :]], device=av.backbone.device).expand(len(rows), -1)

        def run() -> tuple[torch.Tensor, Any]:
            cache = fresh()  # a run that was ended early has added to its own
            return self._forward(tail, cache), cache

        self._since_start = 0
        vectors = [row.vector for row in rows if row.vector is not None]
        try:
            given, cache = av.injected(run, range(len(prompt.positions)), torch.stack(vectors)) if vectors else run()
        except Exception as error:
            self._not_started(rows, error)
            return
        going, chosen = self._take(given, rows)
        if going and self._way is not None:
            if len(going) < len(rows):
                cache.batch_select_indices(torch.tensor(going, device=av.backbone.device))
            self._way.join(cache)
            self._row += [rows[at] for at in going]
            self._chosen = torch.cat([self._chosen.to(chosen.device), chosen[going]])
        if not self._row:
            self._way = None

    def _not_started(self, rows: Sequence[Row], error: Exception) -> None:
        """A call's rows that cannot be started end it; of several calls each is then seen by itself."""
        if not self._row:
            self._way = None
        calls = list(dict.fromkeys(row.call for row in rows))
        if len(calls) == 1:
            numbered = isinstance(error, NonFiniteOutputError)
            calls[0].settle(error.numbered(lambda at: rows[at].number) if numbered else error)
            return
        for call in calls:
            call.apart = True
            call.put_back(call.begun(rows))
            if call not in self.calls:
                self.calls.append(call)

    # --- a step ---------------------------------------------------------------------------------------------------
    def _step(self) -> None:
        assert self._way is not None, "there are rows"
        self._since_start += 1
        going, chosen = self._take(self._way(self._chosen), self._row)
        self._keep(going, chosen)

    def _take(self, given: torch.Tensor, rows: Sequence[Row]) -> tuple[list[int], torch.Tensor]:
        """The next token of each row; the places of rows that go on, and all that was chosen: int64 [rows]."""
        av, going = self.av, []
        chosen, values = self._choose(given, rows)
        # NaN is the largest to argmax and all there is to softmax, so the number chosen tells of the whole row.
        if lost := first_rows(~values.isfinite()):
            self._refuse([rows[at] for at in lost])
        for at, (row, token) in enumerate(zip(rows, chosen.tolist(), strict=True)):
            call, written = row.call, row.written
            if call.settled:
                continue
            if not call.takes(row, token):
                other = self._other(given[at : at + 1], row, token)
                if other is None:  # whatever it says would be a repeat
                    call.end(row)
                    continue
                chosen[at] = token = other
            ignore_end = call.sampling.ignore_end
            if token in av.end_ids and not ignore_end:
                row.finished = True
            else:
                written.append(token)
                if not ignore_end and av.stop.closes(written, av.backbone.tokenizer.decode):
                    row.finished = True
                elif len(written) < call.limit:
                    call.tell(row)
                    going.append(at)
                    continue
            call.end(row)
        return [at for at in going if not rows[at].call.settled], chosen

    def _choose(self, given: torch.Tensor, rows: Sequence[Row]) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens int64 [n] and their logits, each row's at its own temperature."""
        of: dict[float, list[int]] = {}
        for at, row in enumerate(rows):
            of.setdefault(row.call.sampling.temperature, []).append(at)
        if len(of) == 1:
            return self._choose_at(next(iter(of)), given, rows)
        chosen = torch.empty(len(rows), dtype=torch.long, device=given.device)
        values = torch.empty(len(rows), device=given.device)
        for temperature, places in of.items():
            at = torch.tensor(places, device=given.device)
            found = self._choose_at(temperature, given[at], [rows[place] for place in places])
            chosen[at], values[at] = found[0], found[1].float()
        return chosen, values

    def _choose_at(
        self, temperature: float, given: torch.Tensor, rows: Sequence[Row]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        av, generators = self.av, None
        if temperature > 0:
            generators = [row.generator for row in rows if row.generator is not None]
        elif self.head is not None and self.head.shortlist is not None:
            return self.head.greedy(given)
        logits = self._logits(given)
        chosen = draw(logits, temperature, generators, range(len(rows)))
        values = logits.gather(1, chosen[:, None])[:, 0]
        return (chosen if av.vocabulary is None else av.vocabulary[chosen]), values

    def _logits(self, given: torch.Tensor) -> torch.Tensor:
        """[n, vocabulary] over what may be written."""
        if self.head is not None:
            return self.head.logits(given)
        return given if self.av.vocabulary is None else self.av.logits_of(given)

    def _other(self, given: torch.Tensor, row: Row, token: int) -> int | None:
        """Another token for a row that does not take this one: the likeliest that it takes, or drawn; None: it takes
        none that has a probability.

        One that is not taken gets no probability, and it is chosen anew. That draws from what all refused tokens being
        left out beforehand would leave, without looking at every token of the vocabulary at every step.
        """
        av, generators = self.av, None if row.generator is None else [row.generator]
        logits = self._logits(given).float().clone()
        refused = row.refused.setdefault(len(row.written), [])
        while True:
            refused.append(token)
            logits[0, av.places_of(torch.tensor([token], device=logits.device))] = -torch.inf
            place = draw(logits, row.call.sampling.temperature, generators, [0])
            if not bool(logits[0, place].isfinite()):
                return None
            token = int(place if av.vocabulary is None else av.vocabulary[place])
            if row.call.takes(row, token):
                return token

    def _refuse(self, lost: Sequence[Row]) -> None:
        """Rows for which the model gives no number end their calls, each call with its own."""
        av = self.av
        for call in dict.fromkeys(row.call for row in lost):
            rows = sorted((row for row in lost if row.call is call), key=lambda row: row.number)
            row, step = rows[0], len(rows[0].written)
            injected = None if row.vector is None else (row.prompt.positions, row.vector, av.injection)
            call.settle(
                no_numbers(
                    f"What {av.ref} computes for its {'first' if step == 0 else f'{step + 1}.'} token",
                    [row.number for row in rows],
                    av.backbone,
                    [*row.prompt.ids, *row.written],
                    injected=injected,
                )
            )
