"""Template collapse: how much outputs repeat, from whole strings down to word n-grams."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from nla_sdk.evaluation.measures import Collapse

PREFIXES = (40, 80, 120, 160, 200, 300)
STEM_WORDS = 4
COMMONEST = 10
NGRAMS = (1, 2, 3)


def collapse(texts: Sequence[str]) -> Collapse:
    """Distinct outputs, beginnings, opening stems (four words) and word n-grams of explanations.

    Raises:
        ValueError: there are none.
    """
    if not texts:
        raise ValueError("expected at least one explanation")
    words = [text.split() for text in texts]
    stems = Counter(" ".join(one[:STEM_WORDS]) for one in words)
    distinct = {}
    for size in NGRAMS:
        grams = [tuple(one[at : at + size]) for one in words for at in range(len(one) - size + 1)]
        if grams:
            distinct[size] = len(set(grams)) / len(grams)
    return Collapse(
        n=len(texts),
        unique=len(set(texts)),
        prefixes={length: len({text[:length] for text in texts}) for length in PREFIXES},
        stems=len(stems),
        commonest_stems=sorted(stems.items(), key=lambda item: (-item[1], item[0]))[:COMMONEST],
        distinct=distinct,
        mean_words=sum(map(len, words)) / len(words),
    )
