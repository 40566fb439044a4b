"""The held-out activations an evaluation is made on: read, checked against the pair, one row per activation."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nla_sdk.errors import InputError
from nla_sdk.evaluation.parts import Data
from nla_sdk.halves.hub.naming import other_names
from nla_sdk.io.files import sha256_of
from nla_sdk.io.origins import COLUMNS, Origin, check_origin, facts_of_rows, facts_of_sidecar
from nla_sdk.io.tables import read_vectors, texts_of, why_unreadable, widths_of
from nla_sdk.io.text import check_text

if TYPE_CHECKING:
    from nla_sdk.contract import Contract

NEEDED = ("doc_id", "activation_vector")
WANTED = (*NEEDED, "row_id", "source_family", "n_raw_tokens", *COLUMNS.values(), "api_explanation", "label_status")
# Label statuses of training.data.tables.columns, which imports torch; None: nobody said.
USABLE = (None, "accepted", "repaired")
TEXT = "detokenized_text_truncated"


@dataclass(frozen=True)
class Heldout:
    """Activations and what is known of each.

    Attributes:
        vectors: float32 [n, d], raw; rows without a direction (zero, NaN, null) are kept, and fail.
        row_ids, documents: of each row; row_ids are unique: `document:row_id` where two documents have the same ones.
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


def read(path: Path, contract: Contract | None, limit: int | None = None, *, force: bool = False) -> Heldout:
    """Read a held-out table and hold it against the pair's contract.

    A table with several labels per activation (one per labeler) gives one row per activation, with the first of its
    labels that was not rejected.

    Args:
        path: parquet with doc_id and activation_vector; row_id, source_family, api_explanation and
            detokenized_text_truncated are used where there are any.
        contract: None: not at hand, nothing to hold it against.
        limit: only the first so many activations.
        force: warn of activations of another layer or model, where they would be refused.
    Raises:
        TextError: a text or a label holds what is no text; names the row.
        InputError: no such file, no parquet, columns missing, vectors of another width than the pair reads, or two
            vectors under one row_id of one document.
        ForeignActivationError: the table says that it is of another layer, base model, commit or quantisation.
    Warns:
        PrecisionWarning: the table is of another full precision than the pair was trained on.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.is_file():
        found = "is a folder" if path.is_dir() else "does not exist"
        raise InputError(f"{path} {found}; expected a parquet table of held-out activations.")
    try:
        schema = pq.read_schema(path)
        columns = [name for name in (*WANTED, TEXT) if name in schema.names]
        if missing := [name for name in NEEDED if name not in columns]:
            raise InputError(
                f"{path} lacks the columns {', '.join(missing)}; it has {', '.join(schema.names)}. Make it with "
                "`python -m training.data.extract` or `nla extract`."
            )
        table = pq.read_table(path, columns=columns)
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{path} cannot be read as parquet: {why_unreadable(error)}") from error
    if not table.num_rows:
        raise InputError(f"{path} holds no rows; expected held-out activations.")
    _check(path, table, contract, force)
    for name in (TEXT, "api_explanation"):
        if name in columns:
            for row, text in enumerate(texts_of(table, name, name=str(path))):
                check_text(text or "", f"{path}, row {row}: {name}")
    if table["doc_id"].null_count:
        row = table["doc_id"].to_pylist().index(None)
        raise InputError(f"{path}, row {row}: doc_id is empty; expected the name of the row's document.")
    documents = [str(name) for name in table["doc_id"].to_pylist()]
    ids = [str(name) for name in table["row_id"].to_pylist()] if "row_id" in columns else _numbered(documents)
    # A null is a vector of NaN: a row that fails.
    vectors = read_vectors(table, name=str(path), nulls_as_nan=True)
    _refuse_nothing(path, table, vectors)
    usable = [True] * len(ids)
    if "label_status" in columns:
        usable = [status in USABLE for status in table["label_status"].to_pylist()]
    kept = list(_one_of_each(path, list(zip(documents, ids, strict=True)), vectors, usable))[:limit]
    table, vectors = table.take(kept), vectors[kept]
    documents, ids = [documents[at] for at in kept], [ids[at] for at in kept]
    if len(set(ids)) < len(ids):
        ids = [f"{document}:{name}" for document, name in zip(documents, ids, strict=True)]

    def column(name: str) -> list | None:
        return table[name].to_pylist() if name in columns else None

    labels = column("api_explanation")
    if labels is not None:
        labels = [label if usable[at] else None for at, label in zip(kept, labels, strict=True)]
    return Heldout(
        path=path,
        sha256=sha256_of(path),
        vectors=vectors,
        row_ids=ids,
        documents=documents,
        families=_strings(column("source_family")),
        labels=_strings(labels),
        texts=_strings(column(TEXT)),
        tokens=column("n_raw_tokens"),
    )


def _one_of_each(path: Path, names: list[tuple[str, str]], vectors: np.ndarray, usable: list[bool]) -> Iterable[int]:
    """Of each activation (document, row_id) its first row, or the first with a usable label."""
    first: dict[tuple[str, str], int] = {}
    for at, name in enumerate(names):
        known = first.setdefault(name, at)
        if vectors[known].tobytes() != vectors[at].tobytes():
            raise InputError(
                f"{path} holds two different vectors for row_id {name[1]!r} of document {name[0]!r}. Give each "
                "activation a row_id of its own; rows may share one only to carry other labels of the same activation."
            )
        if usable[at] and not usable[known]:
            first[name] = at
    return first.values()


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


def _refuse_nothing(path: Path, table, vectors: np.ndarray) -> None:
    """Refuse a table none of whose vectors has a direction; of others such rows fail, and are counted."""
    there = table["activation_vector"].is_valid().to_numpy()
    finite = np.isfinite(vectors).all(axis=1)
    if (finite & (vectors != 0).any(axis=1)).any():
        return
    kinds = {"empty (null)": ~there, "NaN or infinite": there & ~finite, "all zeros": finite}
    counts = ", ".join(f"{int(rows.sum())} {kind}" for kind, rows in kinds.items() if rows.any())
    raise InputError(
        f"{path}: no row of {len(vectors)} has a usable activation_vector ({counts}); there is nothing to evaluate. "
        "Extract them again, in bfloat16 or float32."
    )


def _check(path: Path, table, contract: Contract | None, force: bool) -> None:
    widths = widths_of(table, name=str(path))
    if len(widths) != 1:
        raise InputError(
            f"{path}: activation_vector holds vectors of {', '.join(map(str, sorted(widths))) or 'no'} numbers; "
            "expected one width."
        )
    if contract is None:
        return
    if widths != {contract.d_model}:
        found = ", ".join(map(str, widths))
        raise InputError(
            f"{path} holds vectors of {found} numbers; this pair reads {contract.d_model}. Were they taken from "
            "another model?"
        )
    precision, said = contract.extraction_precision, [*facts_of_sidecar(path), *facts_of_rows(table)]
    also = other_names(contract.base_model, (facts.get("model") for _, facts in said))
    pair = Origin(contract.layer, contract.base_model, contract.base_revision, precision, trained=precision, also=also)
    check_origin(said, pair, str(path), force=force)
