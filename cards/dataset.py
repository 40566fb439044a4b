"""The facts of published tables, read from parquet and sidecars: what a dataset card says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nla_sdk.contract import Contract
from nla_sdk.errors import InputError, first_line

COUNTED = ("source_family", "labeler_model", "auditor_model", "label_status")
SAID = {
    "row_id": "the activation, one id for all its labels",
    "doc_id": "the document; splits never share one",
    "n_raw_tokens": "tokens of the text up to the position read",
    "activation_layer": "decoder block read, counted from 0",
    "activation_vector": "the raw activation",
    "detokenized_text_truncated": "the text up to the position read",
    "api_explanation": "the explanation",
    "prompt": "the AV's prompt, with `<INJECT>` where the activation goes",
    "response": "the explanation between its tags",
    "source_family": "what kind of text it is",
    "labeler_model": "who wrote the explanation",
    "auditor_model": "who checked it",
    "label_status": "accepted, repaired, …",
    "prompt_sha256": "of the labeler's prompt",
    "tokens": "of the labeler's call",
    "cost_usd": "of the labeler's call",
}
LONGEST = 400  # characters of an example's text
MOST_VALUES = 12


@dataclass(frozen=True)
class TableFacts:
    """One table.

    Attributes:
        name: without its suffix; the viewer's config.
        path: in the repository.
        columns: name → type.
        counts: column → value → rows, for families, labelers and statuses.
        drops: rows left out, by reason, from the sidecar.
        example: one row, vectors left out, long texts cut.
    """

    name: str
    path: str
    rows: int
    documents: int | None
    columns: Mapping[str, str]
    counts: Mapping[str, Mapping[str, int]]
    sha256: str | None
    contract: Contract | None
    drops: Mapping[str, int] = field(default_factory=dict)
    inputs: Mapping[str, str] = field(default_factory=dict)
    example: Mapping[str, str] = field(default_factory=dict)

    @property
    def split(self) -> str:
        """The viewer's split: "test" for held-out rows, else "train"."""
        return "test" if "eval" in self.name or "heldout" in self.name else "train"


@dataclass(frozen=True)
class DatasetFacts:
    """All tables of a dataset.

    Attributes:
        licences: source (family) → its licence, as the author states it.
    """

    tables: Sequence[TableFacts]
    licences: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def read(
        cls, tables: Sequence[Path], licences: Mapping[str, str] | None = None, folder: str = "data"
    ) -> DatasetFacts:
        """Read tables and their sidecars.

        Args:
            tables: parquet files.
            licences: of the sources, by family.
            folder: where the tables are in the repository.
        Raises:
            InputError: a table is not readable.
            ContractError: a sidecar is malformed.
        """
        return cls([_facts(Path(table), folder) for table in tables], dict(licences or {}))

    def described(self) -> dict[str, str]:
        """Column → what it holds, of all tables' columns."""
        names = dict.fromkeys(name for table in self.tables for name in table.columns)
        return {name: SAID.get(name, "") for name in names}


def _facts(table: Path, folder: str) -> TableFacts:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(table)
        schema = file.schema_arrow
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{table} is not readable parquet: {first_line(error)}") from error
    counted = [name for name in COUNTED if name in schema.names]
    counts: dict[str, Counter] = {name: Counter() for name in counted}
    documents: set[str] | None = set() if "doc_id" in schema.names else None
    for batch in file.iter_batches(columns=[*counted, *(["doc_id"] if documents is not None else [])]):
        for name in counted:
            counts[name].update(str(value) for value in batch[name].to_pylist() if value is not None)
        if documents is not None:
            documents.update(map(str, batch["doc_id"].to_pylist()))
    sidecar = table.with_name(table.name + ".nla_meta.yaml")
    contract = Contract.load(table) if sidecar.is_file() else None
    extras: dict[Any, Any] = contract.extras if contract else {}
    texts = [field.name for field in schema if not pa.types.is_nested(field.type)]
    first = next(file.iter_batches(batch_size=1, columns=texts), None) if file.metadata.num_rows else None
    row = first.to_pylist()[0] if first is not None else {}
    return TableFacts(
        name=table.stem,
        path=f"{folder}/{table.name}",
        rows=file.metadata.num_rows,
        documents=None if documents is None else len(documents),
        columns={field.name: str(field.type) for field in schema},
        counts={name: dict(found.most_common(MOST_VALUES)) for name, found in counts.items() if found},
        sha256=extras.get("sha256"),
        contract=contract,
        drops=extras.get("drops") or {},
        inputs={str(name): str(value) for name, value in (extras.get("inputs") or {}).items()},
        example={name: _short(value) for name, value in row.items() if value is not None},
    )


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
