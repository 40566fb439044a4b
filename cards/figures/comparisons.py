"""Figures of comparisons: what the AR scores on different texts, and how often the right row or document is first."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from nla_sdk.evaluation.measures import CONDITIONS
from nla_sdk.evaluation.parts import Figure
from nla_sdk.evaluation.schema import Evaluation

from .style import BLACK, BLUE, GREEN, GREY, ORANGE, RED, bare, minus

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

TICKS = {
    "real": "its own\nexplanation",
    "shuffled": "other rows'\nexplanations",
    "unrelated": "unrelated\nsentences",
    "nonsense": "nonsense\nwords",
    "empty": "no text",
}


def content_ablation(canvas: Canvas, evaluation: Evaluation) -> None:
    """What the AR scores on the same targets with its own, others', unrelated, nonsense and no text."""
    axes = canvas.subplots()
    conditions = evaluation.ablation.conditions
    names = [name for name in CONDITIONS if name in conditions]
    by_fve = all(conditions[name].fve is not None for name in names)
    figures: list[Figure] = [conditions[name].fve if by_fve else conditions[name].cosine for name in names]
    values = np.array([figure.value for figure in figures])
    ends = [figure.interval_95 or (figure.value, figure.value) for figure in figures]
    errors = np.abs(np.array([(v - low, high - v) for v, (low, high) in zip(values, ends, strict=True)]).T)
    colours = [BLUE if name == "real" else ORANGE if name == "shuffled" else GREY for name in names]
    axes.bar(range(len(names)), values, color=colours, width=0.62)
    if errors.any():
        axes.errorbar(range(len(names)), values, errors, fmt="none", ecolor=BLACK, capsize=4, linewidth=1.2)
    low, high = min(0.0, *(low for low, _ in ends)), max(0.0, *(high for _, high in ends))
    room = 0.1 * max(high - low, 0.05)
    for x, (value, (bottom, top)) in enumerate(zip(values, ends, strict=True)):
        up = value >= 0
        axes.text(
            x,
            top + 0.25 * room if up else bottom - 0.25 * room,
            minus(f"{value:.3f}"),
            ha="center",
            va="bottom" if up else "top",
            fontweight="bold",
        )
    axes.set_ylim(low - (1.6 * room if low < 0 else 0), high + 1.6 * room)
    axes.axhline(0.0, color=BLACK, linewidth=1.0)
    axes.set_xticks(range(len(names)), [TICKS[name] for name in names])
    axes.tick_params(axis="x", length=0)
    title = f"The AR given different texts for the same {evaluation.ablation.n} activations"
    if evaluation.gain is not None:
        title += f": gain {evaluation.gain.value:.2f}"
    axes.set(title=minus(title), ylabel="FVE (0: the mean direction over all rows)" if by_fve else "mean cosine")
    bare(axes)


def retrieval(canvas: Canvas, evaluation: Evaluation) -> None:
    """How often the right one is first, against chance, with raw activations as the ceiling."""
    axes = canvas.subplots()
    bars: list[tuple[str, Figure | None, float, str, str | None]] = []
    if (identity := evaluation.identity) is not None:
        bars.append(("reconstruction →\nits own activation", identity.top1, identity.chance, BLUE, None))
    for test in evaluation.content.retrieval if evaluation.content else []:
        if test.query == "activation":
            label, colour = "raw activation →\nits document (ceiling)", GREEN
        else:
            target = "its document" if test.candidates == "explanations" else "its source text"
            label, colour = f"AV text → {target}\n({test.features})", ORANGE
        bars.append((label, test.top1, test.chance, colour, test.broken))
    bars.reverse()  # matplotlib counts from below
    widest = 0.0
    for y, (_, top1, chance, colour, broken) in enumerate(bars):
        value = top1.value if top1 is not None else 0.0
        axes.barh(y, value, color=colour, height=0.6, alpha=0.35 if broken else 1.0)
        end = value
        if top1 is not None and top1.interval_95 is not None and not broken:
            low, high = top1.interval_95
            axes.errorbar(value, y, xerr=[[max(value - low, 0)], [max(high - value, 0)]], ecolor=BLACK, capsize=3)
            end = max(end, high)
        axes.plot([chance, chance], [y - 0.38, y + 0.38], color=RED, linewidth=2)
        times = value / chance
        label = "broken metric" if broken else f"{value:.0%}, {times:.{0 if times >= 10 else 1}f} × chance"
        axes.text(max(end, chance) + 0.012, y, label, va="center", fontsize=10)
        widest = max(widest, end, chance)
    axes.plot([], [], color=RED, linewidth=2, label="chance")
    axes.legend(frameon=False, fontsize=10, loc="lower right", bbox_to_anchor=(1.0, 1.0), borderaxespad=0.1)
    axes.set_yticks(range(len(bars)), [label for label, *_ in bars], fontsize=10)
    axes.set_xlim(0, min(1.45, widest * 1.35 + 0.15))
    axes.set_xticks([tick for tick in (0, 0.2, 0.4, 0.6, 0.8, 1.0) if tick <= axes.get_xlim()[1]])
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.set(title="How often the right one is first", xlabel="top-1 share")
    bare(axes)
