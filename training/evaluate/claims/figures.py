"""What the words are worth, from the table of claims: precision beside chance, receipts, specifics, probabilities."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa

from nla_sdk.claims.calibration import Calibration
from nla_sdk.claims.receipts import OF_TEXT
from nla_sdk.evaluation.claims import Claims, KindOfClaim, Likeliest, Near, ReceiptFigures, Specifics
from nla_sdk.evaluation.parts import Figure, Share

from ..measures.tables import FEWEST_OF_A_FAMILY, NO_TEXTS, Tables
from .judging import SPECIFICS
from .separation import auroc
from .support import Support, calibration, fit
from .table import ClaimsTable

LIKELIEST = 10  # tokens of the source at a position
EXCEEDED = 0.05  # of words that another document's text does not have: those that may count as near it
FEWEST_OF_A_SORT = 10  # of a kind, for an AUROC of its own


@dataclass(frozen=True)
class Worth:
    """What a table of claims gives.

    Attributes:
        claims: the figures.
        calibration: what is saved with the pair; None: no kind has enough claims of both sorts.
        support: float64 [n], each claim's probability by what did not see its document; NaN: none.
    """

    claims: Claims
    calibration: Calibration | None
    support: np.ndarray


def worth(
    table: pa.Table, tables: Tables, made_from: Mapping[str, str], data: str, versions: Mapping[str, str]
) -> Worth:
    """All that follows from a table of claims.

    Args:
        table: as `judging.judged` gives it.
        made_from, data, versions: what `claims.json` says that it rests on.
    """
    claims = ClaimsTable(table, tables.settings)
    support, unit = fit(claims), "FVE" if tables.has_fve else "gain"
    baseline = tables.baselines.mean_norm if tables.has_fve else None
    kept = calibration(claims, support, baseline_mse=baseline, made_from=made_from, data=data, versions=versions)
    return Worth(claims_figures(claims, tables, support, unit), kept, support.crossed)


def claims_figures(claims: ClaimsTable, tables: Tables, support: Support, unit: Literal["FVE", "gain"]) -> Claims:
    """All that an evaluation says of claims.

    Args:
        support: what was fitted to the claims.
        unit: of ablation, replacement and alone.
    """
    known, rows = claims.known, int(tables.evaluated.sum())
    holds = claims.supported[known]
    why_no_precision = None if known.any() else NO_TEXTS if len(claims) else "no explanation claims anything"
    return Claims(
        n=len(claims),
        rows=rows,
        documents=len(tables.documents),
        known=int(known.sum()),
        unit=unit,
        per_explanation=len(claims) / max(rows, 1),
        supported_per_explanation=float(holds.sum()) / rows if len(claims) and known.all() else None,
        kinds=[_kind(claims, kind) for kind in claims.kinds_there],
        receipts=_receipts(claims),
        specifics=[_specifics(claims, what, rows) for what in SPECIFICS] if known.any() else [],
        reliability=support.reliability,
        near=_near(claims, "word"),
        near_related=_near(claims, "related word"),
        likeliest=_likeliest(claims),
        repeats=_repeats(claims, rows),
        why_no_precision=why_no_precision,
        why_no_support=why_no_precision or support.why_not,
    )


def _mean(claims: ClaimsTable, values: np.ndarray, mask: np.ndarray, p: float | None = None) -> Figure | None:
    """The mean of what is there under a mask; None: nothing is."""
    mask = mask & np.isfinite(values)
    if not mask.any():
        return None
    settings = claims.settings
    return claims.of(mask).mean(values[mask], draws=settings.bootstrap_draws, seed=settings.seed, p=p)


def _beside(claims: ClaimsTable, holds: np.ndarray, chance: np.ndarray) -> tuple[Figure | None, Figure | None]:
    """The share that holds, with p against chance, and chance; NaN: not known."""
    both, p = np.isfinite(holds) & np.isfinite(chance), None
    if both.any():
        p = claims.of(both).sign_flip((holds - chance)[both], claims.settings.permutations, claims.settings.seed)
    known = np.isfinite(holds)
    return _mean(claims, holds, known, p), _mean(claims, chance, known)


def _near(claims: ClaimsTable, kind: str) -> Near | None:
    """Words of a kind in the text or near it, by the smallest cosine that at most 5 % of strange words exceed."""
    if "near" not in claims.table.column_names:
        return None
    own, other = claims.column("near"), claims.column("near_by_chance")
    strange = other[other < 1.0]  # what the other text has is no matter of meaning, and counts as chance all the same
    if not len(strange):
        return None
    limit = float(np.quantile(strange, 1.0 - EXCEEDED, method="higher"))
    holds, chance = (
        np.where(np.isnan(one) | (claims.kinds != kind), np.nan, (one > limit) | (one == 1.0)) for one in (own, other)
    )
    precision, by_chance = _beside(claims, holds, chance)
    if precision is None:
        return None
    return Near(cosine=limit, exceeded=float((strange > limit).mean()), precision=precision, chance=by_chance)


def _likeliest(claims: ClaimsTable) -> Likeliest | None:
    """Next tokens among the source's 10 likeliest; one that is no token of its vocabulary is not among them."""
    if "place" not in claims.table.column_names or "model_agrees" not in claims.receipts:
        return None
    named = claims.kinds == "next token"
    known = named & np.isfinite(claims.receipts["model_agrees"]), named & np.isfinite(claims.chance)
    places = claims.column("place"), claims.column("place_by_chance")
    holds, chance = (np.where(there, at < LIKELIEST, np.nan) for there, at in zip(known, places, strict=True))
    first, seen = np.zeros(len(claims), dtype=bool), set()
    for at in np.flatnonzero(named):
        row = claims.row_ids[at]
        first[at] = row not in seen
        seen.add(row)
    every, of_first = (
        _beside(claims, np.where(mask, holds, np.nan), np.where(mask, chance, np.nan)) for mask in (named, first)
    )
    if every[0] is None or of_first[0] is None:
        return None
    return Likeliest(of=LIKELIEST, named=every[0], named_chance=every[1], first=of_first[0], first_chance=of_first[1])


