"""What changes between two cards, for people who are asked whether to publish the new one."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator

from .notes import Fences


def diff(old: str, new: str) -> str:
    """What changes between two cards, for people: front matter and body apart, each line under its section."""
    old, new = (re.sub(r"\r\n?", "\n", card) for card in (old, new))
    changes = []
    for name, before, after in zip(("front matter", "body"), _parts(old), _parts(new), strict=True):
        lines = list(difflib.unified_diff(before, after, "published", "new", lineterm="", n=1))
        if lines:
            changes += [f"== {name}", *_with_sections(lines, before)]
    return "\n".join(changes)


def _parts(card: str) -> tuple[list[str], list[str]]:
    match = re.match(r"---\n(.*?)\n---\n", card, re.DOTALL)
    if not match:
        return [], card.splitlines()
    return match[1].splitlines(), card[match.end() :].splitlines()


def _with_sections(lines: list[str], before: list[str]) -> Iterator[str]:
    """Hunk headers say which heading of the old card they are under."""
    fences = Fences()
    # In code a # begins a comment.
    headings = [line if not fences.hold(line) and line.startswith("#") else None for line in before]
    for line in lines[2:]:
        if hunk := re.match(r"@@ -(\d+)", line):
            above = [heading for heading in headings[: int(hunk[1])] if heading]
            yield f"@@ {above[-1].lstrip('# ') if above else 'top'}"
        else:
            yield line
