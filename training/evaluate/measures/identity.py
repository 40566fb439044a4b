"""Cross-row identity: does each reconstruction find its own activation among all of them?

In a residual stream everything points one way, so plain cosine ranks little but the shared direction: both sides have
the mean activation direction subtracted first, as `nla_sdk.metrics.retrieval_ranks` does.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from nla_sdk.errors import InputError
from nla_sdk.evaluation.measures import Identity, Pool
from nla_sdk.metrics import unit

from .nulls import Documents, share_at_least

MOST_ROWS = 2000  # the table of all pairs is n × n
POOL, POOL_DRAWS = 256, 8
DECIMALS = 9  # equal scores are equal on every machine


def shuffled_cosine(reconstructions: np.ndarray, activations: np.ndarray, documents: Documents) -> np.ndarray:
    """Of each row's activation the mean cosine to the reconstructions of all rows of OTHER documents.

    The exact expectation of "another row's explanation", which one shuffle would only sample. Uncentred cosines.

    Args:
        reconstructions, activations: [n, d].
    Returns:
        float64 [n].
    Raises:
        InputError: there is one document only.
    """
    if len(documents) < 2:
        raise InputError("All rows are of one document; expected at least two to put one's explanation to another.")
    made, activations = unit(reconstructions), unit(activations)
    own = np.stack([made[rows].sum(axis=0) for rows in documents.rows])[documents.codes]
    others = documents.n - documents.sizes[documents.codes]
    return np.clip(np.einsum("nd,nd->n", activations, made.sum(axis=0) - own) / others, -1.0, 1.0)


def scores(reconstructions: np.ndarray, activations: np.ndarray) -> np.ndarray:
    """Centred cosine of every reconstruction (row) to every activation (column): float64 [n, n]."""
    made, targets = unit(reconstructions), unit(activations)
    centre = targets.mean(axis=0)
    with np.errstate(invalid="ignore"):
        found = np.nan_to_num(unit(made - centre), nan=0.0) @ np.nan_to_num(unit(targets - centre), nan=0.0).T
    return np.round(found, DECIMALS)


def ranks(table: np.ndarray) -> np.ndarray:
    """Of every (row, column) how many other columns score at least as much in that row: int [n, n], 0 is first."""
    order = np.sort(table, axis=1)
    return np.stack(
        [len(row) - np.searchsorted(row, values, side="left") - 1 for row, values in zip(order, table, strict=True)]
    )


def identity(
    reconstructions: np.ndarray,
    activations: np.ndarray,
    documents: Documents,
    *,
    draws: int = 5000,
    bootstrap_draws: int = 2000,
    seed: int = 0,
) -> Identity:
    """Top-1 share, mean rank percentile and margin, against whole documents changing places.

    Args:
        reconstructions, activations: [n, d], row i of one belonging to row i of the other; at least two rows.
        draws: of the null.
        bootstrap_draws: of the intervals.
    """
    if documents.n > MOST_ROWS:
        kept = whole_documents(documents, seed)
        reconstructions, activations = reconstructions[kept], activations[kept]
        documents = Documents(documents.names[documents.codes[kept]].tolist())
    n = documents.n
    table = scores(reconstructions, activations)
    place = ranks(table)
    rows = np.arange(n)
    first, percentile = (place == 0).astype(np.float64), 1.0 - place / (n - 1)
    null = np.array(
        [
            (first[rows, to].mean(), percentile[rows, to].mean(), table[rows, to].mean())
            for to in documents.pairings(draws, seed)
        ]
    ).reshape(-1, 3)
    own = [values[rows, rows] for values in (first, percentile, table)]
    p = [share_at_least(null[:, at], values.mean()) for at, values in enumerate(own)]
    other = np.array([table[row, documents.codes != documents.codes[row]].mean() for row in rows])
    mean = partial(documents.mean, draws=bootstrap_draws, seed=seed)
    return Identity(
        n=n,
        top1=mean(own[0], p=p[0]),
        chance=1.0 / n,
        percentile=mean(own[1], p=p[1]),
        margin=mean(own[2] - other, p=p[2]),
        pool=_pool(reconstructions, activations, seed),
    )


def _pool(reconstructions: np.ndarray, activations: np.ndarray, seed: int) -> Pool:
    """Top-1 among random pools of one size, which compares across sets of other sizes."""
    n = len(activations)
    size, rng, hits = min(POOL, n), np.random.default_rng(seed), []
    for _ in range(POOL_DRAWS):
        part = rng.permutation(n)[:size]
        hits.append(np.diag(ranks(scores(reconstructions[part], activations[part]))) == 0)
    return Pool(size=size, draws=POOL_DRAWS, top1=float(np.mean(hits)))


def whole_documents(documents: Documents, seed: int) -> np.ndarray:
    """Rows of random documents, as many as make up at most `MOST_ROWS` rows."""
    order = np.random.default_rng(seed).permutation(len(documents))
    kept = order[: max(2, int(np.searchsorted(np.cumsum(documents.sizes[order]), MOST_ROWS, side="right")))]
    return np.sort(np.concatenate([documents.rows[code] for code in kept]))
