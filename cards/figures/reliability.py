"""The figure of the calibrated probability: what it says of claims, against how many of them are supported."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nla_sdk.evaluation.schema import Evaluation

from .style import BLUE, GREY, bare, minus

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

SHARES = (0, 0.2, 0.4, 0.6, 0.8, 1.0)


def claims_reliability(canvas: Canvas, evaluation: Evaluation) -> None:
    """Each bin's share of supported claims at its mean probability; a line to where it should be."""
    found = evaluation.claims.reliability
    axes = canvas.subplots()
    sizes = sorted({one.n for one in found.bins})
    label = f"{sizes[0]}" if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=1.4, linestyle="--", label="as often as it says")
    for one in found.bins:
        axes.plot([one.predicted] * 2, [one.predicted, one.observed], color=BLUE, linewidth=1.6, alpha=0.45)
    axes.plot(
        [one.predicted for one in found.bins],
        [one.observed for one in found.bins],
        color=BLUE,
        linewidth=0,
        marker="o",
        markersize=7,
        label=f"{label} claims with like probabilities",
    )
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.04, 1.04)
    axes.set_xticks(SHARES)
    axes.set_yticks(SHARES)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda value, _: f"{value:.0%}")
    auroc, ece = found.auroc.value, found.ece.value
    title = f"{found.n} claims of {found.documents} documents not fitted on: ECE {ece:.3f}, AUROC {auroc:.3f}"
    axes.set(title=minus(title), xlabel="probability that a claim is supported", ylabel="share that is supported")
    axes.legend(frameon=False, fontsize=10, loc="upper left")
    bare(axes)
