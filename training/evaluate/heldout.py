"""The held-out activations an evaluation is made on: read, checked against the pair, one row per activation."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cards.evaluation import Data
from nla_sdk.errors import InputError

from ..files import read_sidecar, read_vectors, sha256_of

if TYPE_CHECKING:
    from nla_sdk.contract import Contract

NEEDED = ("doc_id", "activation_vector")
WANTED = (*NEEDED, "row_id", "source_family", "n_raw_tokens", "activation_layer", "api_explanation", "label_status")
TEXT = "detokenized_text_truncated"


@dataclass(frozen=True)
class Heldout:
    """Activations and what is known of each.

    Attributes:
        vectors: float32 [n, d], raw; rows without a direction (zero, NaN) are kept, and fail.
        row_ids, documents: of each row; row_ids are unique.
        families, labels, texts: of each row; None where the table has no such column.
        tokens: tokens of the text up to the position read, or None.
    """

    path: Path
    sha256: str
    vectors: np.ndarray
    row_ids: list[str]
    documents: list[str]
    families: list[str] | None = None
    labels: list[str] | None = None
    texts: list[str] | None = None
    tokens: list[int] | None = None

    def __len__(self) -> int:
        return len(self.vectors)

    @property
    def usable(self) -> np.ndarray:
        """bool [n]: rows whose vector has a direction."""
        return np.isfinite(self.vectors).all(axis=1) & (self.vectors != 0).any(axis=1)

    def about(self) -> Data:
        """What the evaluation file says of it."""
        families = self.families or []
        return Data(
            name=self.path.name,
            sha256=self.sha256,
            rows=len(self),
            documents=len(set(self.documents)),
            families={family: families.count(family) for family in sorted(set(families))},
            has_labels=self.labels is not None,
            has_texts=self.texts is not None,
        )


def read(path: Path, contract: Contract, limit: int | None = None) -> Heldout:
    """Read a held-out table and hold it against the pair's contract.

    A table with several labels per activation (one per labeler) gives one row per activation, with its first label.

    Args:
        path: parquet with doc_id and activation_vector; row_id, source_family, api_explanation and
            detokenized_text_truncated are used where there are any.
        limit: only the first so many activations.
    Raises:
        InputError: no such file, no parquet, columns missing, or vectors of another layer or width than the pair reads.
    Warns:
        UserWarning: the table says it was extracted from another base model.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.is_file():
        raise InputError(f"{path} does not exist; expected a parquet table of held-out activations.")
    try:
        schema = pq.read_schema(path)
        columns = [name for name in (*WANTED, TEXT) if name in schema.names]
        if missing := [name for name in NEEDED if name not in columns]:
            raise InputError(
                f"{path} lacks the columns {', '.join(missing)}; it has {', '.join(schema.names)}. Make it with "
                "`python -m training.extract` or `nla extract`."
            )
        table = pq.read_table(path, columns=columns)
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{path} cannot be read as parquet: {error}") from error
    first: dict[str, int] = {}
    ids = table["row_id"].to_pylist() if "row_id" in columns else _numbered(table["doc_id"].to_pylist())
    for at, name in enumerate(ids):
        first.setdefault(str(name), at)
    table = table.take(list(first.values())[:limit])
    if not table.num_rows:
        raise InputError(f"{path} holds no rows; expected held-out activations.")
    _check(path, table, contract)

    def column(name: str) -> list | None:
        return table[name].to_pylist() if name in columns else None

    return Heldout(
        path=path,
        sha256=sha256_of(path),
        vectors=read_vectors(table),
        row_ids=list(first)[:limit],
        documents=[str(name) for name in table["doc_id"].to_pylist()],
        families=_strings(column("source_family")),
        labels=_strings(column("api_explanation")),
        texts=_strings(column(TEXT)),
        tokens=column("n_raw_tokens"),
    )


def _numbered(documents: list) -> list[str]:
    """Row ids for a table without any: a document's rows in their order."""
    seen: dict[str, int] = {}
    names = []
    for document in documents:
        seen[document] = seen.get(document, -1) + 1
        names.append(f"{document}:{seen[document]}")
    return names


def _strings(values: list | None) -> list[str] | None:
    """A column of strings; one that holds nothing counts as absent, a missing label as the empty text."""
    return [value or "" for value in values] if values is not None and any(values) else None


def _check(path: Path, table, contract: Contract) -> None:
    import pyarrow as pa

    kind = table.schema.field("activation_vector").type
    if not (pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind) or pa.types.is_large_list(kind)):
        raise InputError(f"{path}: activation_vector is a column of {kind}; expected lists of float32.")
    column = table["activation_vector"]
    widths = (
        set(column.combine_chunks().value_lengths().to_pylist())
        if not pa.types.is_fixed_size_list(kind)
        else {kind.list_size}
    )
    if widths != {contract.d_model}:
        found = ", ".join(sorted(map(str, widths)))
        raise InputError(
            f"{path} holds vectors of {found} numbers; this pair reads {contract.d_model}. Were they taken from "
            "another model?"
        )
    about = read_sidecar(path)
    layers = set(table["activation_layer"].to_pylist()) if "activation_layer" in table.column_names else set()
    layers |= {about["layer"]} if "layer" in about else set()
    if other := sorted(layers - {contract.layer, None}):
        raise InputError(
            f"{path} holds activations of block {', '.join(map(str, other))}; this pair reads block {contract.layer}. "
            "Extract that one."
        )
    base = about.get("base_model")
    if base and contract.base_model and str(base).lower() != contract.base_model.lower():
        warnings.warn(
            f"{path} was extracted from {base}; the pair's contract names {contract.base_model}. If these are not the "
            "same weights, the figures say nothing about the pair.",
            stacklevel=2,
        )
