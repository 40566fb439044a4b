"""Mean, norms and baseline of a table of activations, in passes that hold one batch in memory at a time.

Rows of outlying norm (attention sinks) are left out, counted, and what they would have changed is said.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from nla_sdk import metrics

SAME_DIRECTION, SAME_NORM = 0.99, 1.1  # within these the two means are alike


@dataclass(frozen=True)
class Moments:
    """What a table of raw activations looks like.

    Attributes:
        rows: how many there are, those left out included.
        left_out: how many have a norm above `limit`; all that follows is of the others.
        limit: see `nla_sdk.metrics.norm_limit`.
        mean: float32 [d], their mean.
        plain_mean: float32 [d], the mean of all rows.
        median_norm: median ‖v‖ of all rows.
        centred_norm: median ‖v − mean‖.
        baseline_mse: 2 (1 − cos) of predicting the mean direction for every row: FVE's denominator. The mean is over
            L2-normalised rows and re-normalised, so it is 2 (1 − ‖mean of unit vectors‖).
    """

    rows: int
    left_out: int
    limit: float
    mean: np.ndarray
    plain_mean: np.ndarray
    median_norm: float
    centred_norm: float
    baseline_mse: float

    def facts(self) -> dict:
        """Both means, for a sidecar or statistics.json: how many rows stand between them, and what they change."""
        return {
            "rows_left_out": self.left_out,
            "left_out_above_norm": self.limit if np.isfinite(self.limit) else None,
            "norm": float(np.linalg.norm(self.mean)),
            "norm_of_all_rows": float(np.linalg.norm(self.plain_mean)),
            "cosine_with_that_of_all_rows": self._cosine(),
        }

    def said(self) -> str | None:
        """A line for whoever waits, where rows were left out; it warns where the two means disagree."""
        if not self.left_out:
            return None
        line = (
            f"{self.left_out:,} of {self.rows:,} rows have a norm above {self.limit:.4g}, "
            f"{self.limit / self.median_norm:.0f} times the median (attention sinks, mostly): left out of the mean "
            "activation"
        )
        cosine, norms = self._cosine(), [np.linalg.norm(mean) for mean in (self.mean, self.plain_mean)]
        if cosine is not None and cosine >= SAME_DIRECTION and 1 / SAME_NORM <= norms[1] / norms[0] <= SAME_NORM:
            return f"{line}, which is nearly the same with them."
        with_them = "no direction" if cosine is None else f"cosine {cosine:.3f}"
        return (
            f"warning: {line}. With them it would be another vector ({with_them}, norm {norms[1]:.4g} in place of "
            f"{norms[0]:.4g}). Sinks are mostly first positions, which extract.min_context leaves out."
        )

    def _cosine(self) -> float | None:
        """Of the two means; None where one of them has no direction."""
        if not (self.mean.any() and self.plain_mean.any() and np.isfinite(self.plain_mean).all()):
            return None
        return float(metrics.cosine(self.mean, self.plain_mean))


def moments(batches: Callable[[], Iterable[np.ndarray]]) -> Moments:
    """Moments of all rows of `batches()`, which gives float32 [n, d] arrays and is called two or three times.

    Sums are float64 and in order, so the same batches give the same bits; where no row is left out, those of all rows.

    Example:
        >>> moments(lambda: [np.eye(2, dtype=np.float32)]).mean.tolist()
        [0.5, 0.5]
    """
    norms: list[np.ndarray] = []
    sums = plain = _sums(batches(), np.inf, norms)
    if sums is None or plain is None:
        raise ValueError("No rows: a mean of nothing does not exist.")
    lengths = np.concatenate(norms)
    limit = metrics.norm_limit(lengths)
    left_out = int((lengths > limit).sum())
    if left_out:
        sums = _sums(batches(), limit, [])
        assert sums is not None, "half of the rows are below the median"
    rows = len(lengths) - left_out
    mean = sums[0] / rows
    centred = np.concatenate([_norms(wide - mean) for wide, _ in _kept(batches(), limit)])
    return Moments(
        rows=len(lengths),
        left_out=left_out,
        limit=limit,
        mean=mean.astype(np.float32),
        plain_mean=(plain[0] / len(lengths)).astype(np.float32),
        median_norm=float(np.median(lengths)),
        centred_norm=float(np.median(centred)),
        baseline_mse=float(2 * (1 - np.linalg.norm(sums[1] / rows))),
    )


def _norms(wide: np.ndarray) -> np.ndarray:
    return np.linalg.norm(wide, axis=1)


def _kept(batches: Iterable[np.ndarray], limit: float) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Of each batch, in float64, the rows that are not above the limit, and their norms."""
    for batch in batches:
        wide = batch.astype(np.float64)
        lengths = _norms(wide)
        above = lengths > limit  # not ≤: NaN is no outlier, and goes on to show
        yield (wide[~above], lengths[~above]) if above.any() else (wide, lengths)


def _sums(batches: Iterable[np.ndarray], limit: float, norms: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray] | None:
    """The sums of the kept rows and of their directions, float64 [d] each; their norms are put into `norms`."""
    found = None
    for wide, lengths in _kept(batches, limit):
        norms.append(lengths)
        summed, units = wide.sum(axis=0), (wide / np.maximum(lengths, 1e-30)[:, None]).sum(axis=0)
        found = (summed, units) if found is None else (found[0] + summed, found[1] + units)
    return found
