"""The likeliest token without the whole lm_head in float32: an int8 product gives a shortlist that must hold it.

For a state h and a token's row w, both are rounded to 8 bits with one scale each: h = ĥ + δ, w = ŵ + ε. Then

    h·w − ĥ·ŵ  =  ĥ·ε + δ·w,   so   |h·w − ĥ·ŵ|  ≤  ‖ĥ‖‖ε‖ + ‖δ‖‖w‖        (Cauchy and Schwarz)

and ĥ·ŵ is a sum of integers, which int32 holds exactly. No token whose approximate logit plus its bound stays below a
logit that some token is known to have can be the maximum; the few others are scored in float32. A scale a row, not one
a batch: what is chosen for a row must not depend on its neighbours.

What float32 itself rounds is allowed for too: a sum of d products is off by at most d·2⁻²⁴·‖h‖‖w‖ in whatever order it
is made, so a token that was left out is not the largest in any of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch.nn import functional

from .parts import Part, Stacked

GROUP = 128  # tokens whose largest logit is looked at first
LARGEST = 127
CACHED = 1 << 20  # bytes of a piece's product, small enough to be still in the cache when its maxima are taken
CERTAIN = 2  # groups a row whose best token is scored first: the better that one, the shorter the list
ROUNDING = 2.0**-24
MARGIN = 1e-3  # of the bound: norms are themselves computed in float32
APART = 1e-4  # of a product: a soft cap may make one number of two that are nearer than this


@dataclass(frozen=True, eq=False)
class Rounded:
    """An lm_head's rows in 8 bits.

    Attributes:
        weight: int8 [vocabulary, d].
        scale: float32 [vocabulary]: ŵ = weight · scale.
        error: float32 [vocabulary], ‖ε‖ of each row.
        norm: float32 [vocabulary], ‖w‖.
    """

    weight: torch.Tensor
    scale: torch.Tensor
    error: torch.Tensor
    norm: torch.Tensor

    @classmethod
    def of(cls, weight: Any, rows: int = 16384) -> Rounded:
        """Round float32 [vocabulary, d], a tensor or a slice of a safetensors file, so many rows at a time."""
        count = len(weight) if isinstance(weight, torch.Tensor) else weight.get_shape()[0]
        parts = [_rounded(weight[first : first + rows]) for first in range(0, count, rows)]
        return cls(*(torch.cat(column) for column in zip(*parts, strict=True)))

    def part(self, some: slice) -> Rounded:
        """Some of its rows."""
        return Rounded(self.weight[some], self.scale[some], self.error[some], self.norm[some])

    def is_of(self, weight: torch.Tensor, rows: int = 64) -> bool:
        """Whether some of its rows, spread over the vocabulary, are these rounded."""
        if self.weight.shape != weight.shape:
            return False
        some = torch.linspace(0, len(weight) - 1, rows).long()
        again = _rounded(weight[some])
        own = (self.weight[some], self.scale[some], self.error[some], self.norm[some])
        return torch.equal(own[0], again[0]) and all(
            torch.allclose(a, b, rtol=1e-4) for a, b in zip(own[1:], again[1:], strict=True)
        )


def _rounded(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    weight = weight.detach().float()
    scale = weight.abs().amax(dim=1).clamp(min=1e-30) / LARGEST
    whole = (weight / scale[:, None]).round_()
    error = (weight - whole * scale[:, None]).norm(dim=1)
    return whole.to(torch.int8), scale, error, weight.norm(dim=1)


class Shortlist:
    """Finds the likeliest tokens of states.

    Args:
        part: the lm_head, with what adapters add.
        rounded: its weight in 8 bits.
    """

    def __init__(self, part: Part, rounded: Rounded) -> None:
        self.part, self.rounded, self.weight = part, rounded, part.weight
        weight, bias, up = part.weight, part.bias, part.up
        groups = -(-len(weight) // GROUP)
        slack = 4 * (weight.shape[1] + 8) * ROUNDING
        bounds = [rounded.error * (1 + MARGIN), rounded.norm * (1 + MARGIN), slack * rounded.norm]
        if bias is not None:
            bounds[2] = bounds[2] + slack * bias.abs()
        if up is not None:
            bounds.append(slack * up.norm(dim=1))
        missing = groups * GROUP - len(weight)
        self._bounds = [functional.pad(one, (0, missing)).view(-1, GROUP) for one in bounds]
        self._of_groups = [one.amax(dim=1) for one in self._bounds]
        self._room = weight.new_empty(0)  # for approximate products: fresh memory at every step costs a third of them

    def candidates(self, states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens one of which is each row's likeliest.

        Args:
            states: float32 [n, d], finite.
        Returns:
            int64 [k], ascending, for all rows together; float32 [n], below which every other token's product is.
        """
        columns, scale, inside = _columns(states)
        norm, left = inside.norm(dim=1) * (1 + MARGIN), (states - inside).norm(dim=1) * (1 + MARGIN)
        down = self.part.down
        low = None if down is None else down @ states.T
        # What stands before each of a token's bounds, of each row.
        shares = [norm, left, norm + left + 1]
        if low is not None and down is not None:
            # What float32 loses of A·h is relative to ‖A‖‖h‖: where it cancels, more than is left.
            shares.append(low.norm(dim=0) + down.norm() * (norm + left))
        products, highest = self._approximate(columns, scale, low)
        known = self._known(states, products, highest)
        known = known - APART * known.abs().clamp(min=1.0)
        reach = sum(bound[:, None] * share for bound, share in zip(self._of_groups, shares, strict=True))
        group, row = (highest * scale + reach >= known).nonzero(as_tuple=True)
        # Of these groups each token by its own bound: [pairs of group and row, GROUP].
        reach = sum(bound[group] * share[row, None] for bound, share in zip(self._bounds, shares, strict=True))
        reached = products[group, :, row] * scale[row, None] + reach >= known[row, None]
        pair, at = reached.nonzero(as_tuple=True)
        tokens = (group[pair] * GROUP + at).unique()
        return tokens[tokens < len(self.weight)], known

    def approximate(self, states: torch.Tensor) -> torch.Tensor:
        """Approximate products of states float32 [n, d] in units of each row's scale, without what adapters add:
        [groups, GROUP, n]. Overwritten by the next call."""
        columns, scale, _ = _columns(states)
        return self._approximate(columns, scale, None)[0]

    def _approximate(
        self, columns: torch.Tensor, scale: torch.Tensor, low: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Approximate products in units of each row's scale, [groups, GROUP, n]; each group's largest [groups, n]."""
        rounded, rows = self.rounded, columns.shape[1]
        size, groups = piece_size(rows), len(self._bounds[0])
        if len(self._room) < groups * GROUP * rows:
            self._room = self.weight.new_empty(groups * GROUP * rows)
        products = self._room[: groups * GROUP * rows].view(groups * GROUP, rows)
        products[len(self.weight) :] = -torch.inf
        highest = []
        for first in range(0, len(self.weight), size):
            part = slice(first, min(first + size, len(self.weight)))
            torch.mul(torch._int_mm(rounded.weight[part], columns), rounded.scale[part, None], out=products[part])
            if self.part.bias is not None:
                products[part].addcdiv_(self.part.bias[part, None], scale)
            if low is not None and self.part.up is not None:
                products[part].addmm_(self.part.up[part], low / scale)
            highest.append(products[first : first + size].view(-1, GROUP, rows).amax(dim=1))
        return products.view(groups, GROUP, rows), torch.cat(highest)

    def _known(self, states: torch.Tensor, products: torch.Tensor, highest: torch.Tensor) -> torch.Tensor:
        """The largest product of each row among a few promising tokens, in float32: [n]."""
        groups = highest.topk(min(CERTAIN, len(highest)), dim=0).indices
        rows = torch.arange(len(states)).expand_as(groups)
        tokens = groups * GROUP + products[groups, :, rows].argmax(dim=-1)
        return self.products(states, tokens.flatten().unique()).amax(dim=1)

    def products(self, states: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """What the lm_head gives for some tokens, float32 [n, k]."""
        return Stacked([self.part.of(tokens)]).by_columns(states)[0]


def _columns(states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """States [n, d] in 8 bits, int8 [d, n]; each row's scale [n]; and the states that these stand for [n, d]."""
    scale = states.abs().amax(dim=1).clamp(min=1e-30) / LARGEST
    whole = (states / scale[:, None]).round_()
    return whole.to(torch.int8).T.contiguous(), scale, whole * scale[:, None]


@cache
def int8_is_exact() -> bool:
    """Whether this machine's int8 products are the sums of integers that the bound stands on; looked at once.

    oneDNN adds pairs of products in 16 bits where the CPU has no VNNI, and what is beyond them is cut off.
    """
    weight = torch.full((GROUP, 64), LARGEST, dtype=torch.int8)
    weight[1::2] = -LARGEST
    for rows in (1, 32):
        columns = torch.full((64, rows), LARGEST, dtype=torch.int8)
        columns[:, 1::2] = -LARGEST
        if not torch.equal(torch._int_mm(weight, columns).long(), weight.long() @ columns.long()):
            return False
    return True


def piece_size(rows: int) -> int:
    """Tokens a piece: a multiple of the group's."""
    return max(GROUP, min(1 << 15, CACHED // (8 * max(1, rows)) // GROUP * GROUP))


def likeliest(
    states: torch.Tensor,
    shortlist: Shortlist,
    cap: Callable[[torch.Tensor], torch.Tensor],
    exact: Callable[[torch.Tensor], torch.Tensor],
    *,
    most: float = 0.06,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The argmax of each row's logits, and that logit: int64 [n], float32 [n].

    Args:
        states: float32 [n, d], after the final norm.
        cap: what the model does to products, elementwise and rising.
        exact: states → all logits, for rows where the shortlist decides nothing.
        most: the share of the vocabulary from which on a shortlist saves nothing.
    """
    logits, tokens = states.new_empty(len(states)), torch.empty(len(states), dtype=torch.long)
    whole = states.isfinite().all(dim=1)
    if whole.any():
        some = states if whole.all() else states[whole]
        found, known = shortlist.candidates(some)
        # None at all: a bound was no number, as where a weight is none.
        if 0 < len(found) <= most * len(shortlist.weight):
            scores = cap(shortlist.products(some, found))
            best = scores.max(dim=1)
            # A soft cap can make one number of two that are not: then a token that was left out might come before.
            settled = best.values > cap(known)
            tokens[whole], logits[whole] = found[best.indices], best.values
            whole = whole.masked_scatter(whole, settled)
        else:
            whole = torch.zeros_like(whole)
    if not whole.all():
        best = exact(states[~whole]).max(dim=1)
        tokens[~whole], logits[~whole] = best.indices, best.values.float()
    return tokens, logits
