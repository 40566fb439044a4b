"""Rows as columns, and as the small table that a notebook shows."""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

SHOWN = 10  # of a long list, at a prompt and in a notebook
VECTORS = ("activation_vector", "reconstruction")
_NOT_SHOWN = ("explanation_raw", *VECTORS)


def columns_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Column by column; None where a row has no such value."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


def html_table(rows: Sequence[Mapping[str, Any]], shown: int = SHOWN) -> str:
    """A small table of the first rows; what a model wrote is text in it, never markup."""
    columns = {name: values for name, values in columns_of(rows[:shown]).items() if name not in _NOT_SHOWN}

    def cells(values: Iterator[object] | Sequence[object], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(cell_of(value))}</{tag}>" for value in values) + "</tr>"

    body = "".join(cells(row, "td") for row in zip(*columns.values(), strict=True))
    more = f"<p>… {len(rows) - shown} more</p>" if len(rows) > shown else ""
    return f"<table><thead>{cells(list(columns), 'th')}</thead><tbody>{body}</tbody></table>{more}"


def cell_of(value: object) -> str:
    return f"{value:.4f}" if isinstance(value, float) else "" if value is None else str(value)
