"""What the command line prints: tables of rows, name-and-value lists."""

from __future__ import annotations

import math
import shutil
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

HOW_TO_READ = "FVE: 0 = predicting the mean direction, 1 = perfect. (empty): what no words at all would have scored."

_ROW = ("row", "row", 5)
_TOKEN = ("token", "token", 14)
_EXPLANATION = ("explanation", "api_explanation", None)
_STATUS = ("status", "explanation_status", 9)
_SCORES = [("cosine", "cosine", 7), ("(empty)", "empty_cosine", 7), ("FVE", "fve", 7), ("(empty)", "empty_fve", 7)]
# (header, column, width) for each command; the width None takes what the others leave.
COLUMNS = {
    "explain": [_ROW, _TOKEN, _EXPLANATION, _STATUS],
    "round_trip": [_ROW, _TOKEN, _EXPLANATION, *_SCORES, _STATUS],
    "reconstruct": [_ROW, ("explanation", "text", None), ("norm", "norm", 10)],
    "extract": [_ROW, ("position", "position", 8), _TOKEN, ("norm", "norm", 10), ("text", "text", None)],
}


def _print(grid) -> None:
    """A rich table on stdout: plain text of 120 columns, without trailing blanks, where that is no terminal."""
    from rich.console import Console

    width = None if sys.stdout.isatty() else max(shutil.get_terminal_size((120, 24)).columns, 60)
    console = Console(file=sys.stdout, width=width, markup=False, highlight=False)
    with console.capture() as lines:
        console.print(grid)
    for line in lines.get().splitlines():
        print(line.rstrip())


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
        from rich import box
        from rich.table import Table
        from rich.text import Text

        rows = [self._cells(row, number) for number, row in enumerate(table.to_pylist(), self.number)]
        shown = [column for column in self.columns if column[1] in rows[0]]
        grid = Table(box=box.SIMPLE_HEAD, show_header=self.number == 0, show_edge=False, expand=True)
        for header, _, width in shown:
            ratio = 1 if width is None else None
            grid.add_column(header, width=width, ratio=ratio, overflow="fold", justify="left")
        for row in rows:
            grid.add_row(*(Text(row[name]) for _, name, _ in shown))
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
        if self.vectors in row:
            cells["norm"] = f"{math.hypot(*row[self.vectors]):.4g}"
        if self.text in row:
            cells["text"] = row[self.text] if len(row[self.text]) < 300 else f"…{row[self.text][-300:]}"
        return cells


class Summary:
    """Means over round trips, whatever they were printed or written as."""

    def __init__(self) -> None:
        self.sums: Counter[str] = Counter()
        self.statuses: Counter[str] = Counter()
        self.rows = 0
        self.has_fve = True

    def add(self, table: pa.Table) -> None:
        """Count the round trips of a table that `jobs.work.round_trip` made."""
        self.rows += table.num_rows
        self.statuses.update(table["explanation_status"].to_pylist())
        self.has_fve = self.has_fve and not table["fve"].null_count
        for name in ("cosine", "mse", "fve", "empty_cosine", "empty_fve"):
            self.sums[name] += sum(value or 0.0 for value in table[name].to_pylist())

    def __str__(self) -> str:
        from .. import metrics

        mean = {name: total / self.rows for name, total in self.sums.items()}
        parts = [f"cosine {_number(mean['cosine'])} (empty {_number(mean['empty_cosine'])})"]
        if self.has_fve:
            parts.append(f"FVE {_number(mean['fve'])} (empty {_number(mean['empty_fve'])})")
        parts.append(f"gain over empty {_number(metrics.gain(mean['mse'], 2 * (1 - mean['empty_cosine'])))}")
        statuses = ", ".join(f"{count} {status}" for status, count in self.statuses.most_common())
        return f"mean of {self.rows} rows: {'; '.join(parts)}; {statuses}"


def _number(value: float) -> str:
    return f"{value:.3f}"


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


def file_size(count: float) -> str:
    """1536 → "1.5 KB"; decimal units."""
    for unit in ("B", "KB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError
