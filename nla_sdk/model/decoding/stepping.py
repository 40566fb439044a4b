"""One token further: the model's own step, or the same from its weights where that is known to be the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import nn

from ..fast.blocks import CLOSE
from ..fast.steps import Steps

if TYPE_CHECKING:
    from ..backbone import Backbone
    from ..fast.blocks import Blocks


class Stepping(Protocol):
    """Rows being written, in some order of its own."""

    joins: bool
    """Whether rows may be added while others are being written."""

    def join(self, cache: Any) -> None:
        """Add rows behind the others; `cache` is transformers', of their prompts."""

    def keep(self, going: Sequence[int]) -> list[int]:
        """Let all rows go but these; returns them in the order they have from now on."""

    def __call__(self, tokens: torch.Tensor) -> torch.Tensor:
        """States [rows, d] after the final norm (or logits), once each row has read its token: int64 [rows]."""


class ModelSteps:
    """The model's own step, on one cache: all rows are equally far, so that none can join them.

    Args:
        forward: runs tokens [rows, 1] on a cache, which grows; gives states, or logits.
    """

    joins = False

    def __init__(self, forward: Callable[[torch.Tensor, Any], torch.Tensor], device: torch.device) -> None:
        self.forward, self.device = forward, device
        self.cache: Any = None

    def join(self, cache: Any) -> None:
        self.cache = cache

    def keep(self, going: Sequence[int]) -> list[int]:
        if going:
            self.cache.batch_select_indices(torch.tensor(going, device=self.device))
        return list(going)

    def __call__(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.forward(tokens[:, None], self.cache)


def steps_alike(backbone: Backbone, blocks: Blocks, ids: Sequence[int]) -> bool:
    """Whether steps from weights give the states that the model gives: two rows, one token further than the other.

    Args:
        ids: of some prompt. The caller holds the backbone, with the adapter on that `blocks` were read with.
    """
    from transformers import DynamicCache

    if len(ids) < 3:
        return False
    cache = DynamicCache(config=backbone.model.config)
    row = torch.tensor([list(ids)], device=backbone.device)
    expected = decoder_of(backbone)(input_ids=row, past_key_values=cache, use_cache=True).last_hidden_state[0]
    steps = Steps(blocks)
    for length in (len(ids) - 1, len(ids) - 2):
        steps.add([(layer.keys[:, :, :length], layer.values[:, :, :length]) for layer in cache.layers])
    found = steps(row[0, -2:].flip(0))
    return bool((found - expected[-2:].flip(0)).abs().max() <= CLOSE * expected[-2:].abs().max())


def decoder_of(backbone: Backbone) -> nn.Module:
    """What stands before the lm_head."""
    return getattr(backbone.model, backbone.model.base_model_prefix)
