"""Whether a claim holds, where the text is known: the one rule that precision and probabilities rest on."""

from __future__ import annotations

import re

from .forms.claim import WORDS, Claim
from .forms.sections import bare
from .registers import REGISTERS, register_of
from .words import content_words, said_by, specifics

STYLES = frozenset(map(bare, REGISTERS))
HALF = 0.5  # of its words that the text has to have
AGREES = 0.01  # of the source's probability that a named next token has to have


def in_text(claim: Claim, text: str) -> float:
    """How much of a claim a text says: the share of its content words whose stems are there, 0 to 1.

    Of a register that labels name it is 1 where `register_of` finds the same, else 0.

    Example:
        >>> in_text(Claim("old whales", "word", 0, 10), "The whale was seen.")
        0.5
    """
    if claim.kind == "register" and (named := bare(claim.text).lower()) in STYLES:
        return float(bool(text.strip()) and bare(register_of(text)).lower() == named)
    return said_by(content_words(claim.text), text)


def in_text_exact(claim: Claim, text: str) -> float:
    """1 where a text has the claim word for word (case and white space aside), else 0."""
    wanted, there = (re.sub(r"\s+", " ", one).strip().casefold() for one in (claim.text, text))
    inside = re.search(rf"(?<!\w){re.escape(wanted)}(?!\w)", there) if wanted else None
    return float(inside is not None)


def supported(claim: Claim, text: str, agrees: float | None = None) -> bool | None:
    """Whether a claim holds.

    A next token holds where the source gives it a probability of at least 0.01 at the position. Any other claim holds
    where the text up to the position has at least half of its content words (of one word: that one; by their stems),
    and every number and every name in it.

    Args:
        text: up to the position that the activation was read at.
        agrees: the source's probability of the named token; None: not at hand, and next tokens stay undecided (None).
    """
    if claim.kind == "next token":
        return None if agrees is None else agrees >= AGREES
    if in_text(claim, text) < HALF:
        return False
    if claim.kind in (*WORDS, "register"):
        return True
    return all(said_by([one], text) == 1.0 for named in specifics(claim.text).values() for one in named)
