"""What is put in an explanation's place: unrelated sentences, nonsense, and its own words cut, shuffled or left out.

All choices are keyed on the row's id and the seed, so that a row's figures do not depend on the rows beside it.
"""

from __future__ import annotations

import re
from functools import cache
from importlib import resources

import numpy as np

from nla_sdk.io.files import hash64

_ONSETS = re.findall(r"\w+", "b bl br c cl d dr f fl g gl gr h j k l m n p pl pr qu r s sk sl sn sp st t tr v w y z")
_RIMES = re.findall(
    r"\w+", "ab ad af ag ak am an ap arp at eb ef eg elb em en erp et ib ig ilf im in ip irk ob og om op urp"
)


@cache
def unrelated_sentences() -> tuple[str, ...]:
    """The sentences shipped for the control: plain statements about unrelated things."""
    text = (resources.files(__package__) / "unrelated.txt").read_text(encoding="utf-8")
    return tuple(line for line in text.splitlines() if line)


def generator(row_id: str, seed: int, what: str) -> np.random.Generator:
    """A row's own random numbers for one purpose."""
    return np.random.default_rng([seed, hash64(row_id), hash64(what)])


def unrelated(row_id: str, seed: int) -> str:
    """A sentence that has nothing to do with the row."""
    sentences = unrelated_sentences()
    return sentences[int(generator(row_id, seed, "unrelated").integers(len(sentences)))]


def nonsense(text: str, row_id: str, seed: int) -> str:
    """Made-up words ("qwop fnar blarp"), as many as `text` has."""
    rng = generator(row_id, seed, "nonsense")

    def word() -> str:
        return "".join(rng.choice(_ONSETS) + rng.choice(_RIMES) for _ in range(rng.integers(1, 3)))

    return " ".join(word() for _ in range(max(1, len(text.split()))))


def without(parts: list[str], at: int) -> str:
    """The sentences without the one at `at`."""
    return " ".join(part for number, part in enumerate(parts) if number != at)


def reordered(parts: list[str], row_id: str, seed: int, what: str) -> str:
    """The parts in another order than they had, where there is one."""
    if len(set(parts)) < 2:
        return " ".join(parts)
    rng = generator(row_id, seed, what)
    while (order := [parts[at] for at in rng.permutation(len(parts))]) == parts:
        pass
    return " ".join(order)


def first_words(text: str, count: int) -> str:
    """Its first `count` words."""
    return " ".join(text.split()[:count])
