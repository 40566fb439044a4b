"""AV content: does an explanation tell its document from others? Retrieval, probes, and raw activations as the ceiling.

Query: one explanation. Candidates: one other explanation of every document, of its own document another position. A hit
is the own document strictly first. Which rows stand for their documents is drawn with four seeds; the worst is
reported, with the largest p. Null: the texts are permuted among rows, so that nothing but chance links a text to its
document. A null that does not vary cannot say anything, and is reported as broken.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from cards.evaluation import Content, Probe, Retrieval
from nla_sdk.metrics import unit

from .nulls import Documents, share_at_least

SEEDS = 4
DECIMALS = 9
GATHERED = 4_000_000  # similarities looked up at once
MOST_PROBED, FOLDS = 60, 5


@dataclass(frozen=True)
class Draw:
    """The queries of one seed and, for each, its candidates.

    Attributes:
        queries: int [q], rows.
        candidates: int [q, documents], rows; one of every document.
        own: int [q], the column of the query's own document.
    """

    queries: np.ndarray
    candidates: np.ndarray
    own: np.ndarray


def content(
    texts: Sequence[str],
    activations: np.ndarray,
    documents: Documents,
    *,
    families: Sequence[str] | None = None,
    sources: Sequence[str] | None = None,
    embed: Callable[[list[str]], np.ndarray] | None = None,
    draws: int = 5000,
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
    """
    others = [draw_others(documents, seed + at) for at in range(SEEDS)]
    found = []
    for features, similarity in _text_similarities(texts, texts, embed):
        found.append(_retrieve("explanation", "explanations", features, similarity, others, documents, draws, seed))
    if sources is not None:
        any_row = [draw_any(documents, seed + at) for at in range(SEEDS)]
        for features, similarity in _text_similarities(texts, sources, embed):
            found.append(
                _retrieve("explanation", "source texts", features, similarity, any_row, documents, draws, seed)
            )
    centred = unit(activations) - unit(activations).mean(axis=0)
    raw = np.round(np.nan_to_num(unit(centred)) @ np.nan_to_num(unit(centred)).T, DECIMALS)
    found.append(_retrieve("activation", "activations", "activations", raw, others, documents, draws, seed))
    return Content(retrieval=found, probes=_probes(texts, activations, documents, families, seed))


# --- retrieval --------------------------------------------------------------------------------------------------------
def draw_others(documents: Documents, seed: int) -> Draw:
    """Queries are the rows of documents with two rows or more; the own candidate is another row of the document."""
    rng = np.random.default_rng([seed, 0])
    queries = np.flatnonzero(documents.sizes[documents.codes] > 1)
    candidates = _one_of_each(documents, len(queries), rng)
    own = documents.codes[queries]
    for at, row in enumerate(queries):
        positions = documents.rows[own[at]]
        candidates[at, own[at]] = rng.choice(positions[positions != row])
    return Draw(queries, candidates, own)


def draw_any(documents: Documents, seed: int) -> Draw:
    """Every row is a query, and any row may stand for its document: candidates are other things than queries."""
    rng = np.random.default_rng([seed, 1])
    queries = np.arange(documents.n)
    return Draw(queries, _one_of_each(documents, documents.n, rng), documents.codes)


def _one_of_each(documents: Documents, count: int, rng: np.random.Generator) -> np.ndarray:
    """int [count, documents]: a row of every document, drawn for each query."""
    starts = np.concatenate([[0], np.cumsum(documents.sizes)[:-1]])
    by_document = np.concatenate(documents.rows)
    return by_document[starts + (rng.random((count, len(documents))) * documents.sizes).astype(np.int64)]


def hits(similarity: np.ndarray, draw: Draw, order: np.ndarray, candidates: np.ndarray | None = None) -> np.ndarray:
    """bool [q]: whether the own document is strictly first, with texts in the places that `order` gives them.

    Args:
        similarity: [n, n], query text by candidate text.
        order: int [n], the row whose query text stands in each row.
        candidates: int [n], likewise for candidates; default: as the queries.
    """
    placed = (order if candidates is None else candidates)[draw.candidates]
    found = similarity[order[draw.queries][:, None], placed]
    rows = np.arange(len(found))
    own = found[rows, draw.own].copy()
    found[rows, draw.own] = -np.inf
    return own > found.max(axis=1)


def _retrieve(
    query: str,
    candidates: str,
    features: str,
    similarity: np.ndarray,
    drawn: Sequence[Draw],
    documents: Documents,
    draws: int,
    seed: int,
) -> Retrieval:
    """The worst seed's top-1 and the largest p."""
    facts = {
        "query": query,
        "candidates": candidates,
        "features": features,
        "queries": len(drawn[0].queries),
        "documents": len(documents),
        "chance": 1.0 / len(documents),
    }
    if not len(drawn[0].queries):
        return Retrieval(**facts, broken="no document has two positions, so there is nothing to find")
    similarity = similarity.astype(np.float32) if similarity.dtype != np.float32 else similarity
    rows = np.arange(documents.n)
    here = [hits(similarity, draw, rows) for draw in drawn]
    by_seed = [float(found.mean()) for found in here]
    worst = int(np.argmin(by_seed))
    asked = Documents(documents.names[documents.codes[drawn[worst].queries]].tolist())
    top1 = asked.mean(here[worst], seed=seed)
    p = []
    for at, draw in enumerate(drawn):
        rng = np.random.default_rng([seed, at, 2])
        # Candidates that are the queries' own kind move with them; source texts stay where they are.
        fixed = rows if candidates == "source texts" else None
        null = np.array([hits(similarity, draw, rng.permutation(documents.n), fixed).mean() for _ in range(draws)])
        if null.std() == 0.0:
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
def _probes(texts, activations, documents: Documents, families, seed: int) -> list[Probe]:
    """Which document (of at most 60), and which family, told by a linear classifier from activation and from text."""
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    found = []
    several = np.flatnonzero(documents.sizes > 1)
    chosen = np.sort(np.random.default_rng(seed).permutation(several)[:MOST_PROBED])
    rows = np.flatnonzero(np.isin(documents.codes, chosen))
    if len(chosen) > 1:
        folds = StratifiedKFold(min(FOLDS, int(documents.sizes[chosen].min())), shuffle=True, random_state=seed)
        splits = list(folds.split(rows, documents.codes[rows]))
        found += _probe("document", texts, activations, documents, rows, documents.codes[rows], splits, seed)
    if families is not None and len(set(families)) > 1 and len(documents) >= FOLDS:
        everything = np.arange(documents.n)
        targets = np.unique(np.asarray(families), return_inverse=True)[1]
        folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed)  # a plain one may leave a family out
        splits = list(folds.split(everything, targets, documents.codes))
        found += _probe("family", texts, activations, documents, everything, targets, splits, seed)
    return found


def _probe(target, texts, activations, documents, rows, targets, splits, seed) -> list[Probe]:
    """Cross-validated accuracy of a ridge classifier on activations and on the words of explanations."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import RidgeClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    asked = Documents(documents.names[documents.codes[rows]].tolist())
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
    found = []
    for on, (data, make) in kinds.items():
        right = np.zeros(len(rows))
        try:
            for train, test in splits:
                right[test] = make().fit(data[train], targets[train]).predict(data[test]) == targets[test]
        except ValueError:  # a fold with one class only, or texts without a word
            continue
        counts = np.bincount(targets)
        found.append(
            Probe(
                on=on,
                target=target,
                classes=int((counts > 0).sum()),
                accuracy=asked.mean(right, seed=seed),
                chance=float(counts.max() / len(targets)),
            )
        )
    return found
