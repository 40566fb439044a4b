"""What the command line prints: tables of rows, name-and-value lists."""

from __future__ import annotations

import json
import math
import shutil
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from ..claims.receipts import MARKS
from ..results import WORSE

if TYPE_CHECKING:
    import pyarrow as pa

    from ..claims.calibration import Calibration

HOW_TO_READ = (
    "(empty), (mean): the cosines of no words at all and of the mean direction with the same row. gain: what the words "
    "add, 1 − mse / mse of no words.\nFVE: 0 = predicting the mean direction, over many rows; a single row may score "
    "high without any words, so read it beside the gain."
)

HOW_TO_READ_DIRECTIONS = (
    "cosine: of the direction with what the reconstruction has over the mean; (empty): the same of no words at all.\n"
    "gain: what the words add, 1 − mse / mse of no words. FVE is not defined for directions."
)

_ROW = ("row", "row", 5)
_TOKEN = ("token", "token", 14)
_LABEL = ("label", "label", 14)
_EXPLANATION = ("explanation", "api_explanation", None)
_STATUS = ("status", "explanation_status", 10)
_COSINES = [("cosine", "cosine", 6), ("(empty)", "empty_cosine", 7), ("(mean)", "mean_cosine", 6)]
_SCORES = [*_COSINES, ("gain", "gain", 6), ("FVE", "fve", 6)]
DIRECTED = ("direction", "difference")
"""Kinds of vectors that have neither FVE nor a cosine with the mean."""
NARROW = 100  # columns of a terminal in which scores stand below each other
# (header, column, width) for each command; the width None takes what the others leave.
COLUMNS = {
    "explain": [_ROW, _LABEL, _TOKEN, _EXPLANATION, *_SCORES, _STATUS],
    "round_trip": [_ROW, _LABEL, _TOKEN, _EXPLANATION, *_SCORES, _STATUS],
    "ask": [("question", "question", 30), ("answer", "api_explanation", None), _STATUS],
    "reconstruct": [_ROW, ("explanation", "text", None), ("norm", "norm", 10)],
    "extract": [_ROW, ("position", "position", 8), _TOKEN, ("norm", "norm", 10), ("text", "text", None)],
}


def columns() -> int:
    """Of the terminal; 120 where there is none."""
    return shutil.get_terminal_size((120, 24)).columns


def _print(grid) -> None:
    """A rich table on stdout: plain text of 120 columns, without trailing blanks, where that is no terminal."""
    from rich.console import Console

    width = None if sys.stdout.isatty() else max(columns(), 60)
    console = Console(file=sys.stdout, width=width, markup=False, highlight=False)
    with console.capture() as lines:
        console.print(grid)
    for line in lines.get().splitlines():
        print(line.rstrip())


def _grid(headers: Sequence[tuple[str, int | None]], *, show_header: bool = True):
    """A rich table without rows; a header's width None takes what the others leave, and long cells are folded."""
    from rich import box
    from rich.table import Table

    grid = Table(box=box.SIMPLE_HEAD, show_header=show_header, show_edge=False, expand=True, padding=(0, 1, 0, 0))
    for header, width in headers:
        grid.add_column(header, width=width, ratio=1 if width is None else None, overflow="fold")
    return grid


