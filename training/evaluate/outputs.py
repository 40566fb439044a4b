"""What is drawn and said of a finished evaluation, beside its file: `figures/` and `report.md`."""

from __future__ import annotations

from pathlib import Path

from cards.figures.drawing import draw
from cards.report import report
from nla_sdk import NLAPair
from nla_sdk.evaluation.schema import ROWS, Evaluation
from nla_sdk.io.files import atomic
from nla_sdk.io.tables import read_table

from .measuring.known import Known

LOGS = ("log.jsonl", "training_log_{role}.jsonl")


def write(evaluation: Evaluation, folder: Path, pair: Known | NLAPair) -> list[Path]:
    """Write the report and draw the figures; both are made again from the file whenever it is evaluated."""

    rows = read_table(folder / ROWS)
    logs = {half.contract.role: log for half in (pair.av, pair.ar) if (log := _log(half.folder, half.contract.role))}
    page = folder / "report.md"
    with atomic(page) as sibling:  # first: matplotlib, which figures need, may be missing
        sibling.write_text(report(evaluation, figures="figures"), encoding="utf-8")
    return [page, *draw(evaluation, rows, folder / "figures", logs)]


def _log(folder: Path, role: str) -> Path | None:
    """The training log of a half: in its folder, or beside it."""
    names = [name.format(role=role) for name in LOGS]
    return next((place / name for place in (folder, folder.parent) for name in names if (place / name).is_file()), None)
