"""The facts of published tables, read from parquet and sidecars: what a dataset card says."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nla_sdk.contract import Contract
from nla_sdk.errors import InputError, first_line
from nla_sdk.io.sidecars import sidecar_of

from ..errors import CardError

if TYPE_CHECKING:
    import pyarrow.parquet as pq

COUNTED = ("source_family", "labeler_model", "auditor_model", "label_status")
HOLDS = {
    "row_id": "the activation, one id for all its labels",
    "doc_id": "the document",
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
TEXT, EXPLANATIONS = "detokenized_text_truncated", ("api_explanation", "response")
LONGEST = 400  # characters of an example's text
MOST_VALUES = 12
HELD_OUT, TRAINED_ON = {"eval", "heldout", "test", "validation"}, {"sft", "train", "training"}


@dataclass(frozen=True)
class TableFacts:
    """One table.

    Attributes:
        name: without its suffix; the viewer's config.
        path: in the repository.
        columns: name → type.
        counts: column → value → rows, for families, labelers and statuses, the commonest first.
        drops: rows left out, by reason, from the sidecar.
        example: one row, vectors left out, long texts cut.
        documents, texts: digests of its documents and its texts; None where it has no such column.
        repeated: rows whose text and explanation an earlier row has; None where it has not both columns.
    """

    name: str
    path: str
    rows: int
    columns: Mapping[str, str]
    counts: Mapping[str, Mapping[str, int]]
    sha256: str | None
    contract: Contract | None
    documents: frozenset[bytes] | None = None
    texts: frozenset[bytes] | None = None
    repeated: int | None = None
    drops: Mapping[str, int] = field(default_factory=dict)
    inputs: Mapping[str, str] = field(default_factory=dict)
    example: Mapping[str, str] = field(default_factory=dict)

    @property
    def _words(self) -> set[str]:
        return set(re.findall(r"[a-z0-9]+", self.name.lower()))

    @property
    def split(self) -> str:
        """The viewer's split: "test" for held-out rows, else "train"."""
        return "test" if self._words & HELD_OUT else "train"

    def trains(self, role: str) -> bool:
        """Whether its name says that it is what an AV or an AR is trained on."""
        whose = self._words & {"av", "ar"}
        return self.split == "train" and bool(self._words & TRAINED_ON) and (not whose or role in whose)

    def shown(self, column: str) -> tuple[list[tuple[str, int]], int, int]:
        """The commonest values of a counted column, how many more there are, and the rows of those."""
        values = list(self.counts[column].items())
        rest = values[MOST_VALUES:]
        return values[:MOST_VALUES], len(rest), sum(rows for _, rows in rest)


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
            CardError: the tables are of different bases, layers or widths, which one card cannot describe.
        """
        return cls([_facts(Path(table), folder) for table in tables], dict(licences or {}))

    def __post_init__(self) -> None:
        for name in ("base_model", "layer", "d_model"):
            stated = {table.name: getattr(table.contract, name) for table in self.tables if table.contract is not None}
            stated = {table: value for table, value in stated.items() if value is not None}
            if len(set(stated.values())) > 1:
                values = ", ".join(f"{table} {value}" for table, value in stated.items())
                raise CardError(
                    f"The tables differ in `{name}`: {values}. "
                    "One dataset card describes activations of one place; publish the others apart."
                )

    def common(self, name: str) -> Any:
        """An attribute of the sidecars that all tables state alike; None where one of them does not."""
        stated = {getattr(table.contract, name) if table.contract is not None else None for table in self.tables}
        return stated.pop() if len(stated) == 1 else None

    def sources(self) -> list[str]:
        """Families of the tables, and those whose licence is stated."""
        counted = (table.counts.get("source_family", {}) for table in self.tables)
        return list(dict.fromkeys([*(name for counts in counted for name in counts), *self.licences]))

    def shared(self, what: str) -> Iterator[tuple[TableFacts, TableFacts, int]]:
        """Pairs of tables that have some of `what` ("documents" or "texts") in common, and how many."""
        for table, other in combinations(self.tables, 2):
            mine, theirs = getattr(table, what), getattr(other, what)
            if mine is not None and theirs is not None and (both := len(mine & theirs)):
                yield table, other, both

    def trains(self, role: str) -> bool:
        """Whether a table is there that an AV or an AR is trained on."""
        return any(table.trains(role) for table in self.tables)

    def without(self, what: str) -> list[TableFacts]:
        """Tables in which "documents", "texts" or "repeated" could not be looked at."""
        return [table for table in self.tables if getattr(table, what) is None]

    def described(self) -> dict[str, str]:
        """Column → what it holds, of all tables' columns."""
        names = dict.fromkeys(name for table in self.tables for name in table.columns)
        return {name: HOLDS.get(name, "") for name in names}


def _facts(table: Path, folder: str) -> TableFacts:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(table)
        schema = file.schema_arrow
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{table} is not readable parquet: {first_line(error)}") from error
    contract = Contract.load(table) if sidecar_of(table).is_file() else None
    extras: dict[Any, Any] = contract.extras if contract else {}
    flat = [column.name for column in schema if not pa.types.is_nested(column.type)]
    first = next(file.iter_batches(batch_size=1, columns=flat), None) if file.metadata.num_rows else None
    row = first.to_pylist()[0] if first is not None else {}
    return TableFacts(
        name=table.stem,
        path=f"{folder}/{table.name}",
        rows=file.metadata.num_rows,
        columns={column.name: str(column.type) for column in schema},
        sha256=extras.get("sha256"),
        contract=contract,
        drops=extras.get("drops") or {},
        inputs={str(name): str(value) for name, value in (extras.get("inputs") or {}).items()},
        example={name: _short(value) for name, value in row.items() if value is not None},
        **_counted(file),
    )


def _counted(file: pq.ParquetFile) -> dict[str, Any]:
    """What takes a pass over all rows, by the names of `TableFacts`: batch by batch, because tables outgrow memory."""
    names = file.schema_arrow.names
    counted = [name for name in COUNTED if name in names]
    explanation = next((name for name in EXPLANATIONS if name in names), None)
    has_pairs = TEXT in names and explanation is not None
    counts: dict[str, Counter] = {name: Counter() for name in counted}
    documents: set[bytes] = set()
    texts: set[bytes] = set()
    pairs: set[bytes] = set()
    repeated = 0
    columns = [*counted, *({"doc_id", TEXT, explanation} & set(names))]
    for batch in file.iter_batches(columns=columns):
        values = {name: batch[name].to_pylist() for name in columns}
        for name in counted:
            counts[name].update(str(value) for value in values[name] if value is not None)
        documents.update(map(_digest, values.get("doc_id", [])))
        texts.update(map(_digest, values.get(TEXT, [])))
        if has_pairs:
            for pair in zip(values[TEXT], values[explanation], strict=True):
                repeated += (digest := _digest(pair)) in pairs
                pairs.add(digest)
    return {
        "counts": {name: dict(count.most_common()) for name, count in counts.items() if count},
        "documents": frozenset(documents) if "doc_id" in names else None,
        "texts": frozenset(texts) if TEXT in names else None,
        "repeated": repeated if has_pairs else None,
    }


def _digest(value: object) -> bytes:
    """Sixteen bytes in place of a document's name or a text: millions of them fit into memory."""
    return hashlib.blake2b(repr(value).encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
