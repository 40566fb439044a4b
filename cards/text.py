"""Numbers and strings of files as Markdown and code show them: the filters of the templates.

Nothing from a file can break out of its place.
"""

from __future__ import annotations

import json
import re
from urllib.parse import quote

from nla_sdk.evaluation.parts import Figure, Share

FEW = 30  # rows
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


def plain(value: float) -> str:
    """A number as somebody else published it: with as many digits, and a real minus sign."""
    return f"{value:.12g}".replace("-", "−")


def signed(value: float, digits: int = 3) -> str:
    """A difference, with its sign."""
    return number(value, digits) if value < 0 else "+" + number(value, digits)


def percent(share: float, digits: int = 0) -> str:
    """A share in per cent."""
    return f"{number(100 * share, digits)} %"


def rough_percent(share: float, rows: int) -> str:
    """A share of few rows is said to the nearest 5 %."""
    return percent(share) if rows >= FEW else f"about {5 * round(20 * share)} %"


def figure(measured: Figure | None, digits: int = 3) -> str:
    """Value and interval."""
    if measured is None:
        return "not measured"
    if measured.interval_95 is None:
        return number(measured.value, digits)
    low, high = (number(end, digits) for end in measured.interval_95)
    return f"{number(measured.value, digits)} [{low}, {high}]"


def interval_percent(measured: Figure) -> str:
    """A share with its interval, in per cent."""
    if measured.interval_95 is None:
        return percent(measured.value, 1)
    low, high = (number(100 * end, 1) for end in measured.interval_95)
    return f"{percent(measured.value, 1)} [{low}, {high}]"


def p_value(measured: Figure | None) -> str:
    """The p as it is said: `p = 0.0002`; empty where there is none."""
    if measured is None or measured.p is None:
        return ""
    return f"p = {measured.p:.2g}" if measured.p >= 1e-4 else f"p = {measured.p:.0e}"


def share(part: Share) -> str:
    """Count, whole and per cent."""
    return f"{part.count} of {part.of} ({percent(part.share)})"


def times(value: float) -> str:
    """How many times chance: few with a decimal."""
    return number(value, 1 if value < 10 else 0)


def size(count: int) -> str:
    """Bytes for people."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count} B"


def literal(value: str) -> str:
    """A Python string literal on one line."""
    return json.dumps(value, ensure_ascii=False)


def bibtex(value: object) -> str:
    """A string inside braces of a BibTeX entry, in a code block."""
    return re.sub(r"[{}\\`\n\r]", " ", str(value)).strip()


def link(value: str) -> str:
    """Where something was published: a link if it is a web address, else inert text."""
    if not re.fullmatch(r"https?://[^\s/]+\S*", value):
        return inert(value)
    return f"[{inert(value.partition('//')[2])}]({quote(value, safe=':/?#@!$&+,;=%~')})"
