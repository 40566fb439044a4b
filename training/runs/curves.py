"""The figure of a run, drawn from its log alone: of a run that goes on, was killed or is long over.

`training.runs.log` names the log's keys; what isn't logged isn't drawn.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from nla_sdk.errors import InputError
from nla_sdk.io.files import atomic
from nla_sdk.io.logs import read_log

from .verdict import FEWEST, WINDOW, trend

FIGURE = "training.png"
LOSS = {"av": "loss (cross-entropy, nats per token)", "ar": "loss (direction mse)", None: "loss"}
SMALL = {  # the panels of one curve: title, colour
    "reward_support": ("support of claims", "#3b6fb6"),
    "kl": ("nats a token from the start", "#c2703d"),
    "unique": ("share of different texts", "#2f8f8b"),
    "lr": ("learning rate", "#7a5ea8"),
    "grad_norm": ("gradient norm, unclipped", "#b04a5a"),
    "tokens_per_second": ("tokens per second", "#4a9d6f"),
    "peak_memory_gib": ("peak memory, GiB", "#7f7f7f"),
}
ABREAST = 4  # small panels in a row
BLUE, ORANGE, GREY, DARK = "#3b6fb6", "#d9822b", "#9a9a9a", "#333333"
POINTS = {"linewidth": 2, "marker": "o", "markersize": 4, "clip_on": False}  # a point at step 0 is whole
SUFFIX = "_raw_variance"
FVE = {
    "true": ("true text", BLUE),
    "round_trip": ("the AV's own text", BLUE),
    "empty": ("empty text", GREY),
    "shuffled": ("text of other rows", ORANGE),
}
REWARD = "reward_mse"  # of policy optimisation, whose loss tells nothing: advantages have no mean

Role = Literal["av", "ar"]


def running_mean(values: Sequence[float], width: int) -> list[float]:
    """The mean of each value and its neighbours, `width` (odd) in all; near an end those of them that there are.

    Centred, because a mean of the past alone lies above a falling curve and puts every turn too late.

    Example:
        >>> running_mean([3.0, 0.0, 3.0, 6.0], 3)
        [1.5, 2.0, 3.0, 4.5]
    """
    around = (values[max(0, at - width // 2) : at + width // 2 + 1] for at in range(len(values)))
    return [math.fsum(part) / len(part) for part in around]


def render(log_path: Path, out_png: Path, role: Role | None = None) -> Path | None:
    """Draw a run's figure from its log; panels whose keys the log lacks are left out.

    Args:
        role: "av" or "ar"; None: told by the held-out keys in the log.
    Returns:
        `out_png`, written in one rename; None, and a line that says so, where matplotlib isn't installed.
    Raises:
        InputError: the log cannot be read, is malformed, or holds nothing to draw.
    """
    records = read_log(log_path)
    curves = {key: _curve(records, key) for key in {key for record in records for key in record}}
    role = role or ("av" if "heldout_loss" in curves else "ar" if "heldout_fve_true" in curves else None)
    heldout = {"av": "heldout_loss", "ar": "heldout_fve_true"}.get(role, "heldout_fve_round_trip")
    learnt = REWARD if curves.get(REWARD) else "loss"
    large = [key for key in (learnt, heldout) if curves.get(key)]
    small = [key for key in SMALL if curves.get(key)]
    if not large and not small:
        raise InputError(f"{log_path} holds no step to draw: expected records with a loss or held-out values.")
    try:
        from matplotlib.figure import Figure
    except ImportError:
        print(f"{Path(out_png).name} not drawn: matplotlib is not installed (pip install 'nla-sdk[eval]').")
        return None
    rows = [row for row in (large, small[:ABREAST], small[ABREAST:]) if row]
    height = sum(4.0 if row is large else 2.2 for row in rows)
    figure = Figure(figsize=(12, height), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.08)
    parts = figure.subfigures(len(rows), 1, height_ratios=[2 if row is large else 1 for row in rows], squeeze=False)
    for part, row in zip(parts[:, 0], rows, strict=True):
        for axes, key in zip(part.subplots(1, len(row), squeeze=False)[0], row, strict=True):
            if key == "loss":
                _draw_loss(axes, curves[key], role)
            elif key == REWARD:
                _draw_reward(axes, curves[key])
            elif key == "heldout_loss":
                _draw_gap(axes, curves)
            elif key == heldout:
                _draw_fve(axes, curves, heldout)
            else:
                _draw_small(axes, curves[key], *SMALL[key])
            axes.spines[["top", "right"]].set_visible(False)
            axes.set_xlabel("step")
            axes.set_xlim(0, 1.015 * max(1, records[-1]["step"]))
            axes.title.set_fontweight("bold")
    with atomic(Path(out_png)) as sibling:
        figure.savefig(sibling, format="png", dpi=100, pil_kwargs={"optimize": True})
    return Path(out_png)


def _curve(records: Sequence[Mapping[str, Any]], key: str) -> dict[int, float]:
    """step → value, where it is a number that can be drawn."""
    found = ((record["step"], record.get(key)) for record in records)
    return {step: value for step, value in found if isinstance(value, int | float) and math.isfinite(value)}


def _draw_steps(axes, curve: Mapping[int, float]) -> None:
    width = min(25, len(curve) // 8 * 2 + 1)
    axes.plot(curve.keys(), curve.values(), color=BLUE, alpha=0.3, linewidth=0.8, label="each step")
    smooth = running_mean(list(curve.values()), width)
    axes.plot(curve.keys(), smooth, color=BLUE, linewidth=2, label=f"mean of {width} steps")


def _draw_reward(axes, rewards: Mapping[int, float]) -> None:
    _draw_steps(axes, rewards)
    axes.set(title="Reward: −mse of the AR's reconstruction", ylabel="−mse of directions, of what was sampled")
    axes.legend(frameon=False, fontsize=9, loc="lower right")


def _draw_loss(axes, losses: Mapping[int, float], role: Role | None) -> None:
    _draw_steps(axes, losses)
    found = trend(losses)
    said = "too few steps to tell"
    if found.steps >= FEWEST:
        said = f"{found.verdict} over the last {WINDOW} steps"
        inside = [(step, loss) for step, loss in losses.items() if step >= found.first]
        middle, level = (math.fsum(values) / found.steps for values in zip(*inside, strict=True))
        line = f"least squares, last {WINDOW}: {found.slope:+.5f} per step, R² {found.r_squared:.2f}".replace("-", "−")
        ends = [level + found.slope * (step - middle) for step in (found.first, found.last)]
        axes.plot([found.first, found.last], ends, color=DARK, linewidth=2.5, solid_capstyle="butt", label=line)
    axes.set(title=f"Training loss: {said}", ylabel=LOSS[role])
    axes.legend(frameon=False, fontsize=9, loc="upper right")


def _draw_gap(axes, curves: Mapping[str, Mapping[int, float]]) -> None:
    true, shuffled = curves["heldout_loss"], curves.get("heldout_loss_shuffled", {})
    axes.set(title="Held-out loss", ylabel=LOSS["av"])
    both = [step for step in true if step in shuffled]
    if shuffled:
        axes.plot(shuffled.keys(), shuffled.values(), color=ORANGE, label="vectors of other rows", **POINTS)
    axes.plot(true.keys(), true.values(), color=BLUE, label="true vectors", **POINTS)
    if both:
        low, high = [true[step] for step in both], [shuffled[step] for step in both]
        axes.fill_between(
            both, low, high, color=ORANGE, alpha=0.18, linewidth=0, label="gap: what is read in the vector"
        )
        gap = f"{high[-1] - low[-1]:.3f}".replace("-", "−")
        if len(both) > 1:
            at = (both[-1], (low[-1] + high[-1]) / 2)
            axes.annotate(f"gap {gap} ", at, ha="right", va="center", fontweight="bold")
        axes.set_title(f"Held-out loss: gap {gap} at step {both[-1]}")
    axes.legend(frameon=False, fontsize=9, loc="upper right")


def _draw_fve(axes, curves: Mapping[str, Mapping[int, float]], key: str) -> None:
    axes.axhline(0.0, color=DARK, linewidth=1)
    strict = False
    for name, (label, colour) in FVE.items():
        curve, stricter = (curves.get(f"heldout_fve_{name}{suffix}", {}) for suffix in ("", SUFFIX))
        if curve:
            last = list(curve.values())[-1]
            said = f"{label}, last {last:.3f}".replace("-", "−")
            axes.plot(curve.keys(), curve.values(), color=colour, label=said, **POINTS)
        if stricter:
            axes.plot(stricter.keys(), stricter.values(), color=colour, linewidth=1.3, linestyle="--")
            strict = True
    axes.plot([], [], color=DARK, linewidth=1, label="0: predicting the mean")
    if strict:
        axes.plot([], [], color=DARK, linewidth=1.3, linestyle="--", label="the stricter baseline")
    step, value = list(curves[key].items())[-1]
    said = f"{value:.3f}".replace("-", "−")
    text = FVE[key.removeprefix("heldout_fve_")][0]
    axes.set(title=f"Held-out FVE: {said} with {text} at step {step}", ylabel="fraction of variance explained")
    low, high = axes.get_ylim()
    axes.set_ylim(low, high + 0.35 * (high - low))  # the curves end at the top: room there for the legend
    axes.legend(frameon=False, fontsize=9, loc="upper left", ncols=2)


def _draw_small(axes, curve: Mapping[int, float], title: str, colour: str) -> None:
    axes.plot(curve.keys(), curve.values(), color=colour, linewidth=1.2)
    axes.set_title(title, fontsize=10)
    axes.set_ylim(bottom=0)