class RowTable:
    """Rows of a command's results, printed as they come; the columns keep their widths from batch to batch.

    Args:
        command: a key of COLUMNS.
        text: the column of explanations or texts.
        vectors: the column whose norm is shown.
    """

    def __init__(self, command: str, *, text: str | None = None, vectors: str | None = None) -> None:
        self.columns, self.text, self.vectors = COLUMNS[command], text, vectors
        self.number = 0

    def print(self, table: pa.Table) -> None:
        """Print a pyarrow table's rows."""
        from rich.text import Text

        rows = [self._cells(row, number) for number, row in enumerate(table.to_pylist(), self.number)]
        undefined = _undefined(rows[0]) if rows else ()
        shown = [column for column in self.columns if column[1] in rows[0] and column[1] not in undefined]
        if columns() < NARROW and any(column in shown for column in _SCORES):
            shown = [column for column in shown if column not in _SCORES]
            shown.insert(shown.index(_EXPLANATION) + 1, ("scores", "scores", 14))
        grid = _grid([(header, width) for header, _, width in shown], show_header=self.number == 0)
        claims = table["claims"].to_pylist() if "claims" in table.column_names else None
        for at, row in enumerate(rows):
            grid.add_row(*(Text(row[name]) for _, name, _ in shown))
            if claims is not None:  # below their explanation, over the whole width
                _print(grid)
                _print_claims(json.loads(claims[at]))
                grid = _grid([(header, width) for header, _, width in shown], show_header=False)
        if claims is None:
            _print(grid)
        self.number += len(rows)

    def _cells(self, row: Mapping, number: int) -> dict[str, str]:
        cells = {name: _number(value) if isinstance(value, float) else str(value) for name, value in row.items()}
        cells = {name: "–" if row.get(name, "") is None else cell for name, cell in cells.items()}
        cells["row"] = str(number)
        if "token" in row:
            cells["token"] = repr(row["token"])
        if "n_raw_tokens" in row:
            cells["position"] = str(row["n_raw_tokens"] - 1)
        scores = [(header, name) for header, name, _ in _SCORES if name in row and name not in _undefined(row)]
        cells["scores"] = "\n".join(f"{header:8}{cells[name]}" for header, name in scores)
        if self.vectors in row:
            cells["norm"] = f"{math.hypot(*row[self.vectors]):.4g}"
        if self.text in row:
            cells["text"] = row[self.text] if len(row[self.text]) < 300 else f"…{row[self.text][-300:]}"
        return cells


def _print_claims(claims: Sequence[Mapping]) -> None:
    """Claims, one a line: probability, whether the text says so, kind, words, and what speaks for them."""
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 2, 0, 0), expand=True)
    grid.add_column(width=9, justify="right")
    grid.add_column(width=1)
    grid.add_column(width=10)
    grid.add_column(ratio=1, overflow="fold")
    grid.add_column(ratio=3, overflow="fold")
    for one in claims:
        grid.add_row(
            *map(Text, (percent(one["support"]), MARKS[one["holds"]], one["kind"], one["text"], one["reason"]))
        )
    _print(grid)
    print()


def percent(value: float | None) -> str:
    """A probability as a person reads it; nothing is quite sure."""
    if value is None:
        return "–"
    return "< 1 %" if value < 0.005 else "> 99 %" if value > 0.995 else f"{100 * value:.0f} %"


def _undefined(row: Mapping) -> tuple[str, ...]:
    """Scores that a row of its kind has not."""
    return ("fve", "mean_cosine") if row.get("kind") in DIRECTED else ()


