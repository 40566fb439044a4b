"""Figures of single rows: each row's cosine, and how the cosines spread by what the AR was given."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from nla_sdk.evaluation.schema import Evaluation
from nla_sdk.metrics import cosine

from .style import BLACK, BLUE, FAMILIES, GREY, ORANGE, RED, bare, minus

if TYPE_CHECKING:
    import pyarrow as pa
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

FAR = 1.0  # a floor that is further below all else than all else is wide is named at the edge


def _numbers(rows: pa.Table, column: str) -> np.ndarray:
    return np.array(rows[column].to_numpy(zero_copy_only=False), dtype=np.float64)


def cosine_per_row(canvas: Canvas, evaluation: Evaluation, rows: pa.Table) -> None:
    """Every evaluated row's cosine, sorted, with what no explanation would score."""
    axes = canvas.subplots()
    cosines = _numbers(rows, "cosine_real")
    evaluated = np.isfinite(cosines)
    order = np.argsort(cosines[evaluated], kind="stable")
    values = cosines[evaluated][order]
    families = None
    if "source_family" in rows.column_names:
        families = np.array(rows["source_family"].to_pylist(), dtype=object)[evaluated][order]
    _scatter(axes, values, families)
    _reference_lines(axes, evaluation, values)
    axes.set_xlim(0, len(values) + 1)
    share = evaluation.round_trip.above_floor
    title = f"Round-trip cosine of {len(values)} rows: mean {values.mean():.3f}"
    if share is not None:
        title += f", {share.count} of {share.of} above the floor"
    axes.set(title=minus(title), xlabel="rows, sorted by cosine", ylabel="cosine")
    bare(axes)


def _scatter(axes: Axes, values: np.ndarray, families: np.ndarray | None) -> None:
    """The rows in their order, by family where there are no more families than can be told apart."""
    x = np.arange(1, len(values) + 1)
    if families is None or len(set(families)) > len(FAMILIES):
        axes.scatter(x, values, s=14, color=BLUE, linewidths=0)
        return
    for (colour, marker), family in zip(FAMILIES, sorted(set(families)), strict=False):
        mask = families == family
        axes.scatter(x[mask], values[mask], s=16, color=colour, marker=marker, linewidths=0, label=str(family)[:24])
    axes.legend(frameon=False, fontsize=10, ncols=1, loc="center left", bbox_to_anchor=(1.0, 0.5), handletextpad=0.1)


def _reference_lines(axes: Axes, evaluation: Evaluation, values: np.ndarray) -> None:
    """What a cosine must be read beside, each line with its name; sets the vertical limits."""
    trip = evaluation.round_trip
    lines = []
    if trip.reference is not None:
        lines.append((trip.reference.mean_cosine, BLACK, "predicting the mean direction"))
        if trip.reference.random_pair_cosine is not None:
            lines.append((trip.reference.random_pair_cosine, GREY, "two unrelated activations"))
    low, high = (end([*values, *(level for level, *_ in lines)]) for end in (min, max))
    gap = max(high - low, 1e-3)
    # Drawn to scale, a floor far below would press the rows into a corner.
    below = trip.floor is not None and low - trip.floor > FAR * gap
    if trip.floor is not None and not below:
        lines.append((trip.floor, RED, "noise floor"))
        low, high = min(low, trip.floor), max(high, trip.floor)
        gap = max(high - low, 1e-3)
    heights: list[float] = [low - 0.04 * gap] if below else []  # of the names so far: none may cover another
    for level, colour, name in sorted(lines, key=lambda line: line[0]):
        axes.axhline(level, color=colour, linewidth=1.2, linestyle="--")
        height = level + 0.012 * gap
        if heights and height - heights[-1] < 0.06 * gap:
            height = heights[-1] + 0.06 * gap
        heights.append(height)
        # the curve rises, so the lower right is free
        label = minus(f"{name}, {level:.3f}")
        axes.text(len(values), height, label, color=colour, fontsize=10, ha="right", va="bottom")
    axes.set_ylim(low - (0.1 if below else 0.05) * gap, high + 0.08 * gap)
    if below:
        label = minus(f"noise floor {trip.floor:.2f}: far below this axis")
        axes.text(len(values), low - 0.09 * gap, label, color=RED, fontsize=10, ha="right", va="bottom")


def cosine_distribution(canvas: Canvas, evaluation: Evaluation, rows: pa.Table) -> None:
    """Histograms of the cosines of the own explanation, of one other row's for each row, and of no text."""
    axes = canvas.subplots()
    evaluated = np.isfinite(_numbers(rows, "cosine_real"))
    histograms = []
    for column, colour, name in (("cosine_real", BLUE, "own explanation"), ("cosine_empty", GREY, "no text")):
        if column in rows.column_names:
            values = _numbers(rows, column)[evaluated]
            if len(values := values[np.isfinite(values)]):
                histograms.append((values, colour, f"{name}: mean {values.mean():.3f}"))
    if len(values := cosine_of_a_partner(rows, evaluated, evaluation.settings.seed if evaluation.settings else 0)):
        # The file's figure is the mean over all other rows; a histogram of such means would be far too narrow.
        mean = _numbers(rows, "cosine_shuffled")[evaluated].mean()
        histograms.insert(1, (values, ORANGE, f"one other row's: mean over all {mean:.3f}"))
    everything = np.concatenate([values for values, *_ in histograms])
    low, high = everything.min(), everything.max()
    edges = np.linspace(low, max(high, low + 1e-3), 33)
    for values, colour, label in histograms:
        axes.hist(values, edges, histtype="stepfilled", color=colour, alpha=0.25)
        axes.hist(values, edges, histtype="step", color=colour, linewidth=1.8, label=minus(label))
    trip = evaluation.round_trip
    if trip.reference is not None and low <= trip.reference.mean_cosine <= high:
        axes.axvline(trip.reference.mean_cosine, color=BLACK, linewidth=1.2, linestyle="--", label="the mean direction")
    lead = "" if trip.fve is None else f"FVE {trip.fve.value:.3f}; "
    axes.set(title=minus(f"{lead}cosine by what the AR was given"), xlabel="cosine to the activation", ylabel="rows")
    axes.set_ylim(top=axes.get_ylim()[1] * 1.25)
    axes.legend(frameon=False, fontsize=10, loc="upper left")
    bare(axes)


def cosine_of_a_partner(rows: pa.Table, evaluated: np.ndarray, seed: int) -> np.ndarray:
    """Of each evaluated row the cosine of the reconstruction of one row of another document; empty if all are one.

    The partner of a row is the next row of another document in a seeded order of all rows: the same figure every time.

    Args:
        rows: `rows.parquet`, with vectors and reconstructions.
        evaluated: bool [rows].
    """
    import pyarrow as pa

    names = {"doc_id", "activation_vector", "reconstruction", "cosine_shuffled"}
    if not names <= set(rows.column_names):
        return np.zeros(0)
    part = rows.filter(pa.array(evaluated))
    documents = np.array(part["doc_id"].to_pylist(), dtype=object)
    if len(set(documents)) < 2:
        return np.zeros(0)
    order = np.random.default_rng(seed).permutation(len(documents))
    partner = np.empty(len(documents), dtype=np.int64)
    for place, row in enumerate(order):
        step = next(step for step in range(1, len(order)) if documents[order[place - step]] != documents[row])
        partner[row] = order[place - step]
    activations, made = (
        np.array(part[name].to_pylist(), dtype=np.float64) for name in ("activation_vector", "reconstruction")
    )
    return cosine(made[partner], activations)
