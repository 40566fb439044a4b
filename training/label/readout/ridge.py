"""Ridge regressions between activations and what is so of their texts, in both directions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import scipy.sparse


def frequent(features: Sequence[Iterable[str]], documents: Sequence[str], least: int) -> list[str]:
    """What occurs in at least `least` different documents, in alphabetical order."""
    seen: set[tuple[str, str]] = set()
    counts: Counter[str] = Counter()
    for names, document in zip(features, documents, strict=True):
        for name in names:
            if (name, document) not in seen:
                seen.add((name, document))
                counts[name] += 1
    return sorted(name for name, count in counts.items() if count >= least)


def ranked(tokens: Iterable[str]) -> dict[str, float]:
    """Likelier ones weigh more. White space alone is the empty name: a line break, say."""
    return {token: (1 + rank) ** -0.5 for rank, token in enumerate(dict.fromkeys(token.strip() for token in tokens))}


def matrix_of(features: Sequence[Mapping[str, float]], names: Sequence[str]) -> scipy.sparse.csr_matrix:
    """Float32 [rows, names]: the value of each name in each row; others are left out.

    Args:
        names: in alphabetical order, which is the vectorizer's.
    """
    from sklearn.feature_extraction import DictVectorizer

    return DictVectorizer(dtype=np.float32).fit([dict.fromkeys(names, 1.0)]).transform(features)


class Readers:
    """Ridge regressions from directions to features; the covariance is factored once."""

    def __init__(self, directions: np.ndarray, shrinkage: float) -> None:
        from scipy.linalg import cho_factor

        self.directions = directions
        covariance = (directions.T @ directions).astype(np.float64) / len(directions)
        covariance[np.diag_indices_from(covariance)] += shrinkage * np.trace(covariance) / len(covariance)
        self.factor = cho_factor(covariance)

    def of(self, features: scipy.sparse.csr_matrix, rarity: float) -> np.ndarray:
        """float32 [d, k]. With `rarity` > 0 scores are divided by frequency to that power, or all rows named the
        commonest features; with 0 the readers find what is likeliest, less its frequency."""
        from scipy.linalg import cho_solve

        shares = np.asarray(features.mean(axis=0), dtype=np.float64).ravel()
        products = np.asarray((features.T @ self.directions).T, dtype=np.float64) / len(self.directions)
        readers = cho_solve(self.factor, products)
        return (readers / (shares + 2e-3) ** rarity).astype(np.float32)


def fit_atoms(features: scipy.sparse.csr_matrix, directions: np.ndarray, penalty: float) -> np.ndarray:
    """float32 [k, d], of length 1: what each feature adds to a direction."""
    return unit(fit_directions(features, directions, penalty))


def fit_directions(features: scipy.sparse.csr_matrix, directions: np.ndarray, penalty: float) -> np.ndarray:
    """float32 [k, d]: the ridge regression from features [n, k] to directions [n, d]."""
    from scipy.linalg import solve

    gram = (features.T @ features).toarray().astype(np.float64)
    gram[np.diag_indices_from(gram)] += penalty
    products = np.asarray(features.T @ directions, dtype=np.float64)
    return solve(gram, products, assume_a="pos").astype(np.float32)


def unit(vectors: np.ndarray) -> np.ndarray:
    """Rows scaled to length 1; a row of zeros stays one."""
    norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.where(norms > 0, norms, 1.0)
