"""Draws the figures of the site's concepts: `python docs/figures/make_concepts.py`. Needs matplotlib (`[eval]`).

Scores are those of the bundled pair's evaluation file; the rest is drawn.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
from matplotlib.patches import FancyBboxPatch

import nla_sdk

HERE = Path(__file__).parent
INK, SOFT, ONE, TWO = "#222222", "#8a8a8a", "#3f51b5", "#d9822b"
PARTS = {
    "real": "its own words: the round trip",
    "true_labels": "labels made of the texts",
    "shuffled": "other rows' words",
    "unrelated": "unrelated sentences",
    "nonsense": "made-up words",
    "empty": "nothing",
}


def main() -> None:
    """Draw all of them beside this file."""
    plt.rcParams.update({"svg.hashsalt": "nla-sdk", "font.size": 11, "text.color": INK, "axes.edgecolor": SOFT})
    for draw in (layers, round_trip, mean, scores):
        figure = draw()
        path = HERE / f"concept_{draw.__name__}.svg"
        figure.savefig(path, facecolor="white", bbox_inches="tight", metadata={"Date": None})
        plt.close(figure)
        path.write_text("\n".join(line.rstrip() for line in path.read_text().splitlines()) + "\n")  # as git likes it


def blank(width: float, height: float) -> tuple[Any, Any]:
    """A figure without axes, a unit an inch."""
    figure, axes = plt.subplots(figsize=(width, height))
    axes.set(xlim=(0, width), ylim=(0, height), aspect="equal")
    axes.axis("off")
    return figure, axes


def box(axes: Any, x: float, y: float, width: float, text: str, color: str, height: float = 0.7) -> None:
    """A box with a text in its middle."""
    style = {"boxstyle": "round,pad=0,rounding_size=0.08", "linewidth": 1.4}
    axes.add_patch(FancyBboxPatch((x, y), width, height, facecolor="white", edgecolor=color, **style))
    axes.text(x + width / 2, y + height / 2, text, ha="center", va="center", color=color, fontsize=10)


def arrow(axes: Any, start: tuple[float, float], end: tuple[float, float], color: str = INK) -> None:
    """An arrow from start to end."""
    axes.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": color, "linewidth": 1.4})


def layers() -> Any:
    """Blocks, and the numbers of what stands between them."""
    figure, axes = blank(8.8, 1.9)
    names = ["embeddings", "block 0", "block 1", "block L", "last block", "final norm"]
    at = [0.0, 1.5, 2.75, 4.45, 6.15, 7.3]
    widths = [1.2, 0.95, 0.95, 0.95, 0.85, 1.1]
    states = ["[0]", "[1]", "[2]", "[L + 1]", "", "[-1]"]
    for name, x, width, state in zip(names, at, widths, states, strict=True):
        read = name == "block L"
        box(axes, x, 0.85, width, name.replace("last ", "last\n"), ONE if read else INK)
        arrow(axes, (x + width, 1.2), (x + width + 0.3, 1.2))
        axes.text(x + width + 0.14, 0.6, state, ha="center", va="top", color=ONE if read else SOFT, fontsize=10)
    for x in (4.05, 5.8):
        axes.text(x, 1.2, "…", ha="left", va="center", color=SOFT)
    axes.text(0, 0.3, "hidden_states", ha="left", va="top", color=SOFT, fontsize=10)
    axes.text(5.5, 1.72, "layer L of a pair", ha="center", va="center", color=ONE)
    return figure


def round_trip() -> Any:
    """Activation, AV, words, AR, vector, angle."""
    figure, axes = blank(8.4, 2.1)
    box(axes, 0, 1.0, 1.3, "activation", ONE)
    box(axes, 1.75, 1.0, 0.7, "AV", INK)
    box(axes, 2.9, 1.0, 2.4, "an explanation,\nin English", INK)
    box(axes, 5.75, 1.0, 0.7, "AR", INK)
    box(axes, 6.9, 1.0, 1.45, "reconstruction", TWO)
    for start, end in ((1.3, 1.75), (2.45, 2.9), (5.3, 5.75), (6.45, 6.9)):
        arrow(axes, (start, 1.35), (end, 1.35))
    axes.plot([0.65, 0.65, 7.6, 7.6], [0.97, 0.45, 0.45, 0.97], color=SOFT, linewidth=1.2, linestyle="--")
    axes.text(4.1, 0.38, "how near? beside what no words and other words give", ha="center", va="top", color=SOFT)
    axes.text(4.1, 1.95, "nothing but the words passes", ha="center", va="center", color=SOFT)
    return figure


def mean() -> Any:
    """Activations round their mean, two of them, and what lies between."""
    figure, axes = blank(7.6, 3.3)
    origin, middle = (0.3, 0.3), (4.6, 1.9)
    ends = [(5.3, 2.75), (5.55, 1.35)]
    arrow(axes, origin, middle, SOFT)
    axes.text(2.3, 1.25, "μ, the mean of the layer", ha="center", va="bottom", color=SOFT, rotation=20.4)
    for turn in range(14):
        angle, far = 2 * math.pi * turn / 14, 0.75 + 0.25 * ((turn * 5) % 7) / 6
        axes.plot(middle[0] + far * math.cos(angle), middle[1] + far * math.sin(angle), ".", color="#c5cae9")
    for end, name, color in zip(ends, ("v", "w"), (ONE, TWO), strict=True):
        arrow(axes, origin, end, color)
        arrow(axes, middle, end, color)
        axes.text(end[0] + 0.08, end[1], name, ha="left", va="center", color=color)
    axes.text(5.8, 2.75, "v − μ: what tells v apart", ha="left", va="center", color=ONE, fontsize=10)
    axes.text(5.85, 1.35, "v − w: a difference,", ha="left", va="center", color=INK, fontsize=10)
    axes.text(5.85, 1.1, "no μ in it", ha="left", va="center", color=INK, fontsize=10)
    axes.plot([ends[0][0], ends[1][0]], [ends[0][1], ends[1][1]], color=INK, linewidth=1, linestyle=":")
    axes.text(0.3, 0.05, "seen from 0 both point much the same way: a cosine near 1", ha="left", va="top", color=SOFT)
    return figure


def scores() -> Any:
    """FVE of the bundled pair by what its AR was given."""
    path = Path(nla_sdk.__file__).parent / "demo" / "evaluation.json"
    found = json.loads(path.read_text(encoding="utf-8"))
    conditions = found["ablation"]["conditions"] | {"true_labels": found["true_labels"]["conditions"]["real"]}
    values = {name: conditions[part]["fve"] for part, name in PARTS.items()}
    figure, axes = plt.subplots(figsize=(7.6, 2.7))
    for row, (name, figure_of) in enumerate(reversed(values.items())):
        value, (low, high) = figure_of["value"], figure_of["interval_95"]
        color = ONE if value > 0 else TWO
        axes.barh(row, value, color=color, height=0.6)
        axes.plot([low, high], [row, row], color=INK, linewidth=1)
        axes.text(-0.78, row, name, ha="right", va="center")
        axes.text(max(high, 0) + 0.03, row, f"{value:.2f}", ha="left", va="center", fontsize=10)
    axes.axvline(0, color=INK, linewidth=1)
    axes.set(yticks=[], xlim=(-0.75, 0.85), xlabel="FVE: 0 is the mean direction, 1 is perfect (lines: 95 % intervals)")
    for side in ("top", "left", "right"):
        axes.spines[side].set_visible(False)
    return figure


if __name__ == "__main__":
    main()
