"""The probability that a claim is supported, from receipts that need no text: `claims.json`, saved with a pair.

A logistic regression for each kind of claim, fitted by `training.evaluate` on held-out rows whose texts are known. The
file says on what, for which halves (SHA-256), and how well the probabilities held on documents that they were not
fitted on; it carries the SHA-256 of its own canonical JSON.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from ..evaluation.claims import Reliability
from ..evaluation.parts import Count, Part
from ..evaluation.reading import digest, read_json, save, sealed
from .forms.claim import KINDS
from .receipts import Receipt, ReceiptName

CLAIMS = "claims.json"
VERSION = 1


class Weight(Part):
    """What one receipt adds: weight · (value − mean) / std."""

    weight: float
    mean: float
    std: float = Field(gt=0)


class Weights(Part):
    """The regression of one kind of claim."""

    n: Count = Field(description="Claims that it was fitted on.")
    supported: Count = Field(description="How many of them are supported.")
    intercept: float
    receipts: dict[str, Weight]


class Calibration(Part):
    """The whole file."""

    schema_version: Literal[1] = VERSION
    made_from: dict[str, str] = Field(description="SHA-256 by name: both halves' files, the data, the texts.")
    data: str
    unit: Literal["FVE", "gain"] = Field(description="Of ablation, replacement and alone.")
    baseline_mse: float | None = Field(None, gt=0, description="FVE's denominator in them; None: the unit is gain.")
    kinds: dict[str, Weights]
    chance: dict[str, dict[str, float]] = Field({}, description="By kind and receipt: the mean by chance.")
    reliability: Reliability | None = Field(None, description="On documents that were not fitted on.")
    versions: dict[str, str] = {}

    @model_validator(mode="after")
    def _of_a_known_size(self) -> Calibration:
        if (self.unit == "FVE") != (self.baseline_mse is not None):
            raise ValueError(f"unit is {self.unit} and baseline_mse is {self.baseline_mse}; FVE has one, gain has none")
        return self

    def support(self, kind: str, receipts: Mapping[ReceiptName, Receipt]) -> float | None:
        """The probability that a claim is supported, 0 to 1; None: its kind is not known, or a receipt is absent."""
        weights = self.kinds.get(kind)
        if weights is None or any(name not in receipts for name in weights.receipts):
            return None
        score = weights.intercept + sum(
            one.weight * (receipts[name].value - one.mean) / one.std  # pyright: ignore[reportArgumentType]
            for name, one in weights.receipts.items()
        )
        return 1.0 / (1.0 + math.exp(-max(-700.0, min(700.0, score))))

    def why_not(self, kind: str, receipts: Mapping[ReceiptName, Receipt]) -> str | None:
        """Why a claim has no probability, in words; None: it has one."""
        if (weights := self.kinds.get(kind)) is None:
            return f"claims of the kind {kind!r} were not measured"
        lacking = [name for name in weights.receipts if name not in receipts]
        return f"it rests on {', '.join(lacking)}, which this claim has not" if lacking else None

    def does_without(self, receipt: ReceiptName) -> list[str]:
        """The kinds of claims whose probability does not rest on a receipt, or that have none."""
        return [kind for kind in KINDS if kind not in self.kinds or receipt not in self.kinds[kind].receipts]

    @property
    def needed(self) -> frozenset[str]:
        """The receipts that a probability is made of, of any kind."""
        return frozenset(name for weights in self.kinds.values() for name in weights.receipts)

    def digest(self) -> str:
        """SHA-256 of the canonical JSON."""
        return digest(self)

    def save(self, path: Path) -> Path:
        """Write the file, atomically; returns its path."""
        return save(self, path)


def load_calibration(path: Path) -> Calibration:
    """Read a `claims.json`.

    Raises:
        MissingFileError: there is none.
        EvaluationError: it is malformed, of another version, or was changed after it was written.
    """
    path = Path(path)
    content = read_json(path, "a calibration of claims", "a calibration of claims")
    return sealed(path, content, Calibration, (VERSION,), "evaluate the pair again")
