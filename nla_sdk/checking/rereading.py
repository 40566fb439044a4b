"""Receipts from the AR: how much of the activation is lost without a claim, and had by the claim alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from ..metrics import NO_ERROR, unit
from ..model.running.watching import Watch
from .parts import Parts


class Rereading:
    """Texts that the AR is to read, each once a layer; then how near they come to vectors.

    Args:
        vectors: float32 [rows, d_model], raw.
        layers: that each row is of; None: the contract's.
    Attributes:
        unit: "FVE", or "gain" where nobody knows FVE's denominator (of that layer).
    """

    def __init__(self, parts: Parts, vectors: torch.Tensor, layers: Sequence[int | None], watch: Watch) -> None:
        assert parts.reconstructor is not None, "whoever asks for these receipts has an AR"
        self.ar, self.watch = parts.reconstructor, watch
        self.layers = [None if layer == self.ar.contract.layer else layer for layer in layers]
        compared = self.ar.compared(vectors, self.layers, known=parts.known)
        self.targets = unit(compared.cpu().numpy())
        own = all(layer is None for layer in self.layers)
        self.baseline = parts.baseline_mse if own else None
        self.unit = "gain" if self.baseline is None else "FVE"
        self._made: dict[tuple[str, int | None], np.ndarray] = {}
        self._asked: dict[tuple[str, int | None], None] = {}

    def known(self, row: int, text: str, reconstruction: torch.Tensor) -> None:
        """What the AR makes of a text has been computed already."""
        self._made[text, self.layers[row]] = unit(reconstruction.cpu().numpy())

    def ask(self, row: int, text: str) -> None:
        """This text of a row is to be read."""
        self._asked[text, self.layers[row]] = None

    def read(self) -> None:
        """Read all that was asked for and is not known."""
        new = [key for key in self._asked if key not in self._made and key[0]]
        for layer in dict.fromkeys(layer for _, layer in new):
            texts = [text for text, of in new if of == layer]
            made = unit(self.ar(texts, layer=layer, watch=self.watch).numpy())
            self._made.update(((text, layer), one) for text, one in zip(texts, made, strict=True))
        for layer in dict.fromkeys(self.layers):
            if self.baseline is None or ("", layer) in self._asked:
                self._made["", layer] = unit(self.ar.empty(layer).numpy())
        self._asked.clear()

    def lost(self, row: int, text: str, less: str, of: int | None = None) -> float | None:
        """FVE (or gain) of a text less that of another, of a row's words.

        Args:
            of: the row whose vector they are held against; default: the words' own.
        Returns:
            None: no words make no error there, so that a gain means nothing.
        """
        layer, target = self.layers[row], self.targets[row if of is None else of]
        lost = 2.0 * float((self._made[text, layer] - self._made[less, layer]) @ target)
        if self.baseline is not None:
            return lost / self.baseline
        nothing = 2.0 * (1.0 - float(self._made["", layer] @ target))
        return None if nothing < NO_ERROR else lost / nothing
