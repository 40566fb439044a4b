"""Draw an evaluation: PNG for cards, SVG for papers. Matplotlib only, nothing measured here.

Figures say what they show in their titles, with the number; colours are those of Okabe and Ito, which people with
colour-blindness tell apart. The same evaluation gives the same bytes.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from nla_sdk.errors import NLAError
from nla_sdk.evaluation.file import CONDITIONS, Evaluation, Figure
from nla_sdk.io.logs import log_lines
from nla_sdk.metrics import cosine

if TYPE_CHECKING:
    import pyarrow as pa

SIZE, DPI = (8.0, 4.2), 110  # at a card's width, 700 px, type is 10 px and more
BLUE, ORANGE, GREEN, RED, PURPLE, SKY, YELLOW, BLACK = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#D55E00",
    "#CC79A7",
    "#56B4E9",
    "#F0E442",
    "#000000",
)
GREY = "#8a8a8a"
# Of families, by marker as well as by colour; none is RED, BLACK or GREY, which reference lines have.
FAMILIES = tuple(zip((BLUE, ORANGE, GREEN, PURPLE, SKY, "#882255", "#44AA99", "#999933"), "os^Dv<P>", strict=True))
FAR = 1.0  # a floor that is further below all else than all else is wide is named at the edge
SAID = {
    "real": "its own\nexplanation",
    "shuffled": "other rows'\nexplanations",
    "unrelated": "unrelated\nsentences",
    "nonsense": "nonsense\nwords",
    "empty": "no text",
}


class FigureError(NLAError):
    """A figure cannot be drawn."""


def check_installed() -> None:
    """Before hours of measuring that figures are to be drawn of.

    Raises:
        FigureError: matplotlib is not installed.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise FigureError("Figures need matplotlib: pip install 'nla-sdk[eval]'.") from None


def draw(
    evaluation: Evaluation,
    rows: pa.Table | None,
    folder: Path,
    logs: Mapping[Literal["av", "ar"], Path] | None = None,
    *,
    suffixes: Sequence[Literal["png", "svg"]] = ("png", "svg"),
) -> list[Path]:
    """Draw all figures that the evaluation (and its rows) allow.

    Args:
        rows: the table beside the file; None (published figures): only what needs none.
        folder: gets `<name>.png` and `<name>.svg`; made if it isn't there.
        logs: training logs by role, for the training curves.
    Returns:
        The files written, each in one rename.
    Raises:
        FigureError: matplotlib is not installed.
    """
    painters: dict[str, Callable] = {}
    measured = rows is not None and evaluation.round_trip.evaluated > 0
    if measured:
        painters["cosine_per_row"] = lambda canvas: cosine_per_row(canvas, evaluation, rows)
        painters["cosine_distribution"] = lambda canvas: cosine_distribution(canvas, evaluation, rows)
    if evaluation.ablation is not None:
        painters["content_ablation"] = lambda canvas: content_ablation(canvas, evaluation)
    if evaluation.content is not None or evaluation.identity is not None:
        painters["retrieval"] = lambda canvas: retrieval(canvas, evaluation)
    curves = {role: found for role, path in (logs or {}).items() if (found := _curves(path, role))}
    if curves:
        painters["training"] = lambda canvas: training(canvas, curves)
    return _paint(painters, folder, suffixes)


def trajectory(checkpoints: Sequence[tuple[str, Evaluation | None]], folder: Path) -> list[Path]:
    """Draw FVE and gain over the checkpoints of a run, as far as they were evaluated; nothing if none was.

    Args:
        checkpoints: name and evaluation, in order.
    """
    evaluated = [(at, name, found) for at, (name, found) in enumerate(checkpoints) if found is not None]
    if not evaluated:
        return []

    def paint(canvas) -> None:
        axes = canvas.subplots()
        for label, colour, of in (
            ("FVE", BLUE, lambda found: found.round_trip.fve),
            ("gain over no text", ORANGE, lambda found: found.gain),
        ):
            points = [(at, one) for at, _, found in evaluated if (one := of(found)) is not None]
            if not points:
                continue
            x, y = [at for at, _ in points], [one.value for _, one in points]
            ends = [one.interval_95 or (one.value, one.value) for _, one in points]
            errors = [
                [v - low for v, (low, _) in zip(y, ends, strict=True)],
                [high - v for v, (_, high) in zip(y, ends, strict=True)],
            ]
            said = _minus(f"{label}, last {y[-1]:.3f}")
            axes.errorbar(x, y, errors, color=colour, marker="o", markersize=5, capsize=3, linewidth=2, label=said)
        axes.axhline(0.0, color=BLACK, linewidth=1)
        axes.set_xticks(range(len(checkpoints)), [name for name, _ in checkpoints])
        axes.set(title=f"Round trip over {len(evaluated)} checkpoints", ylabel="FVE, gain")
        axes.legend(frameon=False, fontsize=10)
        _bare(axes)

    return _paint({"trajectory": paint}, folder)


