"""Whether each claim holds, and how often it would by chance: from its receipts and the texts, without a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
import pyarrow as pa

from nla_sdk.claims.forms.claim import WORDS, Claim
from nla_sdk.claims.truth import supported
from nla_sdk.claims.words import content_words, said_by, specifics
from nla_sdk.evaluation.parts import Settings
from nla_sdk.metrics import unit

from ..measures.tables import Tables, next_of_another

MOST_TEXTS = 512  # that every claim is held against by chance
SPECIFICS = ("number", "name")
NEARLY = 1.0 - 1e-6  # the largest cosine of what is not in a text: 1 says that it is


def claims_in(table: pa.Table) -> list[Claim]:
    """The claims that a table holds."""
    columns = (table[name].to_pylist() for name in ("claim", "claim_kind", "claim_start", "claim_end"))
    return [Claim(*one) for one in zip(*columns, strict=True)]


def stated(claim: Claim) -> dict[str, list[str]]:
    """The numbers and the names in a claim; none in next tokens, which are no statements about the text."""
    if claim.kind == "next token":
        return {what: [] for what in SPECIFICS}
    # A word of a list begins no sentence: its capital is its own.
    return specifics(f"about {claim.text}" if claim.kind in WORDS else claim.text)


def judged(
    table: pa.Table,
    tables: Tables,
    texts: Sequence[str] | None,
    settings: Settings,
    embed: Callable[[list[str]], np.ndarray] | None = None,
) -> pa.Table:
    """The table with `supported`, `chance` and what of its specifics is invented; with an embedder how near words are.

    `chance` is the share of other documents' texts that support the claim (of many rows: of 512 drawn ones); of next
    tokens whether the source gives it 0.01 at the position of one row of another document.

    Args:
        texts: of every row of `tables`; None: not at hand, and nothing but next tokens' columns stays null.
        embed: words → [n, k]; adds `near` and `near_by_chance` (see `_near`).
    """
    claims = claims_in(table)
    numbers: dict[str, list[int]] = {f"{what}s": [] for what in SPECIFICS}
    for claim in claims:
        for what, words in stated(claim).items():
            numbers[f"{what}s"].append(len(words))
    columns: dict[str, pa.Array] = {name: pa.array(values, pa.int32()) for name, values in numbers.items()}
    if texts is None:
        columns["supported"] = pa.nulls(len(table), pa.bool_())
        chance = pa.nulls(len(table), pa.float64())
    else:
        place = {name: at for at, name in enumerate(tables.rows["row_id"].to_pylist())}
        rows = [place[name] for name in table["row_id"].to_pylist()]
        agrees = table["model_agrees"].to_pylist() if "model_agrees" in table.column_names else [None] * len(table)
        holds = [supported(*one) for one in zip(claims, (texts[row] for row in rows), agrees, strict=True)]
        columns["supported"] = pa.array(holds, pa.bool_())
        chance = pa.array(_chance(claims, rows, table["chance"].to_pylist(), tables, texts, settings), pa.float64())
        evaluated = np.flatnonzero(tables.evaluated).tolist()
        following = next_of_another(tables.document_names[evaluated].tolist())
        other = {row: evaluated[at] for row, at in zip(evaluated, following, strict=True) if at is not None}
        for name, of in (("invented", lambda row: row), ("invented_null", other.get)):
            for what in SPECIFICS:
                columns[f"{what}s_{name}"] = pa.array(_invented(claims, rows, what, texts, of), pa.int32())
        if embed is not None:
            for name, of in (("near", lambda row: row), ("near_by_chance", other.get)):
                columns[name] = pa.array(_near(claims, rows, texts, of, embed), pa.float64())
    table = table.set_column(table.column_names.index("chance"), "chance", chance)
    for name, values in columns.items():
        table = table.append_column(name, values)
    return table


def _near(
    claims: Sequence[Claim],
    rows: Sequence[int],
    texts: Sequence[str],
    of: Callable[[int], int | None],
    embed: Callable[[list[str]], np.ndarray],
) -> list[float | None]:
    """Of each word 1 where the text of row `of(row)` has it, else its largest cosine with a content word of it, < 1."""
    against = [of(row) if claim.kind in WORDS else None for claim, row in zip(claims, rows, strict=True)]
    words = {row: sorted(set(content_words(texts[row]))) for row in against if row is not None}
    asked = {claim.text for claim, row in zip(claims, against, strict=True) if row is not None}
    number = {word: at for at, word in enumerate(sorted(asked.union(*words.values())))}
    if not number:
        return [None] * len(claims)
    vectors = np.nan_to_num(unit(embed(list(number))))
    of_text = {row: vectors[[number[word] for word in each]] for row, each in words.items()}
    found: list[float | None] = []
    for claim, row in zip(claims, against, strict=True):
        if row is None:
            found.append(None)
        elif supported(claim, texts[row]):
            found.append(1.0)
        else:
            cosines = of_text[row] @ vectors[number[claim.text]]
            found.append(min(float(cosines.max(initial=-1.0)), NEARLY))
    return found


def _invented(
    claims: Sequence[Claim], rows: Sequence[int], what: str, texts: Sequence[str], of: Callable[[int], int | None]
) -> list[int | None]:
    """How many of each claim's numbers (or names) the text of row `of(row)` does not have."""
    found: list[int | None] = []
    for claim, row in zip(claims, rows, strict=True):
        at = of(row)
        words = stated(claim)[what]
        found.append(None if at is None else sum(said_by([word], texts[at]) < 1.0 for word in words))
    return found


def _chance(
    claims: Sequence[Claim],
    rows: Sequence[int],
    given: Sequence[float | None],
    tables: Tables,
    texts: Sequence[str],
    settings: Settings,
) -> list[float | None]:
    """The share of other documents' texts that support each claim; of next tokens what was measured."""
    against = np.flatnonzero(tables.evaluated)
    if len(against) > MOST_TEXTS:
        against = np.sort(np.random.default_rng(settings.seed).permutation(against)[:MOST_TEXTS])
    documents = tables.document_names[against]

    @cache
    def holds(kind: str, text: str) -> np.ndarray:
        claim = Claim(text, kind, 0, len(text))  # pyright: ignore[reportArgumentType]
        return np.array([bool(supported(claim, texts[row])) for row in against])

    found: list[float | None] = []
    for claim, row, measured in zip(claims, rows, given, strict=True):
        others = documents != tables.document_names[row]
        if claim.kind == "next token" or not others.any():
            found.append(measured if claim.kind == "next token" else None)
        else:
            found.append(float(holds(claim.kind, claim.text)[others].mean()))
    return found
