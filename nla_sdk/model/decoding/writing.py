"""Rows written from their prompts to their ends, so many at a time: where one ends a waiting one takes its place."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch

from ...contract.prompts.prompt import Prompt
from ...errors import NonFiniteOutputError
from ...sampling import Sampling
from ..fast.blocks import read_blocks
from ..fast.steps import Steps
from ..faults import first_rows, no_numbers
from .drawing import draw
from .stepping import ModelSteps, Stepping

if TYPE_CHECKING:
    from ..fast.head import Head
    from ..verbalizer import Verbalizer

Part = tuple[Sequence[int], Prompt, "torch.Tensor | None"]
"""Numbers of rows, the prompt they have in common, and what is put in: [rows, …]; None: nothing (one row)."""


class Writing:
    """One call's rows. The caller holds the backbone, without gradients.

    Args:
        av: whose model, prompts and ends they are.
        parts: the rows, each once; a part has at most `places` of them.
        places: how many rows are written at a time.
        generators: one for each row, by its number, for a temperature above 0.
        progress: called with the number of rows that have just ended.
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
        progress: Callable[[int], None] | None = None,
    ) -> None:
        self.av, self.sampling, self.generators, self.progress = av, sampling, generators, progress
        self.limit, self.places = limit, places
        self.head: Head | None = av.fast_head()
        self._by_call = self.head is None and av.vocabulary is None  # logits that only the model's own call gives
        self.waiting = deque(parts)
        self.written: dict[int, list[int]] = {}
        self.finished: dict[int, bool] = {}
        self._row: list[int] = []  # of each place
        self._chosen = torch.empty(0, dtype=torch.long)
        self._prompts: dict[int, tuple[Prompt, torch.Tensor | None]] = {}  # of rows being written, for messages

    def run(self) -> dict[int, tuple[list[int], bool]]:
        """Tokens of each row, without an end token, and whether it came to an end.

        Raises:
            NonFiniteOutputError: names the rows and the cause.
        """
        stepping = self._stepping()
        while self._row or self.waiting:
            self._admit(stepping)
            if self._row:
                self._step(stepping)
        return {row: (self.written[row], self.finished[row]) for row in self.written}

    def _stepping(self) -> Stepping:
        """The way a step is made: from weights where that is known to be the same, else by the model itself."""
        longest = max(len(prompt.ids) for _, prompt, _ in self.waiting) + self.limit
        if self.av.fast and not self._by_call and (blocks := read_blocks(self.av.backbone)) is not None:
            fits = blocks.window is None or longest <= blocks.window
            if fits and self.av.steps_alike(blocks, self.waiting[0][1]):
                return Steps(blocks)
        return ModelSteps(self._forward, self.av.backbone.device)

    def _forward(self, tokens: torch.Tensor, cache: Any) -> torch.Tensor:
        return self.av.forward(tokens, cache, logits=self._by_call)

    # --- rows come ------------------------------------------------------------------------------------------------
    def _admit(self, stepping: Stepping) -> None:
        """Run the prompts of waiting rows, where there is room for a good part of them at once."""
        while self.waiting and (not self._row or stepping.joins):
            rows, prompt, vectors = self.waiting[0]
            free = self.places - len(self._row)
            if self._row and free < min(len(rows), max(1, self.places // 4)):
                break
            self.waiting.popleft()
            if len(rows) > free:
                assert vectors is not None, "a row without a vector is alone"
                self.waiting.appendleft((rows[free:], prompt, vectors[free:]))
                rows, vectors = rows[:free], vectors[:free]
            self._start(stepping, rows, prompt, vectors)

    def _start(self, stepping: Stepping, rows: Sequence[int], prompt: Prompt, vectors: torch.Tensor | None) -> None:
        av = self.av
        fresh = av.prefixes.of(prompt.ids[: prompt.marker], len(rows))
        tail = torch.tensor([prompt.ids[prompt.marker :]], device=av.backbone.device).expand(len(rows), -1)

        def run() -> tuple[torch.Tensor, Any]:
            cache = fresh()  # a run that was ended early has added to its own
            return self._forward(tail, cache), cache

        for at, row in enumerate(rows):
            self.written[row], self.finished[row] = [], False
            self._prompts[row] = prompt, None if vectors is None else vectors[at]
        try:
            given, cache = run() if vectors is None else av.injected(run, range(len(prompt.positions)), vectors)
        except NonFiniteOutputError as error:
            raise error.numbered(lambda row: rows[row]) from None
        going, chosen = self._take(given, rows)
        if len(going) < len(rows) and going:
            cache.batch_select_indices(torch.tensor(going, device=av.backbone.device))
        if not going:
            return
        stepping.join(cache)
        self._row += [rows[at] for at in going]
        self._chosen = torch.cat([self._chosen.to(chosen.device), chosen[going]])

    # --- a step ---------------------------------------------------------------------------------------------------
    def _step(self, stepping: Stepping) -> None:
        going, chosen = self._take(stepping(self._chosen), self._row)
        if len(going) < len(self._row):
            order = stepping.keep(going)
            self._row = [self._row[at] for at in order]
            chosen = chosen[torch.tensor(order, dtype=torch.long, device=chosen.device)]
        self._chosen = chosen

    def _take(self, given: torch.Tensor, rows: Sequence[int]) -> tuple[list[int], torch.Tensor]:
        """The next token of each row; the places of rows that go on, and all that was chosen: int64 [rows]."""
        av, sampling = self.av, self.sampling
        chosen, values = self._choose(given, rows)
        # NaN is the largest to argmax and all there is to softmax, so the number chosen tells of the whole row.
        if lost := first_rows(~values.isfinite()):
            self._refuse(sorted(rows[at] for at in lost))
        going = []
        for at, (row, token) in enumerate(zip(rows, chosen.tolist(), strict=True)):
            written = self.written[row]
            if token in av.end_ids and not sampling.ignore_end:
                self.finished[row] = True
            else:
                written.append(token)
                if not sampling.ignore_end and av.stop.closes(written, av.backbone.tokenizer.decode):
                    self.finished[row] = True
                elif len(written) < self.limit:
                    going.append(at)
                    continue
            self._prompts.pop(row)
            if self.progress is not None:
                self.progress(1)
        return going, chosen

    def _choose(self, given: torch.Tensor, rows: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens int64 [n] and their logits."""
        av, sampling = self.av, self.sampling
        if self.head is not None and self.head.shortlist is not None and self.generators is None:
            return self.head.greedy(given)
        if self.head is not None:
            logits = self.head.logits(given)
        else:
            logits = given if av.vocabulary is None else av.logits_of(given)
        chosen = draw(logits, sampling.temperature, self.generators, rows)
        values = logits.gather(1, chosen[:, None])[:, 0]
        return (chosen if av.vocabulary is None else av.vocabulary[chosen]), values

    def _refuse(self, lost: list[int]) -> None:
        row = lost[0]
        prompt, vector = self._prompts[row]
        step, av = len(self.written[row]), self.av
        raise no_numbers(
            f"What {av.ref} computes for its {'first' if step == 0 else f'{step + 1}.'} token",
            lost,
            av.backbone,
            [*prompt.ids, *self.written[row]],
            injected=None if vector is None else (prompt.positions, vector, av.injection),
        )
