"""Draw an evaluation: which figures it allows, and how each becomes a file.

Figures say what they show in their titles, with the number. The same evaluation gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from nla_sdk.errors import NLAError
from nla_sdk.evaluation.schema import Evaluation
from nla_sdk.io.files import atomic

from .comparisons import content_ablation, retrieval
from .curves import checkpoint_curves, heldout_curves, training
from .reliability import claims_reliability
from .rows import cosine_distribution, cosine_per_row
from .style import DPI, SIZE

if TYPE_CHECKING:
    import pyarrow as pa
    from matplotlib.figure import Figure as Canvas

    Painter = Callable[[Canvas], None]


class FigureError(NLAError):
    """A figure cannot be drawn."""

    remedy = "pip install 'nla-sdk[eval]'."


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
    Example:
        >>> draw(evaluation, pq.read_table("rows.parquet"), Path("figures"), suffixes=("png",))  # doctest: +SKIP
        [PosixPath('figures/cosine_per_row.png'), …]
    """
    painters: dict[str, Painter] = {}
    if rows is not None and evaluation.round_trip.evaluated > 0:
        painters["cosine_per_row"] = lambda canvas: cosine_per_row(canvas, evaluation, rows)
        painters["cosine_distribution"] = lambda canvas: cosine_distribution(canvas, evaluation, rows)
    if evaluation.ablation is not None:
        painters["content_ablation"] = lambda canvas: content_ablation(canvas, evaluation)
    if evaluation.content is not None or evaluation.identity is not None:
        painters["retrieval"] = lambda canvas: retrieval(canvas, evaluation)
    if (
        evaluation.claims is not None
        and evaluation.claims.reliability is not None
        and evaluation.claims.reliability.bins
    ):
        painters["claims_reliability"] = lambda canvas: claims_reliability(canvas, evaluation)
    curves = {role: of_role for role, log in (logs or {}).items() if (of_role := heldout_curves(log, role))}
    if curves:
        painters["training"] = lambda canvas: training(canvas, curves)
    return _paint(painters, folder, suffixes)


def trajectory(checkpoints: Sequence[tuple[str, Evaluation | None]], folder: Path) -> list[Path]:
    """Draw FVE and gain over the checkpoints of a run, as far as they were evaluated; nothing if none was.

    Args:
        checkpoints: name and evaluation, in order.
    """
    if all(evaluation is None for _, evaluation in checkpoints):
        return []
    return _paint({"trajectory": lambda canvas: checkpoint_curves(canvas, checkpoints)}, folder)


def _paint(painters: Mapping[str, Painter], folder: Path, suffixes: Sequence[str] = ("png", "svg")) -> list[Path]:
    """Each figure in every format, the same bytes for the same figures."""
    check_installed()
    import matplotlib
    from matplotlib.figure import Figure as Canvas

    written = []
    folder.mkdir(parents=True, exist_ok=True)
    # Unsalted, SVG ids are random; dated, files of the same figure differ.
    style = {"svg.hashsalt": "nla", "font.size": 11, "axes.titlesize": 12, "axes.titleweight": "bold"}
    dateless = {"png": {"Software": None}, "svg": {"Date": None, "Creator": None}}
    with matplotlib.rc_context(style):
        for name, paint in painters.items():
            canvas = Canvas(figsize=SIZE, layout="constrained")
            paint(canvas)
            for suffix in suffixes:
                path = folder / f"{name}.{suffix}"
                with atomic(path) as sibling:
                    canvas.savefig(sibling, format=suffix, dpi=DPI, metadata=dateless[suffix])
                written.append(path)
    return written