def _paint(painters: Mapping[str, Callable], folder: Path, suffixes: Sequence[str] = ("png", "svg")) -> list[Path]:
    """Each figure in every format, the same bytes for the same figures."""
    check_installed()
    import matplotlib
    from matplotlib.figure import Figure as Canvas

    written = []
    folder.mkdir(parents=True, exist_ok=True)
    style = {"svg.hashsalt": "nla", "font.size": 11, "axes.titlesize": 12, "axes.titleweight": "bold"}
    with matplotlib.rc_context(style):
        for name, paint in painters.items():
            canvas = Canvas(figsize=SIZE, layout="constrained")
            paint(canvas)
            for suffix in suffixes:
                dateless = {"png": {"Software": None}, "svg": {"Date": None, "Creator": None}}[suffix]
                path = folder / f"{name}.{suffix}"
                sibling = path.with_name(f".{path.name}.{os.getpid()}.tmp")
                try:
                    canvas.savefig(sibling, format=suffix, dpi=DPI, metadata=dateless)
                    os.replace(sibling, path)
                finally:
                    sibling.unlink(missing_ok=True)
                written.append(path)
    return written


def _numbers(rows: pa.Table, column: str) -> np.ndarray:
    return np.array(rows[column].to_numpy(zero_copy_only=False), dtype=np.float64)


def _minus(text: str) -> str:
    return re.sub(r"-(?=\d)", "−", text)


def _bare(axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)


def cosine_per_row(canvas, evaluation: Evaluation, rows: pa.Table) -> None:
    """Every evaluated row's cosine, sorted, with what no explanation would score."""
    axes = canvas.subplots()
    cosine = _numbers(rows, "cosine_real")
    there = np.isfinite(cosine)
    order = np.argsort(cosine[there], kind="stable")
    values = cosine[there][order]
    families = None
    if "source_family" in rows.column_names:
        families = np.array(rows["source_family"].to_pylist(), dtype=object)[there][order]
        if len(set(families)) > len(FAMILIES):
            families = None
    x = np.arange(1, len(values) + 1)
    if families is None:
        axes.scatter(x, values, s=14, color=BLUE, linewidths=0)
    else:
        for (colour, marker), family in zip(FAMILIES, sorted(set(families)), strict=False):
            mask = families == family
            axes.scatter(x[mask], values[mask], s=16, color=colour, marker=marker, linewidths=0, label=str(family)[:24])
        axes.legend(
            frameon=False, fontsize=10, ncols=1, loc="center left", bbox_to_anchor=(1.0, 0.5), handletextpad=0.1
        )
    trip = evaluation.round_trip
    lines = []
    if trip.reference is not None:
        lines.append((trip.reference.mean_cosine, BLACK, "predicting the mean direction"))
        if trip.reference.random_pair_cosine is not None:
            lines.append((trip.reference.random_pair_cosine, GREY, "two unrelated activations"))
    low, high = (end([*values, *(level for level, *_ in lines)]) for end in (min, max))
    gap = max(high - low, 1e-3)
    below = trip.floor is not None and low - trip.floor > FAR * gap
    if trip.floor is not None and not below:
        lines.append((trip.floor, RED, "noise floor"))
        low, high = min(low, trip.floor), max(high, trip.floor)
        gap = max(high - low, 1e-3)
    placed: list[float] = [low - 0.04 * gap] if below else []
    for level, colour, label in sorted(lines, key=lambda one: one[0]):
        axes.axhline(level, color=colour, linewidth=1.2, linestyle="--")
        at = level + 0.012 * gap
        if placed and at - placed[-1] < 0.06 * gap:
            at = placed[-1] + 0.06 * gap
        placed.append(at)
        # the curve rises, so the lower right is free
        axes.text(len(values), at, _minus(f"{label}, {level:.3f}"), color=colour, fontsize=10, ha="right", va="bottom")
    axes.set_ylim(low - (0.1 if below else 0.05) * gap, high + 0.08 * gap)
    if below:  # drawn to scale it would press the rows into a corner
        said = _minus(f"noise floor {trip.floor:.2f}: far below this axis")
        axes.text(len(values), low - 0.09 * gap, said, color=RED, fontsize=10, ha="right", va="bottom")
    axes.set_xlim(0, len(values) + 1)
    share = trip.above_floor
    title = f"Round-trip cosine of {len(values)} rows: mean {values.mean():.3f}"
    if share is not None:
        title += f", {share.count} of {share.of} above the floor"
    axes.set(title=_minus(title), xlabel="rows, sorted by cosine", ylabel="cosine")
    _bare(axes)


def cosine_distribution(canvas, evaluation: Evaluation, rows: pa.Table) -> None:
    """Histograms of the cosines of the own explanation, of one other row's for each row, and of no text."""
    axes = canvas.subplots()
    there = np.isfinite(_numbers(rows, "cosine_real"))
    kinds = [("cosine_real", BLUE, "own explanation"), ("cosine_empty", GREY, "no text")]
    curves = []
    for column, colour, label in kinds:
        if column in rows.column_names:
            values = _numbers(rows, column)[there]
            if len(values := values[np.isfinite(values)]):
                curves.append((values, colour, f"{label}: mean {values.mean():.3f}"))
    if len(values := _of_a_partner(rows, there, evaluation.settings.seed if evaluation.settings else 0)):
        # The file's figure is the mean over all other rows; a histogram of such means would be far too narrow.
        mean = _numbers(rows, "cosine_shuffled")[there].mean()
        curves.insert(1, (values, ORANGE, f"one other row's: mean over all {mean:.3f}"))
    everything = np.concatenate([values for values, *_ in curves])
    low, high = everything.min(), everything.max()
    edges = np.linspace(low, max(high, low + 1e-3), 33)
    for values, colour, said in curves:
        axes.hist(values, edges, histtype="stepfilled", color=colour, alpha=0.25)
        axes.hist(values, edges, histtype="step", color=colour, linewidth=1.8, label=_minus(said))
    trip = evaluation.round_trip
    if trip.reference is not None and low <= trip.reference.mean_cosine <= high:
        axes.axvline(trip.reference.mean_cosine, color=BLACK, linewidth=1.2, linestyle="--", label="the mean direction")
    lead = "" if trip.fve is None else f"FVE {trip.fve.value:.3f}; "
    axes.set(title=_minus(f"{lead}cosine by what the AR was given"), xlabel="cosine to the activation", ylabel="rows")
    axes.set_ylim(top=axes.get_ylim()[1] * 1.25)
    axes.legend(frameon=False, fontsize=10, loc="upper left")
    _bare(axes)


def _of_a_partner(rows: pa.Table, there: np.ndarray, seed: int) -> np.ndarray:
    """Of each row under `there` the cosine of the reconstruction of one row of another document; empty if all are one.

    The partner of a row is the next row of another document in a seeded order of all rows.
    """
    import pyarrow as pa

    names = {"doc_id", "activation_vector", "reconstruction", "cosine_shuffled"}
    if not names <= set(rows.column_names):
        return np.zeros(0)
    part = rows.filter(pa.array(there))
    documents = np.array(part["doc_id"].to_pylist(), dtype=object)
    if len(set(documents)) < 2:
        return np.zeros(0)
    order = np.random.default_rng(seed).permutation(len(documents))
    partner = np.empty(len(documents), dtype=np.int64)
    for at, row in enumerate(order):
        step = next(step for step in range(1, len(order)) if documents[order[at - step]] != documents[row])
        partner[row] = order[at - step]
    activations, made = (
        np.array(part[name].to_pylist(), dtype=np.float64) for name in ("activation_vector", "reconstruction")
    )
    return cosine(made[partner], activations)


def content_ablation(canvas, evaluation: Evaluation) -> None:
    """What the AR scores on the same targets with its own, others', unrelated, nonsense and no text."""
    axes = canvas.subplots()
    found = evaluation.ablation.conditions
    names = [name for name in CONDITIONS if name in found]
    by_fve = all(found[name].fve is not None for name in names)
    figures: list[Figure] = [found[name].fve if by_fve else found[name].cosine for name in names]
    values = np.array([one.value for one in figures])
    ends = [one.interval_95 or (one.value, one.value) for one in figures]
    errors = np.abs(np.array([(v - low, high - v) for v, (low, high) in zip(values, ends, strict=True)]).T)
    colours = [BLUE if name == "real" else ORANGE if name == "shuffled" else GREY for name in names]
    axes.bar(range(len(names)), values, color=colours, width=0.62)
    if errors.any():
        axes.errorbar(range(len(names)), values, errors, fmt="none", ecolor=BLACK, capsize=4, linewidth=1.2)
    low, high = min(0.0, *(one[0] for one in ends)), max(0.0, *(one[1] for one in ends))
    room = 0.1 * max(high - low, 0.05)
    for at, (value, (bottom, top)) in enumerate(zip(values, ends, strict=True)):
        up = value >= 0
        axes.text(
            at,
            top + 0.25 * room if up else bottom - 0.25 * room,
            _minus(f"{value:.3f}"),
            ha="center",
            va="bottom" if up else "top",
            fontweight="bold",
        )
    axes.set_ylim(low - (1.6 * room if low < 0 else 0), high + 1.6 * room)
    axes.axhline(0.0, color=BLACK, linewidth=1.0)
    axes.set_xticks(range(len(names)), [SAID[name] for name in names])
    axes.tick_params(axis="x", length=0)
    gain = evaluation.gain
    title = f"The AR given different texts for the same {evaluation.ablation.n} activations"
    if gain is not None:
        title += f": gain {gain.value:.2f}"
    axes.set(title=_minus(title), ylabel="FVE (0: the mean direction)" if by_fve else "mean cosine")
    _bare(axes)


