"""Which activations a held-out table takes, of more than it has room for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple


class Head(NamedTuple):
    """What of an activation is known without reading its vector."""

    row_id: str
    doc_id: str
    text: str | None
    family: str | None
    usable: bool
    """Whether it has a label to train on."""


def spread(rows: Iterable[tuple[str, str]], count: int) -> set[str]:
    """At most `count` of the (row_id, doc_id) pairs' row_ids: first one a document, then a second one, …, in order.

    Example:
        >>> sorted(spread([("a", "x"), ("b", "x"), ("c", "y")], 2))
        ['a', 'c']
    """
    return set(_one_a_document_first(rows)[:count])


def by_families(rows: Iterable[tuple[str, str, str | None]], count: int) -> set[str]:
    """At most `count` of the (row_id, doc_id, family) triples' row_ids: one of each family in turn, of a family as
    `spread` takes them. A family without any left is passed over, so small ones are in whole.

    Example:
        >>> sorted(by_families([("a", "x", "law"), ("b", "y", "law"), ("c", "z", "law"), ("d", "w", "code")], 2))
        ['a', 'd']
    """
    families: dict[str | None, list[tuple[str, str]]] = {}
    for row_id, doc_id, family in rows:
        families.setdefault(family, []).append((row_id, doc_id))
    turns = [
        (turn, place, row_id)
        for place, own in enumerate(families.values())
        for turn, row_id in enumerate(_one_a_document_first(own))
    ]
    return {row_id for _, _, row_id in sorted(turns)[:count]}


def _one_a_document_first(rows: Iterable[tuple[str, str]]) -> list[str]:
    rounds: Counter[str] = Counter()
    keyed = []
    for index, (row_id, doc_id) in enumerate(rows):
        keyed.append((rounds[doc_id], index, row_id))
        rounds[doc_id] += 1
    return [row_id for _, _, row_id in sorted(keyed)]