class Summary:
    """What all round trips together amount to, whatever they were printed or written as.

    FVE is of these rows: 1 − mse / mse of the mean direction on the very same rows, so that 0 is what the mean
    direction scores. Where the pair does not know its mean, the contract's baseline, which is of other rows, stands
    for it.
    """

    def __init__(self) -> None:
        self.sums: Counter[str] = Counter()
        self.statuses: Counter[str] = Counter()
        self.rows = 0
        self.directions = False
        self.has: dict[str, bool] = {"fve": True, "mean_cosine": True}

    def add(self, table: pa.Table) -> None:
        """Count the round trips of a table that `jobs.work.round_trip` made."""
        self.rows += table.num_rows
        self.directions |= "kind" in table.column_names and table["kind"][0].as_py() in DIRECTED
        self.statuses.update(table["explanation_status"].to_pylist())
        for name in self.has:
            self.has[name] = self.has[name] and not table[name].null_count
        for name in ("cosine", "fve", "empty_cosine", "empty_fve", "mean_cosine"):
            self.sums[name] += sum(value or 0.0 for value in table[name].to_pylist())

    def __str__(self) -> str:
        from .. import metrics

        mean = {name: total / self.rows for name, total in self.sums.items()}
        mse, of_empty, of_mean = (2 * (1 - mean[name]) for name in ("cosine", "empty_cosine", "mean_cosine"))
        beside = f"empty {_number(mean['empty_cosine'])}"
        beside += f", mean direction {_number(mean['mean_cosine'])}" if self.has["mean_cosine"] else ""
        parts = [f"cosine {_number(mean['cosine'])} ({beside})", f"gain {_number(metrics.gain(mse, of_empty))}"]
        if self.has["mean_cosine"] and of_mean >= metrics.NO_ERROR:
            fve, empty = (metrics.fve(error, of_mean) for error in (mse, of_empty))
            parts.append(f"FVE of these rows {_number(fve)} (empty {_number(empty)}, mean direction 0)")
        elif self.has["fve"]:
            parts.append(f"FVE by the contract's baseline {_number(mean['fve'])} (empty {_number(mean['empty_fve'])})")
        worse = sum(count for status, count in self.statuses.items() if WORSE in status)
        parts += [f"in {worse} of {self.rows} rows the words do worse than none"] if worse else []
        statuses = ", ".join(f"{count} {status}" for status, count in self.statuses.most_common())
        return f"mean of {self.rows} rows: {'; '.join(parts)}; {statuses}"


class ClaimSummary:
    """What all checked explanations together claim, and once why no probability is told."""

    def __init__(self, calibration: Calibration | None) -> None:
        self.calibration = calibration
        self.rows = self.claims = self.known = 0
        self.total, self.why = 0.0, Counter[str]()

    def add(self, table: pa.Table) -> None:
        """Count the claims of a table that `jobs.checking.checked` made."""
        self.rows += table.num_rows
        for claims in map(json.loads, table["claims"].to_pylist()):
            known = [one["support"] for one in claims if one["support"] is not None]
            self.claims, self.known = self.claims + len(claims), self.known + len(known)
            self.total += sum(known)
            self.why.update(one["why_no_support"] for one in claims if one["support"] is None)

    def __str__(self) -> str:
        said = f"{self.claims} claims in {self.rows} explanation{'' if self.rows == 1 else 's'}"
        if self.known:
            said += "; support (probability that the text says so, judged without the text): mean "
            said += percent(self.total / self.known)
            held = self.calibration and self.calibration.reliability
            if held:
                said += f". On held-out documents it was off by {100 * held.ece.value:.0f} points on average (ECE)"
            if held and held.auroc.value is not None:
                said += f" and told claims that hold from others with AUROC {held.auroc.value:.2f} (0.5: not at all)"
        return "\n".join([f"{said}.", *(f"no support of {count} claims: {why}." for why, count in self.why.items())])


def _number(value: float) -> str:
    return f"{round(value, 3) + 0.0:.3f}"  # no −0.000


def print_pairs(title: str, pairs: Iterable[tuple]) -> None:
    """A heading, then names and values in columns; long values are folded, not cut."""
    from rich.table import Table
    from rich.text import Text

    rows = [tuple(map(str, row)) for row in pairs]
    if title:
        print(title)
    if not rows:
        return
    grid = Table.grid(padding=(0, 2, 0, 0))
    for number in range(max(map(len, rows))):
        grid.add_column(overflow="fold", no_wrap=number == 0)
    for row in rows:
        grid.add_row(*(Text(cell) for cell in (f"  {row[0]}", *row[1:])))
    _print(grid)


def print_grid(headers: Sequence[tuple[str, int | None]], rows: Iterable[Sequence[str]]) -> None:
    """A table; a header's width None takes what the others leave, and long cells are folded, not cut."""
    from rich.text import Text

    grid = _grid(headers)
    for row in rows:
        grid.add_row(*(Text(cell) for cell in row))
    _print(grid)


def file_size(count: float) -> str:
    """1536 → "1.5 KB"; decimal units."""
    for unit in ("B", "KB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError
