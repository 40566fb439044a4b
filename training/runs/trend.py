"""Whether a training loss still falls: one rule instead of an eye on a noisy curve. `python -m training.runs.trend LOG`

A least-squares line is put through the raw losses of the last 50 steps (`--window`).
"descending" is a slope below −0.002 a step with R² of at least 0.10, "ascending" one above +0.002 with the same R², and
everything else is "flat". Raw losses, because smoothing raises R² without adding information: noise looks like a trend.

The slope is in units of the loss, so the rule fits a cross-entropy of a few nats. A loss on a small scale (the AR's
direction mse: a few tenths at the start) can fall all the way without ever reaching 0.002 a step: read its held-out FVE
instead. "flat" says what the last steps show, not what the run has learnt. Imports neither torch nor NumPy.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from nla_sdk.errors import InputError

from .command import friendly

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
    middle = math.fsum(step for step, _ in points) / count
    level = math.fsum(loss for _, loss in points) / count
    across = math.fsum((step - middle) ** 2 for step, _ in points)
    down = math.fsum((loss - level) ** 2 for _, loss in points)
    both = math.fsum((step - middle) * (loss - level) for step, loss in points)
    slope = both / across
    # Of equal losses the mean can be off by a rounding error, and R² would be that of the rounding.
    constant = down == 0.0 or len({loss for _, loss in points}) == 1
    r_squared = 0.0 if constant else min(1.0, slope * both / down)
    return Trend(verdict_of(slope, r_squared), slope, r_squared, count, first, last)


def log_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The lines of a training log as they are, and what each of them says.

    A last line that is cut off is left out: the run was killed while it wrote, or is writing now.

    Raises:
        InputError: the log cannot be read, or a line is not a JSON object with a whole number `step`; names the line.
    """
    try:
        lines = Path(path).read_bytes().split(b"\n")
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            text = line.decode("utf-8")
            record = json.loads(text)
        except ValueError as error:  # of the decoding too
            if number == len(lines):  # whole lines end in a newline, so this one is not whole
                return
            raise InputError(f"{path}, line {number}: not JSON ({error}); expected one object per step.") from error
        step = record.get("step") if isinstance(record, dict) else None
        if not isinstance(step, int) or isinstance(step, bool):
            raise InputError(f'{path}, line {number}: expected an object with a whole number "step".')
        yield text, record


def read_log(path: Path) -> list[dict[str, Any]]:
    """The records of a training log, one per step, steps ascending.

    Where the log goes back to an earlier step, a run was resumed from a checkpoint: what was logged from that step on
    belongs to steps that were taken again, and only the later account of them counts. Two records of the same step that
    follow each other are one.

    Raises:
        InputError: as `log_lines`.
    """
    records: list[dict[str, Any]] = []
    for _, record in log_lines(path):
        while records and records[-1]["step"] > record["step"]:
            records.pop()
        if records and records[-1]["step"] == record["step"]:
            records[-1] = records[-1] | record
        else:
            records.append(record)
    return records


def read_losses(path: Path) -> dict[int, float]:
    """step → loss of a training log (`log.jsonl`), for `trend`. Records without a loss (step 0) are left out.

    Raises:
        InputError: the log cannot be read or is malformed; names the line, or the step whose loss is not a number.
    """
    losses = {}
    for record in read_log(path):
        if "loss" not in record:
            continue
        loss = record["loss"]
        if not isinstance(loss, int | float) or isinstance(loss, bool):
            raise InputError(f"{path}, step {record['step']}: the loss is {loss!r}; expected a number.")
        losses[record["step"]] = float(loss)
    return losses


def said_of(log: Path) -> str | None:
    """The trend of a run's log in words, for its card; None where there is no log or no loss in it."""
    losses = read_losses(log) if log.is_file() else {}
    return str(trend(losses)) if losses else None


def main(
    log: Annotated[Path, typer.Argument(metavar="LOG", help="A run's log.jsonl.")],
    window: Annotated[int, typer.Option("--window", help="How many of the last steps to look at.")] = WINDOW,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    with friendly():
        found = trend(read_losses(log), window)
        if found.steps < FEWEST:
            raise InputError(f"{log} has {found.steps} losses in its last {window} steps; a trend needs {FEWEST}.")
        print(json.dumps(asdict(found)) if as_json else found)


main.__doc__ = __doc__

if __name__ == "__main__":
    typer.run(main)
