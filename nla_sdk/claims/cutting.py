"""An explanation cut into its claims, by rule.

Of the forms that labels here have or had (`forms`: Next: "x" (or "y"). About: word, word. Style: a register.) each
token, each word and the register is a claim. Of any other text: its list items, else its sentences; and every span in
quotes within them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache

from .forms import sections
from .forms import sentences as form_of_sentences
from .forms.claim import Claim, breaks, claim_at

_BULLET = re.compile(r"[ \t]*(?:[-*•–]|\(?\d{1,3}[.)])[ \t]+(?=\S)")
_QUOTED = re.compile(r'"([^"\n]+)"|“([^“”\n]+)”|«([^«»\n]+)»|`([^`\n]+)`')
_SENTENCE_END = (".", "!", "?", ":", ";")


@lru_cache(maxsize=4096)  # asked again for each of its claims
def claims_of(text: str) -> tuple[Claim, ...]:
    """The claims of an explanation, in the order in which they begin.

    A sentence, or an item, and the quotes in it are claims each: a quote may be invented where the rest holds.

    Example:
        >>> [(one.text, one.kind) for one in claims_of('Next: "mat" (or "bed"). About: sat, cat. Style: fiction.')]
        [('mat', 'next token'), ('bed', 'next token'), ('sat', 'word'), ('cat', 'word'), ('fiction', 'register')]
        >>> [claim.text for claim in claims_of("It is about Paris. It says “the city of”.")]
        ['It is about Paris.', 'It says “the city of”.', 'the city of']
    """
    found = sections.read(text) or form_of_sentences.read(text) or list(_of_any(text))
    return tuple(sorted(found, key=lambda claim: (claim.start, -claim.end)))


def _of_any(text: str) -> Iterator[Claim]:
    lines = list(_lines(text))
    items = [(start + len(bullet[0]), end) for start, end in lines if (bullet := _BULLET.match(text, start, end))]
    if not items and len(lines) > 1 and not any(text[start:end].endswith(_SENTENCE_END) for start, end in lines):
        items = lines
    at = 0
    for start, end in [*items, (len(text), len(text))]:
        yield from _sentences(text, at, start, between=bool(items))
        if start < end:
            yield claim_at(text, "item", start, end)
        at = end
    for match in _QUOTED.finditer(text):
        yield claim_at(text, "quote", *next(match.span(group) for group in (1, 2, 3, 4) if match[group] is not None))


def _sentences(text: str, start: int, end: int, *, between: bool) -> Iterator[Claim]:
    """The sentences of a part of the text; of what stands between items those with a word in them (no bullets)."""
    for first, last in _spans(text, start, end):
        if not between or re.search(r"[^\W\d_]{2}", text[first:last]):
            yield claim_at(text, "sentence", first, last)


def sentences(text: str) -> list[str]:
    """The sentences of a text, or its lines where it has line breaks.

    Example:
        >>> sentences('Ends in "the city of". Likely next: Paris. A travel guide.')
        ['Ends in "the city of".', 'Likely next: Paris.', 'A travel guide.']
    """
    return [text[first:last] for first, last in _spans(text, 0, len(text))]


def _spans(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Where the sentences of a part of the text begin and end, white space around them left out."""
    at = start
    for stop, following in [*breaks(text, start, end), (end, end)]:
        inner = text[at:stop]
        first, last = at + len(inner) - len(inner.lstrip()), at + len(inner.rstrip())
        if last > first:
            yield first, last
        at = following


def _lines(text: str) -> Iterator[tuple[int, int]]:
    """Where lines begin and end that are not empty; white space around them is none of theirs."""
    at = 0
    for line in text.split("\n"):
        if line.strip():
            yield at + len(line) - len(line.lstrip()), at + len(line.rstrip())
        at += len(line) + 1
