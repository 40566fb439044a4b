"""Mean, norms and baseline of a table of activations, in two passes that hold one batch in memory at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Moments:
    """What a table of raw activations looks like.

    Attributes:
        rows: how many.
        mean: float32 [d], their mean.
        median_norm: median ‖v‖.
        centred_norm: median ‖v − mean‖ (REFERENCE §1, centring).
        baseline_mse: 2 (1 − cos) of predicting the mean direction for every row: FVE's denominator. The mean is over
            L2-normalised rows and re-normalised, so it is 2 (1 − ‖mean of unit vectors‖).
    """

    rows: int
    mean: np.ndarray
    median_norm: float
    centred_norm: float
    baseline_mse: float

    def facts(self) -> dict:
        """The numbers, for a sidecar."""
        return {
            "rows": self.rows,
            "median_norm": self.median_norm,
            "centred_norm": self.centred_norm,
            "baseline_mse": self.baseline_mse,
        }


def moments(batches: Callable[[], Iterable[np.ndarray]]) -> Moments:
    """Moments of all rows of `batches()`, which is called twice and gives float32 [n, d] arrays.

    Sums are float64 and in order, so the same batches give the same bits.

    Example:
        >>> moments(lambda: [np.eye(2, dtype=np.float32)]).mean.tolist()
        [0.5, 0.5]
    """
    total = unit_total = None
    norms = []
    for batch in batches():
        wide = batch.astype(np.float64)
        lengths = np.linalg.norm(wide, axis=1)
        norms.append(lengths)
        summed, units = wide.sum(axis=0), (wide / np.maximum(lengths, 1e-30)[:, None]).sum(axis=0)
        total = summed if total is None else total + summed
        unit_total = units if unit_total is None else unit_total + units
    if total is None:
        raise ValueError("No rows: a mean of nothing does not exist.")
    lengths = np.concatenate(norms)
    mean = total / len(lengths)
    centred = np.concatenate([np.linalg.norm(batch.astype(np.float64) - mean, axis=1) for batch in batches()])
    return Moments(
        rows=len(lengths),
        mean=mean.astype(np.float32),
        median_norm=float(np.median(lengths)),
        centred_norm=float(np.median(centred)),
        baseline_mse=float(2 * (1 - np.linalg.norm(unit_total / len(lengths)))),
    )
