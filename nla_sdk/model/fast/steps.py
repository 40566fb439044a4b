"""The AV's step, one token for each of several rows that need not be as far as one another.

Each row has a place in one tensor of keys and one of values a block, and a length of its own: a row that ends gives its
place to the last one, a waiting row is put behind it. What a row does not have is masked.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from .blocks import Blocks, attend

MORE = 16  # places that are added beyond those that are needed at once
GROWTH = 32  # tokens by which places grow: keys and values of all tokens that might be written would be large


class Steps:
    """Rows being written.

    Args:
        blocks: of the model, as it computes now.
    Attributes:
        lengths: tokens of each row, in the order of the places.
    """

    joins = True

    def __init__(self, blocks: Blocks) -> None:
        self.blocks = blocks
        self.lengths: list[int] = []
        self._keys: list[torch.Tensor] = []  # of each block, [places, kv_heads, room, head_dim]
        self._values: list[torch.Tensor] = []

    def join(self, cache: Any) -> None:
        """Add rows behind the others, whose prompts a transformers cache holds."""
        self.add([(layer.keys, layer.values) for layer in cache.layers])

    def add(self, prompts: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> None:
        """Add rows: of each block keys and values, [rows, kv_heads, length, head_dim]."""
        rows, _, length, _ = prompts[0][0].shape
        first = len(self.lengths)
        if not self._keys:
            self._keys, self._values = ([pair[which][:0] for pair in prompts] for which in (0, 1))
        self._make_room(first + rows, length + 1)
        for kept, which in ((self._keys, 0), (self._values, 1)):
            for one, pair in zip(kept, prompts, strict=True):
                one[first : first + rows, :, :length] = pair[which]
        self.lengths += [length] * rows

    def _make_room(self, places: int, tokens: int) -> None:
        """See to it that so many rows of so many tokens fit; what is there stays."""
        had, room = self._keys[0].shape[0], self._keys[0].shape[2]
        if places <= had and tokens <= room:
            return
        places = had if places <= had else places + MORE * bool(had)  # rows may come one by one
        room = room if tokens <= room else tokens + GROWTH - 1
        for kept in (self._keys, self._values):
            kept[:] = [_roomy(one[: len(self.lengths)], places, room) for one in kept]

    def keep(self, going: Sequence[int]) -> list[int]:
        """Let rows go; returns the places of those that stay, in their new order."""
        order = list(going)
        stays = set(going)
        holes = [place for place in range(len(order)) if place not in stays]
        movers = [place for place in order if place >= len(order)]
        where = {place: place for place in order if place < len(order)}
        for hole, mover in zip(holes, movers, strict=True):
            length = self.lengths[mover]
            for kept in (*self._keys, *self._values):
                kept[hole, :, :length] = kept[mover, :, :length]
            self.lengths[hole] = length
            where[hole] = mover
        del self.lengths[len(order) :]
        return [where[place] for place in range(len(order))]

    def __call__(self, tokens: torch.Tensor) -> torch.Tensor:
        """States [rows, d] after the final norm, once each row has read its token: int64 [rows]."""
        blocks, lengths = self.blocks, self.lengths
        longest = max(lengths) + 1
        self._make_room(len(lengths), longest)
        positions = torch.tensor(lengths)
        alike = min(lengths) == longest - 1
        mask = None
        if not alike:
            mask = (torch.arange(longest) <= positions[:, None])[:, None, None]
        count = len(lengths)
        rows = torch.arange(count)
        x = blocks.embed(tokens[:, None])
        turns = blocks.rotary(positions[:, None])
        for block, keys, values in zip(blocks.blocks, self._keys, self._values, strict=True):
            q, k, v = block.queries(x, turns[block.layer_type])
            keys, values = keys[:count], values[:count]
            if alike:
                keys[:, :, longest - 1], values[:, :, longest - 1] = k[:, :, 0], v[:, :, 0]
            else:
                keys[rows, :, positions], values[rows, :, positions] = k[:, :, 0], v[:, :, 0]
            attended = attend(block, q, keys[:, :, :longest], values[:, :, :longest], mask, causal=False)
            x = block.after_attention(x, attended)
        self.lengths = [length + 1 for length in lengths]
        return blocks.norm(x)[:, 0]


def _roomy(kept: torch.Tensor, places: int, room: int) -> torch.Tensor:
    """The same numbers with space for more rows and tokens behind them.

    Zeros there: what is masked is multiplied by 0, and memory that was never written may hold NaN.
    """
    wider = kept.new_zeros(places, kept.shape[1], room, kept.shape[3])
    wider[: len(kept), :, : kept.shape[2]] = kept
    return wider
