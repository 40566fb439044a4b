"""Rows of different lengths in batches: which run together, how they are padded, the states of tokens that are read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from .backbone import Backbone

TOKENS_PER_BATCH = 4096


def by_length(lengths: Sequence[int], tokens_per_batch: int | None = None) -> Iterator[list[int]]:
    """Indices of rows to run together, longest first and ties in order, so that little is padded.

    Args:
        lengths: tokens of each row, at least 1.
        tokens_per_batch: how many a padded batch may hold (a longer row runs alone); default: `TOKENS_PER_BATCH`.
    Example:
        >>> list(by_length([3, 8, 4, 4], tokens_per_batch=12))
        [[1], [2, 3, 0]]
    """
    budget = tokens_per_batch or TOKENS_PER_BATCH
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    while order:
        size = max(1, budget // lengths[order[0]])
        yield order[:size]
        order = order[size:]


def pad_right(prompts: Sequence[Sequence[int]], pad_id: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids [n, longest], padded on the right, and the index [n] of each row's last real token."""
    width = max(len(ids) for ids in prompts)
    padded = torch.full((len(prompts), width), pad_id, dtype=torch.long)
    for row, ids in enumerate(prompts):
        padded[row, : len(ids)] = torch.as_tensor(ids, dtype=torch.long)
    return padded, torch.tensor([len(ids) - 1 for ids in prompts])


def token_states(
    backbone: Backbone, prompts: Sequence[Sequence[int]], block: int, positions: Sequence[int] | None = None
) -> torch.Tensor:
    """The residual stream after `block` at one token of each prompt: [n, d_model]. The caller holds the backbone.

    Args:
        positions: the token of each; None: the last.
    """
    padded, last = pad_right(prompts)
    states = backbone.run_to_block(padded, block)
    wanted = last if positions is None else torch.tensor(positions)
    return states[torch.arange(len(prompts), device=states.device), wanted.to(states.device)]
