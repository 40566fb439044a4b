"""Explanations and texts put together, as readers would be asked to: of 20 in random order, which belongs to which?

Documents are dealt into hands of 20, each with one of its rows, and anew when too few are left, until there are 50
hands. In each the pairs are made one to one, so that their similarities sum to the most (scipy's
linear_sum_assignment). By chance 1 of 20 is right, whatever the texts are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from nla_sdk.evaluation.measures import Matching
from nla_sdk.evaluation.parts import Figure
from nla_sdk.metrics import unit

from .nulls import LEVEL, Documents
from .tables import NO_TEXTS, Tables

OF, DRAWS = 20, 50
AT_ONCE = 200  # draws of the interval held in memory together
DECIMALS = 6  # of a similarity: equal ones tie on every machine


def matching(
    tables: Tables, texts: Sequence[str] | None, embed: Callable[[list[str]], np.ndarray] | None = None
) -> list[Matching]:
    """How many of 20 explanations are given their own text, by words and with an embedder by meaning.

    Args:
        texts: of every row of `tables`, up to the position that its activation was read at; None: not at hand.
        embed: texts → [n, k].
    """
    kinds = ["words"] if embed is None else ["words", "meaning"]
    rows = eligible(tables, texts)
    documents = Documents(tables.document_names[rows].tolist())
    facts = {"of": OF, "draws": DRAWS, "chance": 1.0 / OF, "documents": len(documents), "rows": len(rows)}
    why = None
    if texts is None:
        why = NO_TEXTS
    elif len(documents) < OF:
        why = f"{len(documents)} documents have a text and an explanation, at least {OF} needed"
    if texts is None or why is not None:
        return [Matching(features=kind, **facts, why_not=why) for kind in kinds]
    explanations = tables.rows["explanation"].to_pylist()
    said, there = [explanations[row] for row in rows], [texts[row] for row in rows]
    settings, found = tables.settings, []
    hands, orders = deal(documents, settings.seed)
    for kind in kinds:
        similar = _by_words(said, there) if embed is None or kind == "words" else _by_meaning(said, there, hands, embed)
        if similar is None:
            found.append(Matching(features=kind, **facts, why_not="no text has a word"))
            continue
        right = np.stack([own_text(similar(hand), order) for hand, order in zip(hands, orders, strict=True)])
        figure = _figure(right, hands, documents, settings.bootstrap_draws, settings.seed)
        found.append(Matching(features=kind, **facts, matched=figure))
    return found


def eligible(tables: Tables, texts: Sequence[str] | None) -> np.ndarray:
    """Rows with an explanation and, where texts are at hand, a text: int [n]."""
    said = tables.rows["explanation"].to_pylist()
    return np.array(
        [
            row
            for row in np.flatnonzero(tables.evaluated)
            if said[row].strip() and (texts is None or (texts[row] or "").strip())
        ],
        dtype=np.int64,
    )


def deal(documents: Documents, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Hands of rows of different documents, and for each the order in which its texts are laid out: int [50, 20] both.

    Every document is dealt about as often as any other.
    """
    rng = np.random.default_rng([seed, 5])
    hands, left = [], np.zeros(0, dtype=np.int64)
    for _ in range(DRAWS):
        if len(left) < OF:
            left = rng.permutation(len(documents))
        hands.append([rng.choice(documents.rows[code]) for code in left[:OF]])
        left = left[OF:]
    return np.array(hands), np.stack([rng.permutation(OF) for _ in hands])


def own_text(similarity: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Whether each explanation is given its own text: bool [n].

    Args:
        similarity: [n, n], explanation by text, the own ones on the diagonal.
        order: int [n], in which the texts are laid out: of equal similarities the place decides, and without it the
            own text would stand first.
    """
    from scipy.optimize import linear_sum_assignment

    rows, columns = linear_sum_assignment(np.round(similarity, DECIMALS)[:, order], maximize=True)
    right = np.zeros(len(order), dtype=bool)
    right[rows] = order[columns] == rows
    return right


def _by_words(said: list[str], texts: list[str]) -> Callable[[np.ndarray], np.ndarray] | None:
    """TF-IDF of words, English stop words left out, as the texts have them; None: no text has a word."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    try:
        vectorizer = TfidfVectorizer(stop_words="english").fit(texts)
    except ValueError:
        return None
    left, right = vectorizer.transform(said), vectorizer.transform(texts)
    return lambda hand: (left[hand] @ right[hand].T).toarray()


def _by_meaning(
    said: list[str], texts: list[str], hands: np.ndarray, embed: Callable[[list[str]], np.ndarray]
) -> Callable[[np.ndarray], np.ndarray]:
    """Cosines of sentence embeddings, of the rows that were dealt."""
    dealt = np.unique(hands)
    left, right = (np.nan_to_num(unit(embed([each[row] for row in dealt]))) for each in (said, texts))

    def similar(hand: np.ndarray) -> np.ndarray:
        at = np.searchsorted(dealt, hand)
        return left[at] @ right[at].T

    return similar


def _figure(right: np.ndarray, hands: np.ndarray, documents: Documents, draws: int, seed: int) -> Figure:
    """The mean share, with a percentile bootstrap over documents and hands at once.

    A document is dealt several times, and in one hand a text given away wrongly is missed elsewhere: so both are drawn
    with replacement, and a card weighs the product (the pigeonhole bootstrap: Owen, 2007, Annals of Applied
    Statistics 1). Over hands alone the interval would be of the dealing only, and far too narrow.
    """
    rng, codes = np.random.default_rng([seed, 6]), documents.codes[hands]
    shares = [np.full(size, 1.0 / size) for size in (len(documents), len(hands))]
    found = []
    for first in range(0, draws, AT_ONCE):
        size = min(AT_ONCE, draws - first)
        of_documents, of_hands = (rng.multinomial(len(share), share, size=size) for share in shares)
        weights = of_documents[:, codes] * of_hands[:, :, None]
        found.append((weights * right).sum(axis=(1, 2)) / np.maximum(weights.sum(axis=(1, 2)), 1))
    low, high = np.quantile(np.concatenate(found), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Figure(value=float(right.mean()), n=len(np.unique(hands)), interval_95=(float(low), float(high)))


def faults(tables: Tables, stated: Sequence[Matching]) -> Iterator[str]:
    """What in the stated figures the rows refute, whatever the texts are."""
    rows = eligible(tables, None)
    most = {"rows": len(rows), "documents": len(set(tables.document_names[rows]))}
    for one in stated:
        if (one.of, one.draws) != (OF, DRAWS):
            yield f"matching.{one.features} is of {one.of} in {one.draws} draws; expected {OF} in {DRAWS}"
        for name, limit in most.items():
            if getattr(one, name) > limit:
                yield f"matching.{one.features}.{name} is {getattr(one, name)}, the rows give {limit} at most"
