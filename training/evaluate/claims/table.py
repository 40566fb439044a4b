"""A table of claims as arrays, for figures and probabilities."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from nla_sdk.claims.forms.claim import KINDS
from nla_sdk.claims.receipts import RECEIPTS
from nla_sdk.evaluation.parts import Settings

from ..measures.nulls import Documents
from ..measures.tables import numbers


class ClaimsTable:
    """The claims of all evaluated rows.

    Attributes:
        kinds, row_ids, document_names, families: of each claim (families: None where the data have none).
        supported: float64, 1 or 0, NaN where it is not known.
        chance: float64, share of other documents' texts that support it; NaN where it is not known.
        receipts, nulls: float64 by name, NaN where absent; only those that any claim has.
    """

    def __init__(self, table: pa.Table, settings: Settings) -> None:
        self.table, self.settings = table, settings
        self.kinds = np.array(table["claim_kind"].to_pylist(), dtype=object)
        self.row_ids = table["row_id"].to_pylist()
        self.document_names = np.array(table["doc_id"].to_pylist(), dtype=object)
        self.families = None
        if "source_family" in table.column_names:
            self.families = np.array(table["source_family"].to_pylist(), dtype=object)
        self.supported, self.chance = self.column("supported"), self.column("chance")
        there = [name for name in RECEIPTS if name in table.column_names]
        self.receipts = {name: numbers(table, name) for name in there}
        self.nulls = {name: numbers(table, f"{name}_null") for name in there}

    def __len__(self) -> int:
        return len(self.kinds)

    def column(self, name: str) -> np.ndarray:
        """A column as float64, null as NaN; also of what is true or false."""
        values = self.table[name].to_pylist()
        return np.array([np.nan if value is None else float(value) for value in values], dtype=np.float64)

    @property
    def known(self) -> np.ndarray:
        """bool: claims that are known to hold or not."""
        return ~np.isnan(self.supported)

    @property
    def kinds_there(self) -> Sequence[str]:
        """Kinds that there are claims of, in the order of `KINDS`."""
        return [kind for kind in KINDS if (self.kinds == kind).any()]

    def of(self, mask: np.ndarray) -> Documents:
        """The documents of the claims under `mask`."""
        return Documents(self.document_names[mask].tolist())
