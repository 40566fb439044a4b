"""Whether a table of claims and a claims.json are what an evaluation's rows and figures say. Needs no torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa

from nla_sdk.claims.cutting import claims_of
from nla_sdk.claims.forms.claim import WORDS
from nla_sdk.claims.truth import AGREES, HALF, in_text, in_text_exact
from nla_sdk.evaluation.schema import CLAIMS_TABLE as WHERE
from nla_sdk.evaluation.schema import Evaluation

from ..measures.tables import Tables, drawn
from .figures import Worth, worth
from .judging import SPECIFICS, claims_in, judged, stated
from .table import ClaimsTable

TOLERANCE = 1e-6
SHARES = ("in_text", "in_text_exact", "model_agrees", "chance", "support")
COSINES, PLACES = ("near", "near_by_chance"), ("place", "place_by_chance")


def worth_of(evaluation: Evaluation, tables: Tables, table: pa.Table) -> Worth:
    """What a table of claims gives, for an evaluation that says what it was made from."""
    return worth(table, tables, evaluation.inputs, evaluation.data.name, evaluation.versions)


def faults(tables: Tables, table: pa.Table, found: Worth, texts: Sequence[str] | None) -> Iterator[str]:
    """What in a table of claims does not follow from the rows, from itself or (where they are at hand) from texts.

    Args:
        found: what the table gives.
        texts: of every row of `tables`.
    """
    yield from _cut(tables, table)
    yield from _subsample(tables, table)
    claims = ClaimsTable(table, tables.settings)
    for name in (name for name in SHARES if name in table.column_names):
        values = claims.column(name)
        if not ((values >= 0) & (values <= 1))[~np.isnan(values)].all():
            yield f"{WHERE}: {name} is no share"
    for name in (name for name in (*COSINES, *PLACES) if name in table.column_names):
        values = claims.column(name)
        low, high = (-1.0 - TOLERANCE, 1.0) if name in COSINES else (0.0, np.inf)
        of = np.isin(claims.kinds, WORDS if name in COSINES else ("next token",))
        if not (np.isnan(values) | (of & (values >= low) & (values <= high))).all():
            yield f"{WHERE}: {name} is {'no cosine of a word' if name in COSINES else 'no place of a next token'}"
    if "near" in table.column_names and not _same(
        np.where(np.isin(claims.kinds, WORDS), claims.supported, np.nan),
        np.where(np.isnan(claims.column("near")), np.nan, claims.column("near") == 1.0),
    ):
        yield f"{WHERE}: near is not 1 where the text has a word, and less where it has not"
    yield from _truth(claims)
    if not _same(claims.column("support"), found.support):
        yield f"{WHERE}: support is not what the receipts give on documents that were not fitted on"
    if texts is not None:
        yield from _against_texts(tables, table, texts)


def _same(stated: np.ndarray, follows: np.ndarray) -> bool:
    return np.allclose(stated, follows, rtol=0, atol=TOLERANCE, equal_nan=True)


def _cut(tables: Tables, table: pa.Table) -> Iterator[str]:
    """The claims are those of the rows' explanations, all of them, in their order."""
    rows = tables.rows
    names, said = rows["row_id"].to_pylist(), rows["explanation"].to_pylist()
    families = rows["source_family"].to_pylist() if "source_family" in rows.column_names else None
    expected = []
    for at in np.flatnonzero(tables.evaluated).tolist():
        about = (names[at], str(tables.document_names[at])) + (() if families is None else (families[at],))
        for number, one in enumerate(claims_of(said[at])):
            expected.append((*about, number, one.text, one.kind, one.start, one.end))
    columns = ["row_id", "doc_id", *(["source_family"] if families is not None else [])]
    columns += ["number", "claim", "claim_kind", "claim_start", "claim_end"]
    found = list(zip(*(table[name].to_pylist() for name in columns), strict=True))
    if found != expected:
        yield f"{WHERE} does not hold the claims of the rows' explanations"
        return
    for what in SPECIFICS:
        if table[f"{what}s"].to_pylist() != [len(stated(claim)[what]) for claim in claims_in(table)]:
            yield f"{WHERE}: {what}s are not those of its claims"


def _subsample(tables: Tables, table: pa.Table) -> Iterator[str]:
    """Claims were taken out of the drawn rows, of all of them and of no others: nobody chose them."""
    names = tables.rows["row_id"].to_pylist()
    evaluated = [names[at] for at in np.flatnonzero(tables.evaluated)]
    wanted = set(drawn(evaluated, tables.settings.seed)[: tables.settings.claims_n or 0])
    of = table["row_id"].to_pylist()
    there = table["ablation"].is_valid().to_pylist() if "ablation" in table.column_names else [False] * len(of)
    if any(asked and row not in wanted for row, asked in zip(of, there, strict=True)):
        yield f"{WHERE}: ablation is of rows that were not drawn"
    # Where there is no FVE it is a gain, which a claim may lack: no words make no error there.
    if tables.has_fve and any(row in wanted and not asked for row, asked in zip(of, there, strict=True)):
        yield f"{WHERE}: ablation is not of every claim of the drawn rows"


def _truth(claims: ClaimsTable) -> Iterator[str]:
    """Whether a claim holds follows from its receipts (`nla_sdk.claims.truth.supported`)."""
    names = claims.table.column_names
    said = claims.supported
    agrees, there = (claims.receipts.get(name, np.full(len(claims), np.nan)) for name in ("model_agrees", "in_text"))
    next_token = claims.kinds == "next token"
    expected = np.where(np.isnan(there), np.nan, (there >= HALF).astype(np.float64))
    whole = np.isin(claims.kinds, (*WORDS, "register"))
    for what in SPECIFICS:
        if f"{what}s_invented" in names:
            expected = np.where(~whole & (claims.column(f"{what}s_invented") > 0), 0.0, expected)
    expected = np.where(next_token, np.where(np.isnan(agrees), np.nan, (agrees >= AGREES).astype(np.float64)), expected)
    if not np.array_equal(said, expected, equal_nan=True):
        yield f"{WHERE}: supported does not follow from its receipts"


def _against_texts(tables: Tables, table: pa.Table, texts: Sequence[str]) -> Iterator[str]:
    place = {name: at for at, name in enumerate(tables.rows["row_id"].to_pylist())}
    rows, claims = [place[name] for name in table["row_id"].to_pylist()], claims_in(table)
    for name, measure in (("in_text", in_text), ("in_text_exact", in_text_exact)):
        follows = np.array([measure(claim, texts[row]) for claim, row in zip(claims, rows, strict=True)])
        values = ClaimsTable(table, tables.settings).receipts.get(name)
        if len(claims) and (values is None or not _same(values, follows)):
            yield f"{WHERE}: {name} does not follow from the texts"
    dropped = [name for name in table.column_names if name == "supported" or name.split("_")[0] in ("numbers", "names")]
    again = judged(table.drop_columns(dropped), tables, texts, tables.settings)
    for name in ("chance", *dropped):
        if not _same(*(ClaimsTable(one, tables.settings).column(name) for one in (table, again))):
            yield f"{WHERE}: {name} does not follow from the texts"
