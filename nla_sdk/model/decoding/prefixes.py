"""The KV caches of what stands before a marker: computed once, copied for every use."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import torch

from ..backbone import Backbone

KEPT = 8  # prefixes: prompts differ by layer or question, and few are asked at once


class Prefixes:
    """Caches of token sequences that prompts begin with, on one backbone with the adapter that is on.

    Attention is causal, so keys and values before a marker depend on no activation, wherever it goes in.
    """

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone
        self._of: object = None  # the adapter as it was then, see `Backbone.active`
        self._caches: OrderedDict[tuple[int, ...], Any] = OrderedDict()

    def clear(self) -> None:
        """Forget all: the adapter's weights have changed."""
        self._caches.clear()

    def of(self, ids: Sequence[int], rows: int) -> Callable[[], Any]:
        """What makes caches of `ids` for `rows` rows; it runs nothing, so that it may be called where hooks are.

        Each cache is the caller's own: it grows in place, and rows leave it as they finish.
        """
        if self._of != self.backbone.active:
            self._caches.clear()
            self._of = self.backbone.active
        key = tuple(ids)
        if key not in self._caches:
            self._caches[key] = self._run(key)
            if len(self._caches) > KEPT:
                self._caches.popitem(last=False)
        self._caches.move_to_end(key)
        kept = self._caches[key]

        def fresh() -> Any:
            cache = copy.deepcopy(kept)
            if key and rows > 1:
                cache.batch_repeat_interleave(rows)
            return cache

        return fresh

    def _run(self, ids: tuple[int, ...]):
        from transformers import DynamicCache

        cache = DynamicCache(config=self.backbone.model.config)
        if ids:
            row = torch.tensor([ids], device=self.backbone.device)
            self.backbone.model(input_ids=row, past_key_values=cache, use_cache=True, logits_to_keep=1)
        return cache
