"""Words of texts: how they are spelled, which are forms of one, and which texts have them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from nla_sdk.claims.words import FUNCTION_WORDS, stems

if TYPE_CHECKING:
    import scipy.sparse

_WORD = re.compile(r"[^\W\d_][\w'’-]*\w")
_POSSESSIVE = re.compile(r"['’]s?$")


def spellings(text: str, window: int) -> dict[str, str | None]:
    """The different content words among the last `window` words of `text`, in lower case, and as the text spells each.

    A capital that begins a sentence does not tell how a word is spelled (None, if it stands nowhere else), and a
    possessive 's is not part of it. Contractions ("it's", "don't") say no more than their parts.

    Example:
        >>> spellings("The cat sat on Anna's mat, and it's hers. Cats do", 40)
        {'cat': 'cat', 'sat': 'sat', 'anna': 'Anna', 'mat': 'mat', 'cats': None}
    """
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    found: dict[str, str | None] = {}
    for match in list(_WORD.finditer(text))[-window:]:
        word, before = _POSSESSIVE.sub("", match[0]), text[: match.start()].rstrip(" \t\"'“‘(*-")
        lower = word.lower()
        if len(lower) < 3 or lower in ENGLISH_STOP_WORDS or lower in FUNCTION_WORDS or not {"'", "’"}.isdisjoint(lower):
            continue
        begins = not before or before[-1] in ".!?:\n"
        if not begins:
            found[lower] = word
        else:
            found.setdefault(lower, None if word[1:].islower() else word)
    return found


def same_stem(one: str, other: str) -> bool:
    """Whether two words are forms of one, by their first letters.

    Example:
        >>> same_stem("job", "jobs"), same_stem("association", "associated"), same_stem("computer", "company")
        (True, True, False)
    """
    short, long = sorted((one.lower(), other.lower()), key=len)
    if long.startswith(short):
        return len(long) - len(short) < 4
    alike = next((place for place, (a, b) in enumerate(zip(short, long, strict=False)) if a != b), len(short))
    return alike >= max(4, len(long) - 3)


def same(one: str, other: str) -> bool:
    return one.casefold() == other.casefold()


def usual(spelled: Iterable[Mapping[str, str | None]]) -> dict[str, str]:
    """Of each word the spelling that most rows have; in lower case where none tells."""
    counts: dict[str, Counter[str]] = {}
    for words in spelled:
        for lower, said in words.items():
            of = counts.setdefault(lower, Counter())
            if said is not None:
                of[said] += 1
    return {lower: min(said, key=lambda one: (-said[one], one)) if said else lower for lower, said in counts.items()}


def in_texts(texts: Sequence[str], names: Sequence[str]) -> scipy.sparse.csr_matrix:
    """[texts, names]: 1 where a text has a word by its stem, which is when the claim of it holds."""
    from scipy.sparse import csr_matrix

    of_stem: dict[str, list[int]] = {}
    for at, name in enumerate(names):
        for stem in set(stems(name)):
            of_stem.setdefault(stem, []).append(at)
    there = [sorted({at for stem in set(stems(text)) for at in of_stem.get(stem, ())}) for text in texts]
    rows, columns = np.repeat(np.arange(len(texts)), [len(one) for one in there]), [at for one in there for at in one]
    ones = np.ones(len(columns), np.float32)
    return csr_matrix((ones, (rows, columns)), shape=(len(texts), len(names)))
