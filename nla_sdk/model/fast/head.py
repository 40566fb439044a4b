"""An lm_head on a CPU: its logits by the product that is fastest here, its likeliest token by a shortlist."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from .parts import Part, Stacked, hooked, read_part
from .shortlist import Rounded, Shortlist, int8_is_exact, likeliest

if TYPE_CHECKING:
    from ..backbone import Backbone

SMALL = 32_768  # tokens of a vocabulary below which there is little to save
SAMPLE = 8_192  # tokens that ways are timed on
FEW_ROWS = (1, 8)  # up to which another way may be the fastest
TRIES = 5
PREFERENCE = 1.25  # how much slower a shortlist may be and still be used: noise is as large


class Head:
    """An lm_head whose numbers are known: float32 on a CPU, with LoRA or without.

    Args:
        part: the lm_head as it computes now.
        cap: what the model does to its product (`Backbone.cap`).
        rounded: the same weight in 8 bits; None: no shortlist.
        ways: what was measured before, by kind of batch; it is added to.
    """

    def __init__(
        self,
        part: Part,
        cap: Callable[[torch.Tensor], torch.Tensor],
        rounded: Rounded | None,
        ways: dict[tuple[str, int, int], str],
    ) -> None:
        self.part, self.cap, self.ways = part, cap, ways
        self.shortlist = None if rounded is None else Shortlist(part, rounded)
        self._product = Stacked([part])

    def logits(self, states: torch.Tensor) -> torch.Tensor:
        """All logits of states float32 [n, d] after the final norm: float32 [n, vocabulary]."""
        by_rows = self._way("logits", states) == "rows"
        (products,) = self._product.by_rows(states) if by_rows else self._product.by_columns(states)
        return self.cap(products)

    def greedy(self, states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Each row's likeliest token and its logit, int64 [n] and float32 [n]: NaN where the logits are."""
        if self.shortlist is None or self._way("greedy", states) != "shortlist":
            values, tokens = self.logits(states).max(dim=1)
            return tokens, values
        return likeliest(states, self.shortlist, self.cap, self.logits)

    def _way(self, what: str, states: torch.Tensor) -> str:
        """How this machine does it fastest for about as many rows; measured once, in some 50 ms."""
        # One row is a matter of memory, many of arithmetic.
        key = what, sum(len(states) > most for most in FEW_ROWS), len(self.part.weight)
        if key not in self.ways:
            self.ways[key] = self._fastest(what, states.nan_to_num())
        return self.ways[key]

    def _fastest(self, what: str, states: torch.Tensor) -> str:
        """The way that takes least time, of several tries on another part of the vocabulary each.

        Another part, because a weight is read from memory at every step: one that is still in the cache tells nothing.
        """
        seconds: dict[str, float] = {}
        size = min(SAMPLE, len(self.part.weight))
        for at in range(TRIES + 1):
            first = at * size % max(1, len(self.part.weight) - size + 1)
            for name, call in self._tries(what, states, slice(first, first + size)).items():
                start = time.perf_counter()
                call()
                if at:  # the first time a product of a new shape is made, it is planned too
                    seconds[name] = min(seconds.get(name, float("inf")), time.perf_counter() - start)
        # A machine that others use too now and then holds back what runs in many small parts.
        seconds["shortlist"] = seconds.get("shortlist", float("inf")) / PREFERENCE
        return min(seconds, key=seconds.__getitem__)

    def _tries(self, what: str, states: torch.Tensor, some: slice) -> dict[str, Callable[[], object]]:
        weight = self.part.weight[some]
        tries: dict[str, Callable[[], object]] = {
            "rows": lambda: functional.linear(states, weight).max(dim=1),
            "columns": lambda: torch.mm(weight, states.T).max(dim=0),
        }
        if what == "greedy" and self.shortlist is not None:
            small = Shortlist(Part(weight), self.shortlist.rounded.part(some))
            # What comes after the product takes as long for a sample as for all of it, and little.
            tries["shortlist"] = lambda: small.approximate(states)
        return tries


def read_head(
    backbone: Backbone,
    rounded: Rounded | None,
    ways: dict[tuple[str, int, int], str],
    tokens: torch.Tensor | None = None,
) -> Head | None:
    """The lm_head as it computes now; None: only its own call knows what it does. The caller holds the backbone.

    Args:
        tokens: int64 [k], the part of the vocabulary that is wanted; None: all of it.
    """
    # Where the model's own call is watched or replaced, it is to be made.
    part = None if hooked(backbone.model) else read_part(backbone.head)
    if part is None or (cap := backbone.known_cap) is None:
        return None
    low, high = cap(torch.tensor([0.0, 1.0])).tolist()
    if not high > low:
        return None
    if tokens is not None:
        part, rounded = part.of(tokens), None
    fits = rounded is not None and len(part.weight) >= SMALL and rounded.weight.shape == part.weight.shape
    fits = fits and int8_is_exact()
    return Head(part, cap, rounded if fits else None, ways)