def retrieval(canvas, evaluation: Evaluation) -> None:
    """How often the right one is first, against chance, with raw activations as the ceiling."""
    axes = canvas.subplots()
    bars: list[tuple[str, Figure | None, float, str, str | None]] = []
    if evaluation.identity is not None:
        bars.append(
            ("reconstruction →\nits own activation", evaluation.identity.top1, evaluation.identity.chance, BLUE, None)
        )
    for one in evaluation.content.retrieval if evaluation.content else []:
        if one.query == "activation":
            label, colour = "raw activation →\nits document (ceiling)", GREEN
        else:
            to = "its document" if one.candidates == "explanations" else "its source text"
            label, colour = f"AV text → {to}\n({one.features})", ORANGE
        bars.append((label, one.top1, one.chance, colour, one.broken))
    bars.reverse()
    widest = 0.0
    for at, (_, figure, chance, colour, broken) in enumerate(bars):
        value = figure.value if figure is not None else 0.0
        axes.barh(at, value, color=colour, height=0.6, alpha=0.35 if broken else 1.0)
        end = value
        if figure is not None and figure.interval_95 is not None and not broken:
            low, high = figure.interval_95
            axes.errorbar(value, at, xerr=[[max(value - low, 0)], [max(high - value, 0)]], ecolor=BLACK, capsize=3)
            end = max(end, high)
        axes.plot([chance, chance], [at - 0.38, at + 0.38], color=RED, linewidth=2)
        times = value / chance
        said = "broken metric" if broken else f"{value:.0%}, {times:.{0 if times >= 10 else 1}f} × chance"
        axes.text(max(end, chance) + 0.012, at, said, va="center", fontsize=10)
        widest = max(widest, end, chance)
    axes.plot([], [], color=RED, linewidth=2, label="chance")
    axes.legend(frameon=False, fontsize=10, loc="lower right", bbox_to_anchor=(1.0, 1.0), borderaxespad=0.1)
    axes.set_yticks(range(len(bars)), [label for label, *_ in bars], fontsize=10)
    axes.set_xlim(0, min(1.45, widest * 1.35 + 0.15))
    axes.set_xticks([tick for tick in (0, 0.2, 0.4, 0.6, 0.8, 1.0) if tick <= axes.get_xlim()[1]])
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.set(title="How often the right one is first", xlabel="top-1 share")
    _bare(axes)


# --- training curves --------------------------------------------------------------------------------------------------
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


def _curves(path: Path, role: str) -> dict[str, tuple[list[int], list[float]]]:
    """The held-out curves of a training log (JSON lines), as far as it has them; {} for a log without any."""
    found: dict[str, tuple[list[int], list[float]]] = {}
    for _, record in log_lines(path, strict=False):
        if not isinstance(record.get("step"), int | float):
            continue  # of something else than a step
        for key, *_ in KEYS[role]:
            if isinstance(record.get(key), int | float):
                steps, values = found.setdefault(key, ([], []))
                steps.append(record["step"])
                values.append(record[key])
    return found


def training(canvas, curves: Mapping[str, Mapping[str, tuple[list[int], list[float]]]]) -> None:
    """Held-out loss of the AV with true and with other vectors; held-out FVE of the AR with true, no and other text."""
    panels = canvas.subplots(1, len(curves), squeeze=False)[0]
    for axes, role in zip(panels, [role for role in ("av", "ar") if role in curves], strict=True):
        for key, colour, label in KEYS[role]:
            if key in curves[role]:
                steps, values = curves[role][key]
                said = _minus(f"{label}, last {values[-1]:.3f}")
                axes.plot(steps, values, color=colour, linewidth=2, marker="o", markersize=3.5, label=said)
        if role == "ar":
            axes.axhline(0.0, color=BLACK, linewidth=1)
        what = "AV: held-out loss" if role == "av" else "AR: held-out FVE"
        axes.set(title=what, xlabel="step", ylabel="nats per token" if role == "av" else "FVE (0: the mean direction)")
        low, high = axes.get_ylim()
        axes.set_ylim(low, high + 0.4 * (high - low))  # room for the legend above the curves
        axes.legend(frameon=False, fontsize=10, loc="upper right" if role == "av" else "upper left")
        _bare(axes)
