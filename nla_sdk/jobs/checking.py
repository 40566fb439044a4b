"""Explanations that a job has just written, their claims checked: a column of claims, and their mean support."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import torch

from ..claims.receipts import Check
from ..claims.telling import told
from ..errors import InputError
from ..io.rows.row_source import TEXTS, Rows
from ..io.tables import usable_vectors
from ..model.extraction import resolve_positions, tokenize
from ..pair import NLAPair
from ..results import WORSE, Explanation
from .vectors import KIND
from .work import Work, add_columns, columns_of, layers_of

CLAIMS, SUPPORT, WHY = "claims", "support", "why_no_support"
"""The columns: JSON (`nla_sdk.claims.telling.told`'s claims), a mean over those claims, and why there is none."""


def checked(
    pair: NLAPair,
    source: Rows,
    work: Work,
    positions: int | str | Sequence[int] = -1,
    layer: int | None = None,
    seed: int = 0,
) -> Work:
    """The same work, its explanations checked.

    Args:
        work: what `explain` or `round_trip` of `nla_sdk.jobs.work` made of the same source, positions and layer.
        seed: of what stands in a claim's place.
    Raises:
        InputError: (the work) its rows are directions, which texts say nothing of.
    """

    def on_table(table: pa.Table, first: int) -> pa.Table:
        rows = work(table, first)
        kinds = set(rows[KIND].to_pylist()) if KIND in rows.column_names else set()
        if directed := kinds & {"direction", "difference"}:
            raise InputError(
                f"{source.name}: its rows are of kind {min(directed)}; --check holds claims against activations. "
                "Leave it out."
            )
        read = source.holds == TEXTS
        column = "activation_vector" if read else source.column
        vectors = torch.tensor(usable_vectors(rows, column, name=source.name, first=first if not read else 0))
        known: dict[str, Any] = places(pair, table[source.column].to_pylist(), positions) if read else {}
        of = layers_of(pair, source, rows) if layer is None else layer
        checks = check_by_layer(pair, written(rows), vectors, of, known, seed)
        return add_columns(columns_of(rows), checks)

    return on_table


def written(rows: pa.Table) -> list[Explanation]:
    """A table's explanations with their own status: what is no explanation claims nothing."""
    texts, statuses = rows["api_explanation"].to_pylist(), rows["explanation_status"].to_pylist()
    own = ["ok" if status == WORSE else status.removesuffix(f"; {WORSE}") for status in statuses]
    return [Explanation(text, status=status) for text, status in zip(texts, own, strict=True)]


def places(pair: NLAPair, texts: Sequence[str], positions: int | str | Sequence[int]) -> dict[str, Any]:
    """Of each row its text and its position there, in the order in which `extract` reads them."""
    tokenizer = pair.source.tokenizer
    each = [resolve_positions(positions, len(tokenize(tokenizer, text))) for text in texts]
    return {
        "text": [text for text, found in zip(texts, each, strict=True) for _ in found],
        "position": [position for found in each for position in found],
    }


def check_by_layer(
    pair: NLAPair,
    explanations: Sequence[Explanation],
    vectors: torch.Tensor,
    layers: int | Sequence[int] | None,
    known: dict[str, Any],
    seed: int,
) -> dict[str, pa.Array]:
    """The new columns; rows of several layers are checked layer by layer, those that claim nothing not at all."""
    each = [layers] * len(explanations) if layers is None or isinstance(layers, int) else list(layers)
    found = {row: told(Check(text, ())) for row, text in enumerate(explanations) if not text.claims}
    for one in dict.fromkeys(each):
        at = [row for row, of in enumerate(each) if of == one and row not in found]
        if not at:
            continue
        said = {name: [values[row] for row in at] for name, values in known.items()}
        # force: `work` has looked at these activations, and said what is suspect in them
        how = {"layer": one, "seed": seed, "force": True, **said}
        checks = pair.check([explanations[row] for row in at], vectors[at], **how)
        found |= {row: told(check) for row, check in zip(at, checks, strict=True)}
    rows = [found[row] for row in range(len(explanations))]
    return {
        SUPPORT: pa.array([row["support"] for row in rows], pa.float64()),
        WHY: pa.array([row["why_no_support"] for row in rows], pa.string()),
        CLAIMS: pa.array([json.dumps(row["claims"], ensure_ascii=False) for row in rows], pa.string()),
    }
