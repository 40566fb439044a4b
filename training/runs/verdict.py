"""Whether a training loss still falls: one rule instead of an eye on a noisy curve.

A least-squares line is put through the raw losses of the last 50 steps (`--window`).
"descending" is a slope below −0.002 a step with R² of at least 0.10, "ascending" one above +0.002 with the same R², and
everything else is "flat". Raw losses, because smoothing raises R² without adding information: noise looks like a trend.

The slope is in units of the loss, so the rule fits a cross-entropy of a few nats. A loss on a small scale (the AR's
direction mse: a few tenths at the start) can fall all the way without ever reaching 0.002 a step: read its held-out FVE
instead. "flat" says what the last steps show, not what the run has learnt. Imports neither torch nor NumPy.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from nla_sdk.errors import InputError
from nla_sdk.io.logs import read_losses

WINDOW = 50
SLOPE = 0.002  # of the loss, per step
R_SQUARED = 0.10
FEWEST = 3  # two points are on a line whatever they are

Verdict = Literal["descending", "flat", "ascending"]


@dataclass(frozen=True)
class Trend:
    """What the last steps of a loss do.

    Attributes:
        verdict: "descending", "flat" or "ascending".
        slope: of the least-squares line, loss per step; 0.0 for fewer than three losses.
        r_squared: share of the losses' variance on that line, 0–1; 0.0 where the loss is constant or there are fewer
            than three.
        steps: how many losses the line was put through.
        first, last: the numbers of the first and last of these steps; None where there are no losses.
    """

    verdict: Verdict
    slope: float
    r_squared: float
    steps: int
    first: int | None
    last: int | None

    def __str__(self) -> str:
        if self.steps < FEWEST:
            return f"{self.verdict}: too few steps to tell ({self.steps}, at least {FEWEST} are needed)"
        return (
            f"{self.verdict}: slope {self.slope:+.6f} per step, R² {self.r_squared:.3f} "
            f"({self.steps} losses, steps {self.first}–{self.last})"
        )


def verdict_of(slope: float, r_squared: float) -> Verdict:
    """The rule by itself. The slope must be beyond ±0.002; R² of exactly 0.10 is enough."""
    if r_squared >= R_SQUARED and slope < -SLOPE:
        return "descending"
    if r_squared >= R_SQUARED and slope > SLOPE:
        return "ascending"
    return "flat"


def trend(losses: Sequence[float] | Mapping[int, float], window: int = WINDOW) -> Trend:
    """Slope, R² and verdict of the last `window` steps.

    Ordinary least squares of the loss y on the step x:

        slope = Σ (x − x̄)(y − ȳ) / Σ (x − x̄)²      R² = (Σ (x − x̄)(y − ȳ))² / (Σ (x − x̄)² · Σ (y − ȳ)²)

    Args:
        losses: raw losses of consecutive steps, counted from 1; or step → loss in the order of the steps, as
            `read_losses` gives it, where not every step need be there: the slope is per step either way.
        window: how many steps back from the last one to look.
    Returns:
        A Trend. Fewer than three losses are "flat", and its `steps` says so.
    Raises:
        InputError: a loss is NaN or infinite (the message names the step), or the window is shorter than three steps.
    Example:
        >>> trend([2.0 - 0.01 * step for step in range(50)]).verdict
        'descending'
    """
    if window < FEWEST:
        raise InputError(f"A window of {window} steps was asked for; a trend needs at least {FEWEST}.")
    points = list(losses.items()) if isinstance(losses, Mapping) else list(enumerate(losses, start=1))
    for step, loss in points:
        if not math.isfinite(loss):
            raise InputError(f"Step {step}: the loss is {loss}; a trend needs finite losses.")
    points = [(step, loss) for step, loss in points if step > points[-1][0] - window]
    count = len(points)
    first, last = (points[0][0], points[-1][0]) if points else (None, None)
    if count < FEWEST:
        return Trend("flat", 0.0, 0.0, count, first, last)
    steps, values = zip(*points, strict=True)
    slope = statistics.linear_regression(steps, values).slope
    # Of equal losses the mean can be off by a rounding error, and R² would be that of the rounding.
    if len(set(values)) == 1:
        return Trend("flat", slope, 0.0, count, first, last)
    try:
        r_squared = min(1.0, statistics.correlation(steps, values) ** 2)
    except statistics.StatisticsError:  # differences too small to square
        r_squared = 0.0
    return Trend(verdict_of(slope, r_squared), slope, r_squared, count, first, last)


def said_of(log: Path) -> str | None:
    """The trend of a run's log in words, for its card; None where there is no log or no loss in it."""
    losses = read_losses(log) if log.is_file() else {}
    return str(trend(losses)) if losses else None
