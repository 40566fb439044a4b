"""An explanation cut into its claims, by rule.

Of the form that `training.label` writes ("x" or "y" comes next. A register about word, word.) each token, the register
and each word is a claim. Of any other text: its list items, else its sentences; and every span in quotes within them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, TypeAlias

from .registers import REGISTERS

ClaimKind: TypeAlias = Literal["next token", "register", "word", "quote", "item", "sentence"]
KINDS: tuple[ClaimKind, ...] = ("next token", "register", "word", "quote", "item", "sentence")
LINE_BREAK, END = "a line break", "the end of the text"
"""Next tokens that labels spell out (`training.label.extractive`)."""


@dataclass(frozen=True)
class Claim:
    """One claim of an explanation.

    Attributes:
        text: what is claimed; of a quote what stands between the marks.
        kind: see `KINDS`.
        start, end: where it stands: `explanation[start:end] == text`.
    """

    text: str
    kind: ClaimKind
    start: int
    end: int

    def __str__(self) -> str:
        return self.text


_NEXT = re.compile(r"(?<!\s)\s+comes? next(?=[\s.,]|$)", re.IGNORECASE)  # from where white space begins, once
_OPENS = re.compile(rf'"|(?:{LINE_BREAK}|{END})', re.IGNORECASE)
_BETWEEN = re.compile(rf'(?:, | or )(?="|(?:{LINE_BREAK}|{END}))', re.IGNORECASE)
_ABOUT = " about "
_ONE_WORD = re.compile(r"[^,\s](?:[^,]*[^,\s])?")
_BULLET = re.compile(r"[ \t]*(?:[-*•–]|\(?\d{1,3}[.)])[ \t]+(?=\S)")
_SPACE = re.compile(r"\s+")
_ENDED = re.compile(r"[.!?][\"'”’)\]]?$")
_BEGINS = re.compile(r"[\"'“‘(\[]?[A-Z0-9]")
_QUOTED = re.compile(r'"([^"\n]+)"|“([^“”\n]+)”|«([^«»\n]+)»|`([^`\n]+)`')
_SENTENCE_END = (".", "!", "?", ":", ";")


@lru_cache(maxsize=4096)  # asked again for each of its claims
def claims_of(text: str) -> tuple[Claim, ...]:
    """The claims of an explanation, in the order in which they begin.

    A sentence, or an item, and the quotes in it are claims each: a quote may be invented where the rest holds.

    Example:
        >>> [(claim.text, claim.kind) for claim in claims_of('"mat" or "sofa" comes next. Fiction about sat, cat.')]
        [('mat', 'next token'), ('sofa', 'next token'), ('Fiction', 'register'), ('sat', 'word'), ('cat', 'word')]
        >>> [claim.text for claim in claims_of("It is about Paris. It says “the city of”.")]
        ['It is about Paris.', 'It says “the city of”.', 'the city of']
    """
    found = _of_form(text) or list(_of_any(text))
    return tuple(sorted(found, key=lambda claim: (claim.start, -claim.end)))


def _of_form(text: str) -> list[Claim]:
    """The claims of a label's form; none where the text has another.

    Read from left to right, never back: anybody may send an explanation, of any length.
    """
    following = _NEXT.search(text)
    if following is None or not (found := _tokens(text, following.start())):
        return []
    at = following.end()
    if text.startswith(', after "', at):
        start = at + len(', after "')
        end = next((one for one in _all(text, '"', start) if re.match(r"\.(?:\s|$)", text[one + 1 : one + 3])), None)
        if end is None:
            return []
        found.append(_claim(text, "quote", start, end))
        at = end + 1
    rest = text[at:].lstrip(".").strip()
    if not rest:
        return found
    start = text.index(rest, at)
    # Those that labels name first: "A narrative about a person about …" has the word twice.
    known = (start + len(name) for name in REGISTERS if rest.lower().startswith(name + _ABOUT))
    about = max(known, default=text.find(_ABOUT, at))
    if (
        about < 0
        or not rest[0].isupper()
        or any(stop < len(text.rstrip()) for stop, _ in _breaks(text, start, len(text)))
    ):
        return []
    found.append(_claim(text, "register", start, about))
    words = text[about + len(_ABOUT) :].rstrip()
    for match in _ONE_WORD.finditer(words.removesuffix(".")):
        found.append(_claim(text, "word", *(about + len(_ABOUT) + one for one in match.span())))
    return found


def _tokens(text: str, end: int) -> list[Claim]:
    """The next tokens listed before `end`, such as `"mat", "sofa" or a line break`; none where it is no such list."""
    found, at = [], len(text) - len(text.lstrip())
    while True:
        opens = _OPENS.match(text, at)
        if opens is None:
            return []
        if opens[0] != '"':
            start, stop, after = at, opens.end(), opens.end()
        else:
            start = at + 1
            closes = (one for one in _all(text, '"', start + 1, end) if one + 1 == end or _BETWEEN.match(text, one + 1))
            if (stop := next(closes, -1)) < 0:
                return []
            after = stop + 1
        found.append(_claim(text, "next token", start, stop))
        if after == end:
            return found
        between = _BETWEEN.match(text, after)
        if between is None or between.end() > end:
            return []
        at = between.end()


def _all(text: str, wanted: str, start: int, end: int | None = None) -> Iterator[int]:
    """Where a character stands, from `start` to `end`."""
    while (start := text.find(wanted, start, end)) >= 0:
        yield start
        start += 1


def _of_any(text: str) -> Iterator[Claim]:
    lines = list(_lines(text))
    items = [(start + len(bullet[0]), end) for start, end in lines if (bullet := _BULLET.match(text, start, end))]
    if not items and len(lines) > 1 and not any(text[start:end].endswith(_SENTENCE_END) for start, end in lines):
        items = lines
    at = 0
    for start, end in [*items, (len(text), len(text))]:
        yield from _sentences(text, at, start, between=bool(items))
        if start < end:
            yield _claim(text, "item", start, end)
        at = end
    for match in _QUOTED.finditer(text):
        yield _claim(text, "quote", *next(match.span(group) for group in (1, 2, 3, 4) if match[group] is not None))


def _sentences(text: str, start: int, end: int, *, between: bool) -> Iterator[Claim]:
    """The sentences of a part of the text; of what stands between items those with a word in them (no bullets)."""
    for first, last in _spans(text, start, end):
        if not between or re.search(r"[^\W\d_]{2}", text[first:last]):
            yield _claim(text, "sentence", first, last)


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
    for stop, following in [*_breaks(text, start, end), (end, end)]:
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


def _breaks(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Where sentences end and where the next ones begin: at a line break; after a full stop, question or exclamation
    mark (and the quote or bracket that closes behind it), before what can begin a sentence."""
    for space in _SPACE.finditer(text, start, end):
        ends = _ENDED.search(text[max(start, space.start() - 2) : space.start()])
        if "\n" in space[0] or (ends and _BEGINS.match(text, space.end(), end)):
            yield space.start(), space.end()


def _claim(text: str, kind: ClaimKind, start: int, end: int) -> Claim:
    return Claim(text[start:end], kind, start, end)
