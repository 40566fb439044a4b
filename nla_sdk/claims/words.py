"""Words of texts and of claims: stems, what is specific, and the class of a token."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache, lru_cache

import snowballstemmer

from ..evaluation.claims import TokenClassName

WORD = re.compile(r"[^\W_]+(?:['’.-][^\W_]+)*")
FUNCTION_WORDS = frozenset(
    """
    a about above after again against all also although always am among an and another any are as at be because been
    before being below between both but by can could did do does doing done down during each either else even ever
    every few for from further had has have having he her here hers herself him himself his how however i if in into
    is it its itself just least less like many may me might mine more most much must my myself near neither never no
    nor not now of off often on once one only onto or other others our ours ourselves out over own per perhaps quite
    rather same shall she should since so some still such than that the their theirs them themselves then there
    these they this those though through thus to too toward towards under until up upon us very was we well were
    what when where whether which while who whom whose why will with within without would yet you your yours
    yourself
    """.split()  # noqa: SIM905 (a list of quoted words would be a page)
)
"""English words that carry no content by themselves."""
FIRST = 10  # positions of a text that are a class of their own: what stands there has hardly a context


@cache
def _stemmer() -> snowballstemmer.stemmer:
    return snowballstemmer.stemmer("english")


def stems(text: str) -> list[str]:
    """The stem of every word, in order (Snowball's English stemmer; other scripts' words stay as they are).

    Example:
        >>> stems("The whales' studies")
        ['the', 'whale', 'studi']
    """
    return [_stem(word) for word in WORD.findall(text)]


@lru_cache(maxsize=1 << 16)
def _stem(word: str) -> str:
    return _stemmer().stemWord(re.sub(r"['’]s?$", "", word.lower()))


@lru_cache(maxsize=1024)  # a text is asked for every claim of a row
def _stem_set(text: str) -> frozenset[str]:
    return frozenset(stems(text))


def content_words(text: str) -> list[str]:
    """The words that say something: all but function words; where there are no others, all."""
    words = WORD.findall(text)
    return [word for word in words if word.lower() not in FUNCTION_WORDS] or words


def specifics(text: str) -> dict[str, list[str]]:
    """The numbers and the names that a text states.

    A name is a word with a capital letter that does not begin a sentence, or with one behind its first letter.

    Returns:
        "number" and "name", each in order, as written.
    Example:
        >>> specifics("It was built in 1889. The tower of Gustave Eiffel has NATO radios.")
        {'number': ['1889'], 'name': ['Gustave', 'Eiffel', 'NATO']}
    """
    found: dict[str, list[str]] = {"number": [], "name": []}
    for match in WORD.finditer(text):
        word, before = match[0], text[: match.start()].rstrip(" \t\"'“‘(*-•")
        begins = not before or before[-1] in ".!?:\n"
        if any(letter.isdigit() for letter in word):
            found["number"].append(word)
        elif any(letter.isupper() for letter in word[1:]) or (word[0].isupper() and not begins and word != "I"):
            found["name"].append(word)
    return found


def token_class(token: str, position: int | None) -> TokenClassName:
    """The class of the token that an activation was read at.

    Args:
        token: as text.
        position: counted from 0 at the text's first token; None: not known.
    Example:
        >>> token_class(" Paris", 40), token_class(" the", 40), token_class("the", 3)
        ('name', 'function word', 'first 10 positions')
    """
    word = token.strip()
    if position is not None and position < FIRST:
        return "first 10 positions"
    if any(letter.isdigit() for letter in word):
        return "number"
    if not any(letter.isalpha() for letter in word):
        return "punctuation"
    if word.lower() in FUNCTION_WORDS:
        return "function word"
    return "name" if word[0].isupper() else "other word"


def said_by(wanted: Sequence[str], text: str) -> float:
    """The share of words whose stems a text has: 0 to 1. Of no words 0."""
    there = _stem_set(text)
    asked = [stem for word in wanted for stem in stems(word)]
    return sum(stem in there for stem in asked) / len(asked) if asked else 0.0
