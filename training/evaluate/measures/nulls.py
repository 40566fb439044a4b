"""Intervals and p-values of figures over rows that come from documents.

Rows of one document are not independent, so documents are what is drawn, flipped and exchanged. All draws are seeded.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from nla_sdk.evaluation.parts import Balanced, Figure
from nla_sdk.metrics import NO_ERROR

LEVEL = 0.95
FEWEST_OF_A_FAMILY = 5  # rows, for a figure of their own
AT_ONCE = 500  # draws held in memory together
MOST_KEPT = 4_000_000  # counts of a bootstrap's draws (draws × documents), of 8 bytes, kept for the next figure


class Documents:
    """Which document each of n rows is of.

    Args:
        doc_ids: of each row.
    Example:
        >>> Documents(["a", "a", "b"]).mean(np.array([1.0, 2.0, 3.0])).value
        2.0
    """

    def __init__(self, doc_ids: Sequence[str]) -> None:
        self.names, self.codes = np.unique(np.asarray(doc_ids, dtype=object).astype(str), return_inverse=True)
        self.rows = [np.flatnonzero(self.codes == code) for code in range(len(self.names))]
        self.sizes = np.array([len(rows) for rows in self.rows])
        self._drawn: dict[tuple[int, str], list[np.ndarray]] = {}

    def __len__(self) -> int:
        """How many documents there are."""
        return len(self.names)

    @property
    def n(self) -> int:
        """How many rows there are."""
        return len(self.codes)

    def sums(self, values: np.ndarray) -> np.ndarray:
        """The sum of the rows' values in each document."""
        return np.bincount(self.codes, weights=np.asarray(values, dtype=np.float64), minlength=len(self))

    # --- intervals ------------------------------------------------------------------------------------------------
    def mean(self, values: np.ndarray, *, draws: int = 2000, seed: int = 0, p: float | None = None) -> Figure:
        """The mean over rows, with the percentile bootstrap interval over documents.

        Args:
            values: float [n].
            p: goes into the figure.
        """
        values = np.asarray(values, dtype=np.float64)
        interval = self._interval(self.sums(values), self.sizes.astype(np.float64), draws, seed)
        return Figure(value=float(values.mean()), n=len(values), interval_95=interval, p=p)

    def gain(self, real: np.ndarray, other: np.ndarray, *, draws: int = 2000, seed: int = 0) -> Figure | None:
        """1 − Σ real / Σ other over mse of rows (metrics.gain), the ratio taken anew in each draw.

        None where `other` makes no error worth the name, so that there is none to remove.
        """
        if np.mean(other) < NO_ERROR:
            return None
        value = 1.0 - float(np.sum(real)) / float(np.sum(other))
        ratio = self._interval(self.sums(real), self.sums(other), draws, seed)
        interval = None if ratio is None else (1.0 - ratio[1], 1.0 - ratio[0])
        return Figure(value=value, n=len(real), interval_95=interval)

    def drawn_means(self, values: np.ndarray, draws: int, seed: int | Sequence[int]) -> np.ndarray:
        """The mean over rows in each draw of documents with replacement: float64 [draws]."""
        return self._ratios(self.sums(values), self.sizes.astype(np.float64), draws, seed)

    def _interval(self, above: np.ndarray, below: np.ndarray, draws: int, seed: int) -> tuple[float, float] | None:
        """Of Σ above / Σ below over documents; None for a single document, or where Σ below is 0 in a draw."""
        if len(self) < 2:
            return None
        if not np.isfinite(found := self._ratios(above, below, draws, seed)).all():
            return None
        low, high = np.quantile(found, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        return float(low), float(high)

    def _ratios(self, above: np.ndarray, below: np.ndarray, draws: int, seed: int | Sequence[int]) -> np.ndarray:
        """Σ above / Σ below in each draw of documents with replacement: float64 [draws]."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.concatenate([(counts @ above) / (counts @ below) for counts in self.counts(draws, seed)])

    def counts(self, draws: int, seed: int | Sequence[int]) -> Iterable[np.ndarray]:
        """How often each is drawn with replacement, `AT_ONCE` draws after another: float64 [draws, documents]."""
        # Documents are drawn, not rows: ten rows of one text are nearly one observation, and drawing rows would make
        # the interval as narrow as if they were ten.
        rng = np.random.default_rng(seed)
        shares = np.full(len(self), 1.0 / len(self))
        sizes = [min(AT_ONCE, draws - first) for first in range(0, draws, AT_ONCE)]
        made = (rng.multinomial(len(self), shares, size=size).astype(np.float64) for size in sizes)
        if draws * len(self) > MOST_KEPT:
            return made
        key = (draws, str(seed))  # an evaluation asks for the same ones hundreds of times, which was most of its cost
        if key not in self._drawn:
            self._drawn = {key: list(made)}
        return self._drawn[key]

    # --- nulls ----------------------------------------------------------------------------------------------------
    def sign_flip(self, deltas: np.ndarray, draws: int = 5000, seed: int = 0) -> float:
        """Two-sided p of a mean paired difference, under the null that each document's could as well be reversed."""
        sums = self.sums(deltas)
        observed = abs(sums.sum())
        rng = np.random.default_rng(seed)
        extreme = 0
        for first in range(0, draws, AT_ONCE):
            signs = rng.integers(0, 2, size=(min(AT_ONCE, draws - first), len(self))) * 2 - 1
            extreme += int((np.abs(signs @ sums) >= observed - 1e-12).sum())
        return (1 + extreme) / (1 + draws)

    def pairings(self, draws: int, seed: int | Sequence[int] = 0) -> Iterator[np.ndarray]:
        """Null pairings of rows with rows: whole documents change places.

        Document d's rows are paired with those of document π(d), from a random one on, in turn: rows that belong
        together stay together, so what they share does not count as evidence once per row.

        Yields:
            int [n]: the row each row is paired with.
        """
        # Rows of one document share its subject on both sides (vector and text). A null that permuted rows would break
        # that too, and any pair whose rows merely cluster by document would then look significant.
        rng = np.random.default_rng(seed)
        starts = np.concatenate([[0], np.cumsum(self.sizes)[:-1]])
        by_document = np.concatenate(self.rows)
        place = np.empty(self.n, dtype=np.int64)  # of each row within its document
        for rows in self.rows:
            place[rows] = np.arange(len(rows))
        for _ in range(draws):
            to = rng.permutation(len(self))[self.codes]
            shift = rng.integers(0, 1 << 30, size=len(self))[self.codes]
            yield by_document[starts[to] + (place + shift) % self.sizes[to]]


class Families:
    """The rows of source families that are large enough for a mean of their own, so that each family counts alike.

    Args:
        families, doc_ids: of each of n rows.
    Attributes:
        kept: int, the rows of families with at least `FEWEST_OF_A_FAMILY` rows.
    Example:
        >>> Families(["a"] * 5 + ["b"] * 10, [str(row) for row in range(15)]).mean(np.repeat([0.0, 1.0], [5, 10])).value
        0.5
    """

    def __init__(self, families: Sequence[str], doc_ids: Sequence[str]) -> None:
        _, codes, sizes = np.unique(
            np.asarray(families, dtype=object).astype(str), return_inverse=True, return_counts=True
        )
        large = np.flatnonzero(sizes >= FEWEST_OF_A_FAMILY)
        self.kept = np.flatnonzero(np.isin(codes, large))
        self._rows = [np.flatnonzero(codes[self.kept] == code) for code in large]
        documents = np.asarray(doc_ids, dtype=object)[self.kept]
        self._all = Documents(documents.tolist())
        self._each = [Documents(documents[rows].tolist()) for rows in self._rows]

    def __len__(self) -> int:
        """How many families there are."""
        return len(self._rows)

    def mean(self, values: np.ndarray, *, draws: int = 2000, seed: int = 0, p: float | None = None) -> Balanced | None:
        """The mean of the families' means; None of fewer than two families.

        Its interval is a percentile bootstrap: in each draw every family's documents are drawn anew among themselves,
        as many as it has. None where a family is of one document: how such families vary cannot be known from it.

        Args:
            values: float [n], of all rows.
            p: goes into the figure.
        """
        if len(self) < 2:
            return None
        values = np.asarray(values, dtype=np.float64)[self.kept]
        found = float(np.mean([values[rows].mean() for rows in self._rows]))
        interval = None
        if all(len(documents) > 1 for documents in self._each):
            drawn = np.mean(
                [
                    documents.drawn_means(values[rows], draws, [seed, at])
                    for at, (rows, documents) in enumerate(zip(self._rows, self._each, strict=True))
                ],
                axis=0,
            )
            low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
            interval = float(low), float(high)
        return Balanced(value=found, n=len(self.kept), interval_95=interval, p=p, families=len(self))

    def sign_flip(self, deltas: np.ndarray, draws: int = 5000, seed: int = 0) -> float:
        """Two-sided p of the mean of the families' mean differences, see `Documents.sign_flip`."""
        deltas = np.asarray(deltas, dtype=np.float64)[self.kept]
        weights = np.empty(len(self.kept))
        for rows in self._rows:  # the weighted mean over rows is the mean of means
            weights[rows] = len(self.kept) / (len(self) * len(rows))
        return self._all.sign_flip(deltas * weights, draws, seed)


def share_at_least(null: np.ndarray, observed: float) -> float:
    """One-sided p: (1 + draws at least as large) / (1 + draws)."""
    return float((1 + np.sum(np.asarray(null) >= observed - 1e-12)) / (1 + len(null)))