def _repeats(claims: ClaimsTable, rows: int) -> Share:
    """Explanations that make a claim twice, of whatever kinds."""
    said: dict[str, list[str]] = {}
    for row, text in zip(claims.row_ids, claims.table["claim"].to_pylist(), strict=True):
        said.setdefault(row, []).append(" ".join(text.casefold().split()))
    return Share(count=sum(len(set(each)) < len(each) for each in said.values()), of=rows)


def _kind(claims: ClaimsTable, kind: str) -> KindOfClaim:
    mask = claims.kinds == kind
    both = mask & claims.known & np.isfinite(claims.chance)
    p = None
    if both.any():
        over = (claims.supported - claims.chance)[both]
        p = claims.of(both).sign_flip(over, claims.settings.permutations, claims.settings.seed)
    families: dict[str, tuple[Figure, Figure | None]] = {}
    if claims.families is not None:
        for family in sorted({str(name) for name in claims.families[mask]}):
            of = mask & (claims.families == family)
            if (of & claims.known).sum() < FEWEST_OF_A_FAMILY:
                continue
            if (precision := _mean(claims, claims.supported, of)) is not None:
                families[family] = precision, _mean(claims, claims.chance, of & claims.known)
    lost = claims.receipts.get("ablation", np.full(len(claims), np.nan))[mask]
    lost = lost[np.isfinite(lost)]
    return KindOfClaim(
        kind=kind,
        n=int(mask.sum()),
        precision=_mean(claims, claims.supported, mask, p),
        chance=_mean(claims, claims.chance, mask & claims.known),
        nothing=Share(count=int((lost <= 0).sum()), of=len(lost)) if len(lost) else None,
        by_family={family: precision for family, (precision, _) in families.items()},
        chance_by_family={family: chance for family, (_, chance) in families.items() if chance is not None},
    )


def _receipts(claims: ClaimsTable) -> list[ReceiptFigures]:
    found = []
    for name, values in claims.receipts.items():
        there = np.isfinite(values)
        value = _mean(claims, values, there)
        if value is None:
            continue
        decided = there & claims.known
        area, by_kind = None, {}
        if name not in OF_TEXT:
            area = _auroc(claims, values, decided)
            for kind in claims.kinds_there:
                of = decided & (claims.kinds == kind)
                sorts = [int((claims.supported[of] == sort).sum()) for sort in (0, 1)]
                if min(sorts) >= FEWEST_OF_A_SORT and (own := _auroc(claims, values, of)) is not None:
                    by_kind[kind] = own
        found.append(
            ReceiptFigures(
                name=name,
                n=int(decided.sum()),
                value=value,
                null=_mean(claims, claims.nulls[name], there),
                auroc=area,
                auroc_by_kind=by_kind,
            )
        )
    return found


def _auroc(claims: ClaimsTable, values: np.ndarray, mask: np.ndarray) -> Figure | None:
    if not mask.any():
        return None
    settings = claims.settings
    how = {"draws": settings.bootstrap_draws, "seed": settings.seed}
    return auroc(values[mask], claims.supported[mask], claims.of(mask), **how)


def _specifics(claims: ClaimsTable, what: Literal["number", "name"], rows: int) -> Specifics:
    """Of claims that stand in no other one: a quote's numbers are those of its sentence."""
    outer = _outer(claims)
    stated, invented = claims.column(f"{what}s")[outer], claims.column(f"{what}s_invented")[outer]
    by_chance = claims.column(f"{what}s_invented_null")[outer]
    held = np.isfinite(by_chance)
    return Specifics(
        what=what,
        stated=int(stated.sum()),
        invented=Share(count=int(invented.sum()), of=int(stated.sum())),
        chance=Share(count=int(by_chance[held].sum()), of=int(stated[held].sum())) if held.any() else None,
        invented_per_explanation=float(invented.sum()) / max(rows, 1),
    )


def _outer(claims: ClaimsTable) -> np.ndarray:
    """bool: claims that lie in no other claim of their row."""
    spans = claims.table.select(["row_id", "claim_start", "claim_end"]).to_pylist()
    found, row, end = [], None, -1
    for span in spans:  # in order of their beginnings, the longer one first
        if span["row_id"] != row:
            row, end = span["row_id"], -1
        found.append(span["claim_end"] > end)
        end = max(end, span["claim_end"])
    return np.array(found, dtype=bool)
