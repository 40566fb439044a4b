"""Curves over time: what a training log says of its held-out rows, and how a run's checkpoints were evaluated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nla_sdk.evaluation.schema import Evaluation
from nla_sdk.io.logs import log_lines

from .style import BLACK, BLUE, GREY, ORANGE, bare, minus

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

Curve = tuple[list[int], list[float]]  # steps, values
KEYS = {
    "av": (
        ("heldout_loss", BLUE, "true vectors"),
        ("heldout_loss_shuffled", ORANGE, "vectors of other rows"),
    ),
    "ar": (
        ("heldout_fve_true", BLUE, "true text"),
        ("heldout_fve_empty", GREY, "no text"),
        ("heldout_fve_shuffled", ORANGE, "text of other rows"),
    ),
}


def heldout_curves(log: Path, role: str) -> dict[str, Curve]:
    """The held-out curves of a training log (JSON lines), as far as it has them; {} for a log without any."""
    curves: dict[str, Curve] = {}
    for _, record in log_lines(log, strict=False):
        if not isinstance(record.get("step"), int | float):
            continue  # of something else than a step
        for key, *_ in KEYS[role]:
            if isinstance(record.get(key), int | float):
                steps, values = curves.setdefault(key, ([], []))
                steps.append(record["step"])
                values.append(record[key])
    return curves


def training(canvas: Canvas, curves: Mapping[str, Mapping[str, Curve]]) -> None:
    """Held-out loss of the AV with true and with other vectors; held-out FVE of the AR with true, no and other text."""
    panels = canvas.subplots(1, len(curves), squeeze=False)[0]
    for axes, role in zip(panels, [role for role in ("av", "ar") if role in curves], strict=True):
        for key, colour, name in KEYS[role]:
            if key in curves[role]:
                steps, values = curves[role][key]
                label = minus(f"{name}, last {values[-1]:.3f}")
                axes.plot(steps, values, color=colour, linewidth=2, marker="o", markersize=3.5, label=label)
        if role == "ar":
            axes.axhline(0.0, color=BLACK, linewidth=1)
        title = "AV: held-out loss" if role == "av" else "AR: held-out FVE"
        axes.set(
            title=title,
            xlabel="step",
            ylabel="nats per token" if role == "av" else "FVE (0: the mean direction over all rows)",
        )
        low, high = axes.get_ylim()
        axes.set_ylim(low, high + 0.4 * (high - low))  # room for the legend above the curves
        axes.legend(frameon=False, fontsize=10, loc="upper right" if role == "av" else "upper left")
        bare(axes)


def checkpoint_curves(canvas: Canvas, checkpoints: Sequence[tuple[str, Evaluation | None]]) -> None:
    """FVE and gain of the checkpoints that were evaluated, each at its place among all of them."""
    evaluated = [(place, evaluation) for place, (_, evaluation) in enumerate(checkpoints) if evaluation is not None]
    axes = canvas.subplots()
    for label, colour, figure_of in (
        ("FVE", BLUE, lambda evaluation: evaluation.round_trip.fve),
        ("gain over no text", ORANGE, lambda evaluation: evaluation.gain),
    ):
        points = [(place, figure) for place, evaluation in evaluated if (figure := figure_of(evaluation)) is not None]
        if not points:
            continue
        x, y = [place for place, _ in points], [figure.value for _, figure in points]
        ends = [figure.interval_95 or (figure.value, figure.value) for _, figure in points]
        errors = [
            [value - low for value, (low, _) in zip(y, ends, strict=True)],
            [high - value for value, (_, high) in zip(y, ends, strict=True)],
        ]
        last = minus(f"{label}, last {y[-1]:.3f}")
        axes.errorbar(x, y, errors, color=colour, marker="o", markersize=5, capsize=3, linewidth=2, label=last)
    axes.axhline(0.0, color=BLACK, linewidth=1)
    axes.set_xticks(range(len(checkpoints)), [name for name, _ in checkpoints])
    axes.set(title=f"Round trip over {len(evaluated)} checkpoints", ylabel="FVE, gain")
    axes.legend(frameon=False, fontsize=10)
    bare(axes)
