"""AV content: does an explanation tell its document from others? Retrieval, probes, and raw activations as the ceiling.

Query: one explanation. Candidates: one other explanation of every document, of its own document another position. A hit
is the own document strictly first. Which rows stand for their documents is drawn with four seeds; the worst is
reported, with the largest p. Null: the texts are permuted among rows, so that nothing but chance links a text to its
document; against source texts whole documents change places, because explanations and sources both resemble the others
of their document, and a row is then no independent evidence. A null that does not vary cannot say anything, and is
reported as broken.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from nla_sdk.evaluation.measures import Content, Probe, Retrieval
from nla_sdk.metrics import unit

from .nulls import Documents, share_at_least

SEEDS = 4
DECIMALS = 9
MOST_LOOKED_UP = 100_000  # similarities in one draw of a null, queries × documents: 2,000 rows take half a minute
LOOKED_UP_FIRST = (8, 64)
"""Candidates that all queries are held against, then those that are still first."""
MOST_PROBED, FOLDS = 60, 5


@dataclass(frozen=True)
class Draw:
    """The queries of one seed and, for each, its candidates.

    Attributes:
        queries: int [q], rows.
        candidates: int [q, documents], rows; one of every document.
        own: int [q], the column of the query's own document.
        eligible: how many rows the queries were drawn from.
    """

    queries: np.ndarray
    candidates: np.ndarray
    own: np.ndarray
    eligible: int


def content(
    texts: Sequence[str],
    activations: np.ndarray,
    documents: Documents,
    *,
    families: Sequence[str] | None = None,
    sources: Sequence[str] | None = None,
    embed: Callable[[list[str]], np.ndarray] | None = None,
    draws: int = 5000,
    bootstrap_draws: int = 2000,
    seed: int = 0,
) -> Content:
    """All retrievals and probes.

    Args:
        texts: the explanations.
        activations: [n, d], of the same rows.
        families: of each row, for the second probe.
        sources: of each row, its source text without the end that a label may quote.
        embed: texts → [n, k].
        draws: of each null.
        bootstrap_draws: of the intervals.
    """
    counts = (draws, bootstrap_draws)
    others = [draw_others(documents, seed + at) for at in range(SEEDS)]
    found = []
    for features, similarity in _text_similarities(texts, texts, embed):
        found.append(_retrieve("explanation", "explanations", features, similarity, others, documents, counts, seed))
    if sources is not None:
        any_row = [draw_any(documents, seed + at) for at in range(SEEDS)]
        for features, similarity in _text_similarities(texts, sources, embed):
            found.append(
                _retrieve("explanation", "source texts", features, similarity, any_row, documents, counts, seed)
            )
    centred = unit(activations) - unit(activations).mean(axis=0)
    raw = np.round(np.nan_to_num(unit(centred)) @ np.nan_to_num(unit(centred)).T, DECIMALS)
    found.append(_retrieve("activation", "activations", "activations", raw, others, documents, counts, seed))
    return Content(retrieval=found, probes=_probes(texts, activations, documents, families, bootstrap_draws, seed))


# --- retrieval --------------------------------------------------------------------------------------------------------
def draw_others(documents: Documents, seed: int) -> Draw:
    """Queries are the rows of documents with two rows or more; the own candidate is another row of the document."""
    rng = np.random.default_rng([seed, 0])
    eligible = np.flatnonzero(documents.sizes[documents.codes] > 1)
    queries = _some(eligible, documents, rng)
    candidates = _one_of_each(documents, len(queries), rng)
    own = documents.codes[queries]
    for at, row in enumerate(queries):
        positions = documents.rows[own[at]]
        candidates[at, own[at]] = rng.choice(positions[positions != row])
    return Draw(queries, candidates, own, len(eligible))


def draw_any(documents: Documents, seed: int) -> Draw:
    """Any row may be a query, and any may stand for its document: candidates are other things than queries."""
    rng = np.random.default_rng([seed, 1])
    queries = _some(np.arange(documents.n), documents, rng)
    return Draw(queries, _one_of_each(documents, len(queries), rng), documents.codes[queries], documents.n)


def _some(rows: np.ndarray, documents: Documents, rng: np.random.Generator) -> np.ndarray:
    """The rows, or as many of them as keep a draw of the null within `MOST_LOOKED_UP`."""
    most = max(1, MOST_LOOKED_UP // len(documents))
    return rows if len(rows) <= most else np.sort(rng.permutation(rows)[:most])


def _one_of_each(documents: Documents, count: int, rng: np.random.Generator) -> np.ndarray:
    """int [count, documents]: a row of every document, drawn for each query."""
    starts = np.concatenate([[0], np.cumsum(documents.sizes)[:-1]])
    by_document = np.concatenate(documents.rows)
    return by_document[starts + (rng.random((count, len(documents))) * documents.sizes).astype(np.int64)]


def hits(similarity: np.ndarray, draw: Draw, order: np.ndarray, candidates: np.ndarray | None = None) -> np.ndarray:
    """bool [q]: whether the own document is strictly first, with texts in the places that `order` gives them.

    Args:
        similarity: [n, n], query text by candidate text, C-contiguous.
        order: int [n], the row whose query text stands in each row.
        candidates: int [n], likewise for candidates; default: as the queries.
    """
    placed = order if candidates is None else candidates
    asked, flat = order[draw.queries] * similarity.shape[1], similarity.reshape(-1)
    own = flat.take(asked + placed.take(draw.candidates[np.arange(len(draw.queries)), draw.own]))
    first = np.arange(len(draw.queries))  # queries whose own document no candidate has come up to yet
    start = 0
    # By chance nearly every query loses to one of the first few; this is the inner loop.
    for end in (*LOOKED_UP_FIRST, draw.candidates.shape[1]):
        found = flat.take(placed.take(draw.candidates[first, start:end]) + asked[first, None])
        own_at = draw.own[first] - start
        there = np.flatnonzero((own_at >= 0) & (own_at < end - start))
        found[there, own_at[there]] = -np.inf
        first, start = first[own[first] > found.max(axis=1, initial=-np.inf)], end
    lasting = np.zeros(len(draw.queries), bool)
    lasting[first] = True
    return lasting


def _retrieve(
    query: str,
    candidates: str,
    features: str,
    similarity: np.ndarray,
    drawn: Sequence[Draw],
    documents: Documents,
    counts: tuple[int, int],
    seed: int,
) -> Retrieval:
    """The worst seed's top-1 and the largest p; `counts`: draws of the null and of the intervals."""
    facts = {
        "query": query,
        "candidates": candidates,
        "features": features,
        "queries": len(drawn[0].queries),
        "eligible": drawn[0].eligible if drawn[0].eligible > len(drawn[0].queries) else None,
        "documents": len(documents),
        "chance": 1.0 / len(documents),
    }
    if not len(drawn[0].queries):
        return Retrieval(**facts, broken="no document has two positions, so there is nothing to find")
    similarity, (draws, bootstrap_draws) = np.ascontiguousarray(similarity, dtype=np.float32), counts
    rows = np.arange(documents.n)
    here = [hits(similarity, draw, rows) for draw in drawn]
    by_seed = [float(found.mean()) for found in here]
    worst = int(np.argmin(by_seed))
    asked = Documents(documents.names[documents.codes[drawn[worst].queries]].tolist())
    top1 = asked.mean(here[worst], draws=bootstrap_draws, seed=seed)
    p = []
    for at, draw in enumerate(drawn):
        if candidates == "source texts":  # these stay where they are
            orders = documents.pairings(draws, [seed, at, 2])
            null = np.array([hits(similarity, draw, order, rows).mean() for order in orders])
        else:  # candidates that are the queries' own kind move with them
            rng = np.random.default_rng([seed, at, 2])
            null = np.array([hits(similarity, draw, rng.permutation(documents.n)).mean() for _ in range(draws)])
        if null.min() == null.max():  # its standard deviation may be 1e-17
            what = "all texts are alike to these features" if by_seed[at] == null[0] else "its null does not vary"
            return Retrieval(**facts, top1=top1, by_seed=by_seed, broken=what)
        p.append(share_at_least(null, by_seed[at]))
    return Retrieval(**facts, top1=top1.model_copy(update={"p": max(p)}), by_seed=by_seed)


def _text_similarities(texts, others, embed):
    """features and similarity [n, n] of every text to every other, rounded so that equal texts tie on every machine."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    kinds = {
        "words": {"token_pattern": r"(?u)\b\w+\b", "sublinear_tf": True},
        "characters": {"analyzer": "char_wb", "ngram_range": (3, 5), "sublinear_tf": True},
    }
    for features, options in kinds.items():
        try:
            vectorizer = TfidfVectorizer(**options).fit([*texts, *others])
        except ValueError:  # no text has a word
            yield features, np.zeros((len(texts), len(others)), np.float32)
            continue
        found = (vectorizer.transform(texts) @ vectorizer.transform(others).T).toarray()
        yield features, np.round(found, DECIMALS).astype(np.float32)
    if embed is not None:
        left = unit(embed(list(texts)))
        right = left if others is texts else unit(embed(list(others)))
        yield "embeddings", np.round(np.nan_to_num(left @ right.T), 6).astype(np.float32)


# --- probes -----------------------------------------------------------------------------------------------------------
def _probes(texts, activations, documents: Documents, families, bootstrap_draws: int, seed: int) -> list[Probe]:
    """Which document (of at most 60), and which family, told by a linear classifier from activation and from text."""
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    several = np.flatnonzero(documents.sizes > 1)
    chosen = np.sort(np.random.default_rng(seed).permutation(several)[:MOST_PROBED])
    rows = np.flatnonzero(np.isin(documents.codes, chosen))
    why, splits = None, []
    if len(chosen) > 1:
        folds = StratifiedKFold(min(FOLDS, int(documents.sizes[chosen].min())), shuffle=True, random_state=seed)
        splits = list(folds.split(rows, documents.codes[rows]))
    else:
        why = "fewer than two documents have two rows"
    asked = (texts, activations, documents, bootstrap_draws, seed)
    found = _probe("document", rows, documents.codes[rows], splits, why, *asked)
    if families is not None and len(set(families)) > 1:
        everything = np.arange(documents.n)
        targets = np.unique(np.asarray(families), return_inverse=True)[1]
        why, splits = None, []
        if len(documents) < FOLDS:
            why = f"{len(documents)} documents, at least {FOLDS} needed"
        elif np.bincount(targets).max() < FOLDS:
            why = f"no family has {FOLDS} rows"
        else:
            folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed)  # a plain one may leave a family out
            with warnings.catch_warnings():  # of families with fewer rows than folds: these are never right
                warnings.filterwarnings("ignore", message="The least populated class")
                splits = list(folds.split(everything, targets, documents.codes))
        found += _probe("family", everything, targets, splits, why, *asked)
    return found


def _probe(target, rows, targets, splits, why, texts, activations, documents, bootstrap_draws, seed) -> list[Probe]:
    """Cross-validated accuracy of a ridge classifier on activations and on the words of explanations.

    Args:
        why: it cannot be made, or None.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import RidgeClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    kinds = {
        "activation": (
            activations[rows].astype(np.float64),
            lambda: make_pipeline(StandardScaler(), RidgeClassifier(alpha=activations.shape[1])),
        ),
        "explanation": (
            np.asarray(texts, dtype=object)[rows],
            lambda: make_pipeline(TfidfVectorizer(token_pattern=r"(?u)\b\w+\b"), RidgeClassifier(alpha=1.0)),
        ),
    }
    counts = np.bincount(targets) if len(targets) else np.zeros(1, dtype=int)
    facts = {
        "target": target,
        "classes": int((counts > 0).sum()),
        "chance": float(counts.max() / max(1, len(targets))),
    }
    if why is not None:
        return [Probe(on=on, **facts, broken=why) for on in kinds]
    asked = Documents(documents.names[documents.codes[rows]].tolist())
    found = []
    for on, (data, make) in kinds.items():
        right = np.zeros(len(rows))
        try:
            for train, test in splits:
                right[test] = make().fit(data[train], targets[train]).predict(data[test]) == targets[test]
        except ValueError:
            found.append(Probe(on=on, **facts, broken="a fold has one class only, or texts without a word"))
            continue
        found.append(Probe(on=on, **facts, accuracy=asked.mean(right, draws=bootstrap_draws, seed=seed)))
    return found
