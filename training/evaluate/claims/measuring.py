"""The model's part of claims: receipts for those of every evaluated row, made once, in chunks.

Receipts that cost little are of all rows; those that the AR has to read for (a claim taken out, replaced, by itself)
are of a subsample. Whether a claim holds is decided in `judging`, from these and from the texts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import torch

from nla_sdk import NLAPair
from nla_sdk.checking.gathering import Gathered, gather
from nla_sdk.checking.parts import Context, Parts
from nla_sdk.claims.cutting import claims_of
from nla_sdk.claims.receipts import RECEIPTS, CheckedClaim, ReceiptName
from nla_sdk.claims.truth import supported
from nla_sdk.evaluation.parts import Settings

from ..measures.tables import Tables, drawn, next_of_another
from ..measuring.clock import Clock

FREE: tuple[ReceiptName, ...] = ("lens", "repeats", "alone")
# The lens tells next tokens apart far better (AUROC 0.83 on the bundled pair); of registers it tells nothing (0.49).
SPARED: dict[ReceiptName, list[str]] = {"alone": ["next token", "register"]}
IN_TEXT: tuple[ReceiptName, ...] = ("in_text", "in_text_exact")
READ: tuple[ReceiptName, ...] = ("ablation", "replacement")
READ_PER_CHUNK, PER_CHUNK = 32, 128
CLAIM = pa.schema(
    [
        ("row_id", pa.string()),
        ("doc_id", pa.string()),
        ("number", pa.int32()),  # of the claim in its explanation, from 0
        ("claim", pa.string()),
        ("claim_kind", pa.string()),
        ("claim_start", pa.int32()),
        ("claim_end", pa.int32()),
        ("chance", pa.float64()),  # of next tokens; of the others see `judging`
        ("place", pa.int32()),  # of next tokens: how many tokens the source finds likelier there, and at the partner's
        ("place_by_chance", pa.int32()),
        *(
            (name, pa.float64())
            for receipt in (*FREE, *IN_TEXT, "model_agrees", *READ)
            for name in (receipt, f"{receipt}_null")
        ),
    ]
)


class Claims:
    """Claims of every evaluated row, with their receipts: a stage.

    A chunk has the outputs "claims" and "timing".

    Args:
        tables: the finished rows.
        texts: of every row of the table; None: not at hand.
        code: version of the code that runs.
    """

    def __init__(self, tables: Tables, settings: Settings, texts: Sequence[str] | None, code: str = "") -> None:
        self.tables, self.texts, self.code = tables, texts, code
        self.row_ids, self.said = (tables.rows[name].to_pylist() for name in ("row_id", "explanation"))
        # Rows of one document are apart in this order.
        order = np.array(drawn(np.flatnonzero(tables.evaluated).tolist(), settings.seed), dtype=np.int64)
        read = min(settings.claims_n or 0, len(order))
        self.parts = [(rows, True) for rows in _split(order[:read], READ_PER_CHUNK)]
        self.parts += [(rows, False) for rows in _split(order[read:], PER_CHUNK)]
        self.sizes = [len(rows) for rows, _ in self.parts]
        self.pair: NLAPair | None = None
        self._models: Parts | None = None

    def __call__(self, number: int) -> dict[str, pa.Table]:
        clock = Clock(self.code)
        table = self._chunk(*self.parts[number], clock)
        return {"claims": table, "timing": clock.table()}

    def _chunk(self, rows: np.ndarray, read: bool, clock: Clock) -> pa.Table:
        if self._models is None:
            baseline = self.tables.baselines.mean_norm if self.tables.has_fve else None
            self._models = clock.timed("claims", models_of, self.pair, baseline)
        partners = next_of_another(self.tables.document_names[rows].tolist())
        made = [clock.timed("claims", self._gather, rows, partners, FREE if self.texts is None else (*FREE, *IN_TEXT))]
        by_chance, places = None, None
        if self.texts is not None:
            agree = clock.timed("claims", self._agree, rows, partners)
            made.append(agree[: len(rows)])
            by_chance = agree[len(rows) :]
            places = agree.places[: len(rows)], agree.places[len(rows) :]
        if read:
            made.append(clock.timed("claims, read", self._gather, rows, partners, READ))
        found = []
        for at, row in enumerate(rows):
            for number, claim in enumerate(claims_of(self.said[row])):
                receipts = {name: one for part in made for name, one in part[at][number].items()}
                agrees = by_chance[at][number].get("model_agrees") if by_chance is not None else None
                holds = supported(claim, "", None if agrees is None else agrees.value)
                columns = CheckedClaim(claim, receipts).to_row()
                found.append(
                    {name: columns.get(name) for name in CLAIM.names}
                    | {
                        "row_id": self.row_ids[row],
                        "doc_id": str(self.tables.document_names[row]),
                        "number": number,
                        "chance": None if agrees is None or holds is None else float(holds),
                        "place": None if places is None else places[0][at][number],
                        "place_by_chance": None if places is None else places[1][at][number],
                    }
                )
        return pa.Table.from_pylist(found, schema=CLAIM)

    def _gather(self, rows: np.ndarray, partners: list[int | None], which: Sequence[ReceiptName]) -> Gathered:
        mask = np.zeros(len(self.tables.evaluated), dtype=bool)
        mask[rows] = True
        place = np.argsort(np.argsort(rows))  # `vectors` gives rows in the table's order
        return gather(
            self._models,
            [self.said[row] for row in rows],
            self._vectors(rows),
            which=which,
            reconstructions=torch.from_numpy(self.tables.vectors("reconstruction", mask)[place]),
            texts=None if self.texts is None else [Context(self.texts[row]) for row in rows],
            partners=partners,
            spared=SPARED,
        )

    def _agree(self, rows: np.ndarray, partners: list[int | None]) -> Gathered:
        """What the source says of each row's next tokens at its position; then the same at its partner's."""
        own = [Context(self.texts[row]) for row in rows]
        others = [None if at is None else own[at] for at in partners]
        return gather(
            self._models,
            [self.said[row] for row in rows] * 2,
            torch.cat([self._vectors(rows)] * 2),
            which=["model_agrees"],
            texts=[*own, *others],
            partners=[*partners, *([None] * len(rows))],
        )

    def _vectors(self, rows: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(self.tables.activations[rows].astype(np.float32))


def models_of(pair: NLAPair, baseline: float | None) -> Parts:
    """What receipts are made with: the pair's models, the source loaded, and FVE's denominator of these rows."""
    pair.source  # noqa: B018 (loads it where it is not in memory)
    return dataclasses.replace(Parts.of(pair), baseline_mse=baseline)


def _split(rows: np.ndarray, most: int) -> list[np.ndarray]:
    """Parts of nearly the same size, at most `most` each: none is of one row, which had no partner."""
    return np.array_split(rows, -(-len(rows) // most)) if len(rows) else []


def table_of(chunks: Sequence[pa.Table], rows: pa.Table) -> pa.Table:
    """All chunks in the order of the rows, with the rows' source families, without receipts that no claim has."""
    table = pa.concat_tables(chunks) if chunks else CLAIM.empty_table()
    place = {name: at for at, name in enumerate(rows["row_id"].to_pylist())}
    keys = [(place[one["row_id"]], one["number"]) for one in table.select(["row_id", "number"]).to_pylist()]
    table = table.take(pa.array(sorted(range(len(keys)), key=keys.__getitem__), pa.int64()))
    for name in RECEIPTS:
        if name in table.column_names and table[name].null_count == len(table):
            table = table.drop_columns([name, f"{name}_null"])
    if "source_family" in rows.column_names:
        family = dict(zip(rows["row_id"].to_pylist(), rows["source_family"].to_pylist(), strict=True))
        names = [family[name] for name in table["row_id"].to_pylist()]
        table = table.add_column(2, "source_family", pa.array(names, pa.string()))
    return table
