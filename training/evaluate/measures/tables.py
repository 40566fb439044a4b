"""An evaluation's rows, held together for all figures, and the kinds of figures that are made of them.

A row's FVE is 1 − mse / baseline (nla_sdk.metrics), so figures over any set of rows are means; intervals are
bootstrapped over documents, because rows of one document are not independent.
"""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import pyarrow as pa

from nla_sdk import metrics
from nla_sdk.evaluation.measures import EVALUATED
from nla_sdk.evaluation.parts import Balanced, Figure, Settings
from nla_sdk.io.tables import read_vectors

from .nulls import FEWEST_OF_A_FAMILY as FEWEST_OF_A_FAMILY
from .nulls import Documents, Families

Row = TypeVar("Row")
NO_TEXTS = "no texts of the rows were at hand (--texts FILE)"
EMPTY = b"empty_reconstruction"  # in the rows' schema: what the AR makes of no text, float32 [d], little-endian, Base64


def numbers(table: pa.Table, column: str) -> np.ndarray:
    """A float column as float64, null as NaN."""
    return np.array(table[column].to_numpy(zero_copy_only=False), dtype=np.float64)


def numbers_or_null(values: np.ndarray) -> pa.Array:
    """A float64 column, null where a value is NaN."""
    return pa.array(np.nan_to_num(values), pa.float64(), mask=np.isnan(values))


def drawn(rows: Sequence[Row], seed: int) -> list[Row]:
    """Evaluated rows in the order in which subsamples take them: all of them begin with the same rows."""
    return [rows[at] for at in np.random.default_rng(seed).permutation(len(rows))]


def next_of_another(documents: Sequence[str]) -> list[int | None]:
    """For each row the next one, round the table, that is of another document; None where all are of one.

    Example:
        >>> next_of_another(["a", "a", "b"])
        [2, 2, 0]
    """
    n = len(documents)
    return [
        next((at for step in range(1, n) if documents[at := (row + step) % n] != documents[row]), None)
        for row in range(n)
    ]


class Tables:
    """An evaluation's rows, held together for all figures.

    Args:
        rows, variants: the tables `measure` made; `variants` may be None or empty.
    """

    def __init__(self, rows: pa.Table, variants: pa.Table | None, settings: Settings) -> None:
        self.rows, self.variants, self.settings = rows, variants, settings
        self.status = np.array(rows["status"].to_pylist())
        self.evaluated = np.isin(self.status, EVALUATED)
        self.document_names = np.array(rows["doc_id"].to_pylist())
        self.families = None
        if "source_family" in rows.column_names:
            self.families = np.array([str(name) for name in rows["source_family"].to_pylist()], dtype=object)
        self.activations = read_vectors(rows)
        self.usable = np.isfinite(self.activations).all(axis=1) & (self.activations != 0).any(axis=1)
        self.baselines = metrics.mean_baselines(self.activations[self.usable]) if self.usable.any() else None
        self.has_fve = self.baselines is not None and self.baselines.mean_norm >= metrics.NO_ERROR
        # Sinks point elsewhere, each other alike: a few make the others look nearer to their reconstructions.
        norms = np.where(self.usable, np.linalg.norm(self.activations.astype(np.float64), axis=1), 0.0)
        self.outlying = norms > metrics.norm_limit(norms)
        self.documents = self.of(self.evaluated)
        self.texts = [text for text, ok in zip(rows["explanation"].to_pylist(), self.evaluated, strict=True) if ok]

    def of(self, mask: np.ndarray) -> Documents:
        """The documents of the rows under `mask`."""
        return Documents(self.document_names[mask].tolist())

    def vectors(self, column: str, mask: np.ndarray) -> np.ndarray:
        """A vector column's rows under `mask`, float32 [n, d]."""
        return read_vectors(self.rows.filter(pa.array(mask)), column)

    def fve(self, cosine: np.ndarray) -> np.ndarray:
        """Of each row; only where `has_fve`: activations that are all alike leave nothing to explain."""
        return metrics.fve(2.0 * (1.0 - cosine), self.baselines.mean_norm)

    @property
    def shuffle_is_possible(self) -> bool:
        """Whether there are explanations of other documents to put in a row's place."""
        return len(set(self.document_names[self.evaluated])) > 1


def empty_reconstruction(rows: pa.Table) -> np.ndarray | None:
    """What the AR makes of no text, float32 [d]; None if the table does not say."""
    stored = (rows.schema.metadata or {}).get(EMPTY)
    return None if stored is None else np.frombuffer(b64decode(stored), dtype="<f4")


# --- figures ----------------------------------------------------------------------------------------------------
def mean_figure(tables: Tables, documents: Documents, values: np.ndarray, p: float | None = None) -> Figure:
    """The mean over rows, with the settings' draws and seed."""
    return documents.mean(values, draws=tables.settings.bootstrap_draws, seed=tables.settings.seed, p=p)


def fve_figure(
    tables: Tables, documents: Documents, cosine: np.ndarray, other: np.ndarray | None = None, p: float | None = None
) -> Figure | None:
    """The figure of FVE from cosines, or of what it is more than with the `other` cosines; None where there is none."""
    if not tables.has_fve:
        return None
    fve = tables.fve(cosine) if other is None else tables.fve(cosine) - tables.fve(other)
    return mean_figure(tables, documents, fve, p)


def balanced_figure(tables: Tables, mask: np.ndarray, cosine: np.ndarray) -> Balanced | None:
    """FVE from the cosines of the rows under a mask, each source family counting alike; None where there is none."""
    if not tables.has_fve or tables.families is None:
        return None
    families = Families(tables.families[mask].tolist(), tables.document_names[mask].tolist())
    return families.mean(tables.fve(cosine), draws=tables.settings.bootstrap_draws, seed=tables.settings.seed)


def gain_figure(
    tables: Tables, documents: Documents, real: np.ndarray, other: np.ndarray, p: float | None = None
) -> Figure | None:
    """1 − mse(real) / mse(other), from cosines; None where the other makes no error."""
    draws, seed = tables.settings.bootstrap_draws, tables.settings.seed
    found = documents.gain(2.0 * (1.0 - real), 2.0 * (1.0 - other), draws=draws, seed=seed)
    return None if found is None else found.model_copy(update={"p": p})


def sign_flip_p(tables: Tables, documents: Documents, deltas: np.ndarray) -> float:
    """Two-sided p of paired differences, see `Documents.sign_flip`."""
    return documents.sign_flip(deltas, tables.settings.permutations, tables.settings.seed)
