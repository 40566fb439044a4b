"""How well a number tells claims that hold from others, and how well a probability does, drawn by document."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from nla_sdk.evaluation.claims import Bin
from nla_sdk.evaluation.parts import Figure

from ..measures.nulls import LEVEL, Documents

BINS = 10
MOST_AT_ONCE = 2_000_000  # numbers held in memory together


def _weights(documents: Documents, draws: int, seed: int) -> Iterator[np.ndarray]:
    """How often each row is drawn, float64 [so many draws, n]: whole documents are, with replacement."""
    at_once = max(1, MOST_AT_ONCE // max(documents.n, 1))
    for counts in documents.counts(draws, seed):
        for first in range(0, len(counts), at_once):
            yield counts[first : first + at_once, documents.codes]


def _interval(values: np.ndarray) -> tuple[float, float] | None:
    if not len(values) or not np.isfinite(values).all():
        return None
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def auroc(
    scores: np.ndarray, holds: np.ndarray, documents: Documents, *, draws: int = 2000, seed: int = 0
) -> Figure | None:
    """Area under the ROC curve, ties counting half (Mann and Whitney's U over both counts); None: one sort only.

    Args:
        scores: float [n]; larger should mean that a claim holds.
        holds: [n], 1 or 0.
        documents: of each claim; the 95 % interval is a percentile bootstrap over them.
    Example:
        >>> auroc(np.array([1.0, 2.0, 3.0]), np.array([0, 1, 1]), Documents(["a", "b", "c"])).value
        1.0
    """
    holds = np.asarray(holds, dtype=bool)
    if holds.all() or not holds.any():
        return None
    order = np.argsort(scores, kind="stable")
    starts = np.flatnonzero(np.diff(scores[order], prepend=-np.inf))  # where a value differs from the one before
    positive = holds[order].astype(np.float64)

    def area(weights: np.ndarray) -> np.ndarray:
        ordered = weights[:, order]
        above = np.add.reduceat(ordered * positive, starts, axis=1)
        below = np.add.reduceat(ordered * (1.0 - positive), starts, axis=1)
        wins = (above * (np.cumsum(below, axis=1) - 0.5 * below)).sum(axis=1)
        with np.errstate(divide="ignore", invalid="ignore"):
            return wins / (above.sum(axis=1) * below.sum(axis=1))

    value = float(area(np.ones((1, len(scores))))[0])
    interval = None
    if len(documents) > 1:
        found = np.concatenate([area(weights) for weights in _weights(documents, draws, seed)])
        interval = _interval(found[np.isfinite(found)])  # a draw of documents may hold one sort only
    return Figure(value=value, n=len(scores), interval_95=interval)


def bins_of(predicted: np.ndarray) -> np.ndarray:
    """Which of ten bins each claim is in, as many claims in each: int [n], by rising probability."""
    order = np.argsort(predicted, kind="stable")
    found = np.empty(len(predicted), dtype=np.int64)
    for number, part in enumerate(np.array_split(order, BINS)):
        found[part] = number
    return found


def calibration_error(
    predicted: np.ndarray, holds: np.ndarray, documents: Documents, *, draws: int = 2000, seed: int = 0
) -> tuple[Figure, list[Bin]]:
    """Expected calibration error and its bins: Σ of n/N |mean probability − share that holds|.

    After Naeini, Cooper and Hauskrecht (2015), with bins of as many claims each. The interval keeps the bins as they
    are; it lies above the value where calibration is good, because a difference of either sign adds to the error.

    Args:
        predicted, holds: float [n], 0 to 1.
    """
    at = bins_of(predicted)
    inside = np.zeros((len(predicted), BINS))
    inside[np.arange(len(predicted)), at] = 1.0
    off = inside * (predicted - holds)[:, None]
    value = float(np.abs(off.sum(axis=0)).sum() / len(predicted))
    interval = None
    if len(documents) > 1:
        found = [
            np.abs(weights @ off).sum(axis=1) / weights.sum(axis=1) for weights in _weights(documents, draws, seed)
        ]
        interval = _interval(np.concatenate(found))
    bins = [
        Bin(n=int(mask.sum()), predicted=float(predicted[mask].mean()), observed=float(holds[mask].mean()))
        for mask in (at == number for number in range(BINS))
        if mask.any()
    ]
    return Figure(value=value, n=len(predicted), interval_95=interval), bins
