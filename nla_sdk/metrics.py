"""Cosine, direction mse and FVE: one definition, used by the SDK, training, evaluation and cards alike.

Everything compares directions, as the method does (Fraser-Taliente et al. 2026,
https://transformer-circuits.pub/2026/nla/): both vectors are scaled to norm √d, then `mse = mean((a − b)²) =
2 (1 − cos)`. The range is 0–4 and unrelated directions score 2.0. NumPy only: cards use this module without torch. All
inputs are array-likes of shape [d] or [n, d], any float dtype; all results are float64.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

Errors = TypeVar("Errors", float, np.ndarray)
NO_ERROR = 1e-9  # mse below this is rounding: nothing is divided by it


def unit(vectors: npt.ArrayLike) -> np.ndarray:
    """L2-normalise along the last axis, in float64. A zero vector gives NaN (it has no direction)."""
    array = np.asarray(vectors, dtype=np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        return array / np.linalg.norm(array, axis=-1, keepdims=True)


def cosine(a: npt.ArrayLike, b: npt.ArrayLike) -> np.ndarray | float:
    """Cosine of the angle between `a` and `b`, row by row.

    Args:
        a, b: shapes [d] or [n, d]; broadcast against each other.
    Returns:
        A float for two vectors, else an array [n].
    Example:
        >>> cosine([1.0, 0.0], [1.0, 1.0])
        0.7071067811865475
    """
    result = np.clip(np.sum(unit(a) * unit(b), axis=-1), -1.0, 1.0)  # rounding can step over either end
    return float(result) if result.ndim == 0 else result


def direction_mse(a: npt.ArrayLike, b: npt.ArrayLike) -> np.ndarray | float:
    """Mean squared difference of the two directions, each scaled to norm √d: 2 (1 − cos), between 0 and 4."""
    return 2.0 * (1.0 - cosine(a, b))


@dataclass(frozen=True)
class MeanBaselines:
    """What predicting the mean direction scores on a set of vectors.

    Attributes:
        mean_norm: mse of the re-normalised mean direction: 2 (1 − r), r the length of the mean unit vector. The default
            baseline of FVE, because the reconstructor's output is normalised too.
        raw_variance: mse of the mean unit vector as it is: 1 − r². The stricter second figure.
    """

    mean_norm: float
    raw_variance: float


def mean_baselines(vectors: npt.ArrayLike) -> MeanBaselines:
    """The two predict-the-mean baselines of FVE over held-out vectors [n, d], in closed form.

    With u_i the unit vectors, m their mean and r = ‖m‖: the mean of 2 (1 − cos(u_i, m)) is 2 (1 − r), and the mean of
    ‖u_i − m‖² is 1 − r².
    """
    length = float(np.linalg.norm(unit(vectors).mean(axis=0)))
    return MeanBaselines(mean_norm=2.0 * (1.0 - length), raw_variance=1.0 - length**2)


def fve(mse: Errors, baseline_mse: float) -> Errors:
    """Fraction of variance explained: 1 − mse / baseline. Of one row or of an array (rows average to the whole).

    0 is what the mean direction scores over the rows that the baseline is of. Of one row it says little by itself: the
    mean direction alone may score anything there.
    """
    return 1.0 - mse / baseline_mse


def gain(mse_real: float, mse_empty: float) -> float:
    """How much of the empty explanation's error the real explanation removes: 1 − mse(real) / mse(empty).

    Below 0 the words do worse than none. Where no words make no error (below 1e-9, which is rounding), nothing is left
    to remove: 0.0 if the real explanation makes none either, else minus infinity.

    Example:
        >>> round(gain(1.1416, 1.1898), 2)
        0.04
    """
    if mse_empty < NO_ERROR:
        return 0.0 if mse_real < NO_ERROR else -math.inf
    return 1.0 - mse_real / mse_empty


OUTLYING = 10.0  # times the median norm
_SPREADS = 3.5  # robust standard deviations of the log norm


def norm_limit(norms: npt.ArrayLike) -> float:
    """The norm above which a row is left out of a mean of raw activations.

    10 times the median norm, or 3.5 robust standard deviations (1.4826 × MAD) of the log norm above it where norms
    spread that far by nature. Attention sinks have 20 to 1,000 times the norm of other rows: at 1 % of all rows and 100
    times they are half of the mean (cosine 0.65 with that of the others), and v − mean is one vector for every row.
    The demo's held-out rows reach 1.3 times their median; of a lognormal, whatever its width, 0.03 % lie above.

    Args:
        norms: [n]. Zero, NaN and infinity say nothing of the limit.
    Returns:
        The limit; infinity where there is no norm to say it.
    Example:
        >>> round(norm_limit([1.0, 1.0, 1.0, 400.0]), 6)
        10.0
    """
    values = np.asarray(norms, dtype=np.float64)
    values = values[np.isfinite(values) & (values > 0)]
    if not len(values):
        return math.inf
    logs = np.log(values)
    median = float(np.median(logs))
    spread = 1.4826 * float(np.median(np.abs(logs - median)))
    with np.errstate(over="ignore"):
        return float(np.exp(median + max(math.log(OUTLYING), _SPREADS * spread)))


def retrieval_ranks(predictions: npt.ArrayLike, targets: npt.ArrayLike) -> np.ndarray:
    """Rank (0 = first) of each row's own target among all targets, by cosine to the row's prediction.

    Args:
        predictions, targets: [n, d] each, row i of one belonging to row i of the other.
    Returns:
        int64 [n]. Ties count against the row, and a prediction without a direction is last. The mean over all targets
        is subtracted from both sides first: in a space where everything points one way, plain cosine ranks little but
        the shared direction.
    """
    p, t = unit(predictions), unit(targets)
    centre = t.mean(axis=0)
    scores = np.nan_to_num(unit(p - centre) @ unit(t - centre).T, nan=-np.inf)
    own = np.diag(scores)[:, None]
    ties_and_better = (scores >= own).sum(axis=1) - 1
    return ties_and_better.astype(np.int64)
