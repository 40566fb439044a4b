"""Whole texts through the first blocks, for what stands at a few tokens of each: the AR's and the source's way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from .blocks import Block, Blocks, Turns, attend, turned
from .branching import Layout
from .parts import Stacked


@dataclass(frozen=True, eq=False)
class Beginning:
    """What texts begin with, run once: its length, keys and values [1, kv_heads, length, head_dim] of each block."""

    length: int
    keys: list[torch.Tensor]
    values: list[torch.Tensor]


def run_beginning(blocks: Blocks, ids: Sequence[int]) -> Beginning | None:
    """Run the tokens that all texts begin with, at least one; None: there is none."""
    if not ids:
        return None
    x, turns = blocks.embed(torch.tensor([list(ids)])), blocks.rotary(torch.arange(len(ids))[None])
    keys, values = [], []
    for block in blocks.blocks:
        q, k, v = block.queries(x, turns[block.layer_type])
        keys.append(k)
        values.append(v)
        if block is not blocks.blocks[-1]:
            x = block.after_attention(x, attend(block, q, k, v, None, causal=len(ids) > 1))
    return Beginning(len(ids), keys, values)


def states_at(
    blocks: Blocks,
    ids: torch.Tensor,
    wanted: Sequence[Sequence[int]],
    beginning: Beginning | None = None,
    layout: Layout | None = None,
) -> list[torch.Tensor]:
    """The residual stream after the last of `blocks` at some tokens of each row: float32 [len(wanted[i]), d] each.

    Of the last block only what those tokens need is computed: keys and values of all, the rest of themselves.

    Args:
        ids: int64 [rows, tokens], what comes after the beginning, padded on the right: attention is causal, so no token
            sees the padding.
        wanted: positions in each row, at least one, counted from the whole text's first token; none in the beginning.
        beginning: of all rows.
        layout: of rows that hold several texts each (`branching`); `wanted` then counts places in the row.
    """
    rows, tokens = ids.shape
    before = 0 if beginning is None else beginning.length
    positions = torch.arange(tokens)[None] if layout is None else layout.positions
    turns = blocks.rotary(before + positions)
    seen = torch.ones(tokens, before + tokens, dtype=torch.bool).tril(before) if before else None
    seen = seen if layout is None else layout.seen
    x = blocks.embed(ids)
    for at, block in enumerate(blocks.blocks[:-1]):
        q, k, v = block.queries(x, turns[block.layer_type])
        k, v = _behind(beginning, at, k, v)
        x = block.after_attention(x, attend(block, q, k, v, seen, causal=seen is None and tokens > 1))
    most = max(map(len, wanted))
    # Rows that want fewer have their first one again.
    places = torch.tensor([[*one, *[one[0]] * (most - len(one))] for one in wanted]) - before
    of_places = torch.arange(before + tokens) <= (before + places)[..., None]
    if layout is not None:
        of_places = layout.seen[:, 0].gather(1, places[..., None].expand(-1, -1, before + tokens))
    read = _at(blocks, beginning, x, places, turns[blocks.blocks[-1].layer_type], of_places[:, None])
    return [row[: len(one)] for row, one in zip(read, wanted, strict=True)]


def _behind(
    beginning: Beginning | None, at: int, k: torch.Tensor, v: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    if beginning is None:
        return k, v
    both = ((beginning.keys[at], k), (beginning.values[at], v))
    k, v = (torch.cat([first.expand(len(one), -1, -1, -1), one], dim=2) for first, one in both)
    return k, v


def _at(
    blocks: Blocks,
    beginning: Beginning | None,
    x: torch.Tensor,
    places: torch.Tensor,
    turns: Turns,
    seen: torch.Tensor,
) -> torch.Tensor:
    """The output of the last block at places int64 [rows, most] of x [rows, tokens, d]: [rows, most, d]."""
    block: Block = blocks.blocks[-1]
    rows, tokens, width = x.shape
    wide = places[..., None].expand(-1, -1, width)
    queries, keys, values = block.qkv.parts
    normed = block.norms["before_attention"](x)
    k, v = (one.reshape(rows, tokens, -1, block.head_dim) for one in Stacked([keys, values])(normed.flatten(0, 1)))
    (q,) = Stacked([queries])(normed.gather(1, wide).flatten(0, 1))
    q = q.reshape(rows, places.shape[1], -1, block.head_dim)
    q = q if block.q_norm is None else block.q_norm(q)
    k = k if block.k_norm is None else block.k_norm(k)
    deep = places[:, None, :, None].expand(-1, -1, -1, turns[0].shape[-1])
    cos, sin = (one.expand(rows, -1, -1, -1).gather(2, deep) for one in turns)
    q = turned(q.transpose(1, 2), (cos, sin))
    k, v = _behind(beginning, len(blocks.blocks) - 1, turned(k.transpose(1, 2), turns), v.transpose(1, 2))
    return block.after_attention(x.gather(1, wide), attend(block, q, k, v, seen, causal=False))
