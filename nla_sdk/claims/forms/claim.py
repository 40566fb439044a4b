"""A claim: a part of an explanation that holds or does not."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

ClaimKind: TypeAlias = Literal["next token", "register", "word", "related word", "quote", "item", "sentence"]
KINDS: tuple[ClaimKind, ...] = ("next token", "register", "word", "related word", "quote", "item", "sentence")
WORDS: tuple[ClaimKind, ...] = ("word", "related word")
"""Of lists: what the text is about, and what is only near that in meaning."""
LINE_BREAK, END = "a line break", "the end of the text"
"""Next tokens that labels spell out (`training.label.extractive`)."""
_SPACE = re.compile(r"\s+")
_ENDED = re.compile(r"[.!?][\"'”’)\]]?$")
_BEGINS = re.compile(r"[\"'“‘(\[]?[A-Z0-9]")


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


def claim_at(text: str, kind: ClaimKind, start: int, end: int) -> Claim:
    """What stands in `text` from `start` to `end`, as a claim."""
    return Claim(text[start:end], kind, start, end)


def places(text: str, wanted: str, start: int, end: int | None = None) -> Iterator[int]:
    """Where a character stands, from `start` to `end`."""
    while (start := text.find(wanted, start, end)) >= 0:
        yield start
        start += 1


def breaks(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Where sentences end and where the next ones begin: at a line break; after a full stop, question or exclamation
    mark (and the quote or bracket that closes behind it), before what can begin a sentence."""
    for space in _SPACE.finditer(text, start, end):
        ends = _ENDED.search(text[max(start, space.start() - 2) : space.start()])
        if "\n" in space[0] or (ends and _BEGINS.match(text, space.end(), end)):
            yield space.start(), space.end()
