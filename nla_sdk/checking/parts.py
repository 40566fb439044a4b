"""What receipts are made with: of a pair, or of models that somebody holds otherwise."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from ..model.backbone import Backbone
from ..model.reconstructor import Reconstructor
from ..model.weights.transforms import Transform

if TYPE_CHECKING:
    from ..assembly import Assembly

Encode = Callable[[Sequence[str]], torch.Tensor]
"""Texts → sentence embeddings, float32 [n, d], each of length 1."""


@dataclass(frozen=True)
class Context:
    """The text that an activation was read in.

    Attributes:
        before: up to its position, the token there included.
        behind: the rest of it.
        ids: the tokens up to the position, BOS among them; None: those of `before`.
    """

    before: str
    behind: str = ""
    ids: tuple[int, ...] | None = None


@dataclass(frozen=True, eq=False)
class Parts:
    """The models, and what is known of them; what is None has no receipts, and `Gathered.missing` says so.

    Attributes:
        reconstructor: the AR.
        source: the model that activations are read from, in memory.
        source_adapter: the adapter that is on while it is read.
        layer: the block that the activations are of.
        baseline_mse: FVE's denominator; None: the unit is gain.
        known: the AV's transform, whose mean is taken off for an AR that knows none.
        mean: float32 [d_model], of raw activations; directions of a dictionary are held against what is over it.
        towards: texts → what is added to the source's stream to steer it towards each, float32 [n, d_model].
        encode: for `in_text_meaning`.
        chance: of a calibration: by kind and receipt the mean by chance, for rows without a partner.
        fast: from the models' weights where that is known to be the same.
        why: for what is None, in words.
    """

    reconstructor: Reconstructor | None = None
    source: Backbone | None = None
    source_adapter: str | None = None
    layer: int | None = None
    baseline_mse: float | None = None
    known: Transform | None = None
    mean: torch.Tensor | None = None
    towards: Callable[[Sequence[str]], torch.Tensor] | None = None
    encode: Encode | None = None
    chance: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    fast: bool = True
    why: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, pair: Assembly) -> Parts:
        """Those of a pair. A base that nobody has loaded yet is not loaded for receipts' sake."""
        source = pair.base.in_memory if pair.read_from is None else pair.source
        why = {"reconstructor": pair.missing or "the pair has no AR", "source": "the source model is not in memory"}
        why["source"] += ": pair.source loads it"
        if source is not None and source.d_model != pair.d_model:
            source, why["source"] = None, "a map of the contract takes activations from another model's space"
        if source is not None and source.head is None:
            source, why["source"] = None, f"{source.ref} has no lm_head"
        transform = None if pair.verbalizer is None else pair.verbalizer.transform
        means = [half.mean for half in (pair.reconstructor, pair.verbalizer) if half is not None]
        return cls(
            reconstructor=pair.reconstructor,
            source=source,
            source_adapter=None if source is None else pair.source_adapter,
            layer=pair.layer,
            baseline_mse=pair.baseline_mse,
            known=transform,
            mean=next((mean.float().cpu() for mean in means if mean is not None), None),
            fast=pair.fast is not False,
            why=why,
        )
