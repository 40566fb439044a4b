"""An explanation with a claim taken out, or with another in its place, still well formed."""

from __future__ import annotations

import re
from collections.abc import Sequence

from .forms import sections
from .forms.claim import END, LINE_BREAK, Claim

_LISTED = ("next token", "word")
_MARKS = {'"': '"', "“": "”", "«": "»", "`": "`"}


def without(text: str, claim: Claim, claims: Sequence[Claim]) -> str:
    """The explanation without one of its claims; of the last of a list the whole list's sentence goes.

    Args:
        claims: all of `text`, as `claims_of` gives them.
    Example:
        >>> text = 'Next: "mat" (or "sofa"). About: sat, cat. Style: fiction.'
        >>> without(text, claims_of(text)[0], claims_of(text))  # doctest: +SKIP
        'Next: "sofa". About: sat, cat. Style: fiction.'
    """
    if sections.read(text) == list(claims):
        return sections.without(text, claim, claims)
    if claim.kind in _LISTED:
        group = [one for one in claims if one.kind == claim.kind]
        rest = [one for one in group if one != claim]
        if rest:
            return text[: _outer(text, group[0])[0]] + _joined(text, rest) + text[_outer(text, group[-1])[1] :]
        start, end = _outer(text, claim)
        behind = " comes next" if claim.kind == "next token" else ""
        before = " about " if claim.kind == "word" else ""
        start -= len(before) if before and text[:start].endswith(before) else 0
        end += len(behind) if behind and text[end:].startswith(behind) else 0
        return _tidy(text[:start], text[end:].lstrip(".,") if claim.kind == "next token" else text[end:])
    if claim.kind == "register":
        behind = re.match(r"\s+about\s+", text[claim.end :])
        return text[: claim.start] + "About " + text[claim.end + (behind.end() if behind else 0) :]
    start, end = _outer(text, claim)
    if claim.kind == "quote" and (after := re.search(r", after $", text[:start])):
        start = after.start()  # of our own form: after "the last words"
    return _tidy(text[:start], text[end:])


def instead(text: str, claim: Claim, other: str) -> str:
    """The explanation with other words in a claim's place."""
    start, end = claim.start, claim.end
    if claim.kind == "next token":
        start, end = _outer(text, claim)
        other = other if other in (LINE_BREAK, END) else f'"{other}"'
    return text[:start] + other + text[end:]


def _outer(text: str, claim: Claim) -> tuple[int, int]:
    """Its span with the quote marks around it."""
    marks = claim.kind in ("next token", "quote") and claim.start > 0
    closing = _MARKS.get(text[claim.start - 1]) if marks else None
    if closing is not None and text[claim.end : claim.end + 1] == closing:
        return claim.start - 1, claim.end + 1
    return claim.start, claim.end


def _joined(text: str, claims: Sequence[Claim]) -> str:
    shown = [text[slice(*_outer(text, one))] for one in claims]
    if claims[0].kind == "word" or len(shown) == 1:
        return ", ".join(shown)
    return f"{', '.join(shown[:-1])} or {shown[-1]}"


def _tidy(before: str, behind: str) -> str:
    """Both parts as one text: no double spaces, none before a full stop, no bullet without an item."""
    before = re.sub(r"(?:^|\n)[ \t]*(?:[-*•–]|\(?\d{1,3}[.)])[ \t]*$", "\n", before)
    both = re.sub(r"[ \t]{2,}", " ", f"{before} {behind}")
    both = re.sub(r" +([.,;:!?])", r"\1", both)
    return re.sub(r"(?<!\s)\s*\n\s*\n\s*", "\n", both).strip()
