"""Numbers and strings of an evaluation as Markdown shows them. Nothing from a file can break out of its place."""

from __future__ import annotations

import re

from nla_sdk.evaluation.parts import Figure, Share

_ACTIVE = re.compile(r"([\\`*_{}\[\]()#+!|~<>&$])")


def inert(value: object) -> str:
    """A string as one line of plain Markdown text: no markup, no HTML, no table cell, no line break of its own.

    Example:
        >>> inert("a|b\\n<script>")
        'a\\\\|b \\\\<script\\\\>'
    """
    return _ACTIVE.sub(r"\\\1", " ".join(str(value).split()))


def number(value: float | None, digits: int = 3) -> str:
    """A number with a real minus sign; "not measured" for None."""
    if value is None:
        return "not measured"
    text = f"{value:.{digits}f}"
    return text.replace("-", "−") if float(text) else text.lstrip("-")


def signed(value: float, digits: int = 3) -> str:
    return number(value, digits) if value < 0 else "+" + number(value, digits)


def percent(share: float, digits: int = 0) -> str:
    return f"{number(100 * share, digits)} %"


def figure(one: Figure | None, digits: int = 3) -> str:
    """Value and interval."""
    if one is None:
        return "not measured"
    if one.interval_95 is None:
        return number(one.value, digits)
    low, high = (number(end, digits) for end in one.interval_95)
    return f"{number(one.value, digits)} [{low}, {high}]"


def p_value(one: Figure | None) -> str:
    """The p as it is said: `p = 0.0002`; empty where there is none."""
    if one is None or one.p is None:
        return ""
    return f"p = {one.p:.2g}" if one.p >= 1e-4 else f"p = {one.p:.0e}"


def share(one: Share) -> str:
    return f"{one.count} of {one.of} ({percent(one.share)})"


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    """Lines of a Markdown table; cells are Markdown already."""
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(cells) + " |" for cells in lines]
