"""Receipts of words alone: does a text, another explanation or a label say it?"""

from __future__ import annotations

from collections.abc import Sequence

from ..claims.cutting import claims_of
from ..claims.forms.claim import Claim
from ..claims.words import content_words, said_by, stems


def says(explanation: str, claim: Claim) -> bool:
    """Whether an explanation says a claim: makes the same one, or has all of its content words (by their stems).

    A next token is said by the same next token only: as a word it says another thing.

    Example:
        >>> says("Prose about old whales.", Claim("whale", "word", 0, 5))
        True
    """
    if any(_same(other, claim) for other in claims_of(explanation)):
        return True
    words = content_words(claim.text)
    return claim.kind != "next token" and bool(words) and said_by(words, explanation) == 1.0


def times(explanation: str, claim: Claim) -> int:
    """How often an explanation says a claim: as a claim of its kind, or by its words in a row (by their stems).

    Example:
        >>> times("Prose about sea, birds, sea.", Claim("sea", "word", 12, 15))
        2
    """
    found = sum(_same(other, claim) for other in claims_of(explanation))
    wanted = stems(claim.text)
    if claim.kind in ("next token", "register") or not wanted:
        return found
    there = stems(explanation)
    return max(found, sum(there[at : at + len(wanted)] == wanted for at in range(len(there) - len(wanted) + 1)))


def share_saying(explanations: Sequence[str], claim: Claim) -> float:
    """The share of explanations that say a claim, 0 to 1."""
    return sum(says(one, claim) for one in explanations) / len(explanations)


def _same(other: Claim, claim: Claim) -> bool:
    return other.kind == claim.kind and other.text.casefold() == claim.text.casefold()
