"""Vectors of other tools' files as rows to work on."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import pyarrow as pa

from ..errors import InputError
from ..io.rows.row_source import VECTORS, RowSource
from ..io.tables import holds_texts, vector_column
from ..vectors.kinds import KINDS, Kind, Vectors, as_kind

COLUMN, KIND = "activation_vector", "kind"


@dataclass(frozen=True)
class VectorRows(RowSource):
    """The rows of `Vectors`.

    Attributes:
        vectors: what they are of.
    """

    vectors: Vectors

    @classmethod
    def of(cls, vectors: Vectors, name: str) -> VectorRows:
        """Their label, kind, layer and model as columns, then the vectors; what is not known is left out.

        Args:
            name: REF as typed, for messages.
        """
        count = len(vectors)
        columns: dict[str, pa.Array] = {"label": pa.array(vectors.labels or [f"#{row}" for row in range(count)])}
        columns[KIND] = pa.array([vectors.kind] * count)
        columns["activation_layer"] = pa.array(vectors.layers, pa.int32())
        if vectors.model is not None:
            columns["activation_model"] = pa.array([vectors.model] * count)
        table = pa.table({**columns, COLUMN: vector_column(vectors.vectors.numpy())})
        return cls(name, None, COLUMN, VECTORS, lambda start: iter([table.slice(start)]), vectors)

    def identity(self) -> dict[str, int | str]:
        """Where they come from, size and SHA-256."""
        held = self.vectors.vectors.contiguous().numpy().tobytes()
        return {"origin": self.vectors.origin, "bytes": len(held), "sha256": hashlib.sha256(held).hexdigest()}


def kinds_in(table: pa.Table) -> set[str | None]:
    """What a table's column `kind` says of its rows; nothing where it has none, or one that means something else."""
    if KIND not in table.column_names or not holds_texts(table.schema.field(KIND)):
        return set()
    said = set(table[KIND].to_pylist())
    return said if said & set(KINDS) else set()


def kind_of(table: pa.Table) -> Kind | None:
    """The kind that a table says of all its rows; None: it says none.

    Raises:
        InputError: they are of several kinds, or some do not say it.
    """
    said = kinds_in(table)
    if len(said) > 1:
        kinds = ", ".join(sorted(str(one) for one in said))
        raise InputError(f"Its rows are of several kinds (column {KIND}: {kinds}). Say one of all of them with --kind.")
    return as_kind(said.pop()) if said else None
