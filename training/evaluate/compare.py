"""Two evaluations side by side, with paired tests on the rows they share. `… compare A.json B.json`"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nla_sdk.evaluation.parts import Balanced, Figure
from nla_sdk.evaluation.reading import EvaluationError, load
from nla_sdk.evaluation.schema import ROWS, Evaluation
from nla_sdk.io.files import sha256_of
from nla_sdk.io.tables import read_table

if TYPE_CHECKING:
    from .measures.tables import Tables


MEASURES = (
    ("round trip FVE", lambda e: e.round_trip.fve),
    ("  raw-variance baseline", lambda e: e.round_trip.fve_raw_variance),
    ("  empties scored as empty", lambda e: e.round_trip.fve_all_attempted),
    ("gain over empty", lambda e: e.gain),
    ("gain over other rows'", lambda e: _delta(e, "shuffled")),
    ("AR on true labels, FVE", lambda e: _condition(e.true_labels, "real")),
    ("cosine (not comparable across layers)", lambda e: e.round_trip.cosine.mean if e.round_trip.cosine else None),
    ("finds its own activation, top-1", lambda e: e.identity.top1 if e.identity else None),
)
MORE_OF_CLAIMS = (
    ("words in or near the text", lambda c: c.near and c.near.precision),
    ("  by chance", lambda c: c.near and c.near.chance),
    ("next tokens among the likeliest", lambda c: c.likeliest and c.likeliest.named),
    ("  by chance", lambda c: c.likeliest and c.likeliest.named_chance),
    ("  the first named", lambda c: c.likeliest and c.likeliest.first),
    ("  by chance", lambda c: c.likeliest and c.likeliest.first_chance),
)


@dataclass(frozen=True)
class Paired:
    """B minus A on shared rows, by FVE.

    Attributes:
        balanced: the same with each source family counting alike; None: `why_not_balanced` says why.
    """

    rows: int
    same_activations: bool
    difference: Figure
    balanced: Balanced | None = None
    why_not_balanced: str = ""


def _delta(evaluation: Evaluation, name: str) -> Figure | None:
    found = evaluation.ablation.deltas.get(name) if evaluation.ablation else None
    return found.gain if found else None


def _condition(ablation, name: str) -> Figure | None:
    found = ablation.conditions.get(name) if ablation else None
    return found.fve if found else None


def paired(a: Path, b: Path) -> Paired | None:
    """The paired test on rows that both measured evaluations evaluated; None where they share none.

    Rows are shared when they have the same row_id and document, and are as many tokens into it where both tables say
    (a table without row_ids has its rows numbered, which another selection of the same document has too): so pairs that
    read other layers of the same texts compare as well, by FVE, each against its own data's baseline.

    Raises:
        EvaluationError: the rows are not beside a file, or are not those it was computed from.
    """
    import numpy as np

    from .measures.nulls import FEWEST_OF_A_FAMILY, Documents, Families

    files = [load(path) for path in (a, b)]
    if any(one.origin != "measured" for one in files):
        return None
    both = [_tables(path, one) for path, one in zip((a, b), files, strict=True)]
    if not all(one.has_fve for one in both):
        return None
    names = ["row_id", "doc_id"]
    names += ["n_raw_tokens"] if all("n_raw_tokens" in one.rows.column_names for one in both) else []
    found = [dict(_rows(one, names)) for one in both]
    families = [
        dict(zip(_keys(one, names), one.families, strict=True)) if one.families is not None else None for one in both
    ]
    shared = [key for key in found[0] if key in found[1]]
    if not shared:
        return None
    documents = Documents([document for _, document, *_ in shared])
    difference = np.array([found[1][key][0] - found[0][key][0] for key in shared])
    settings = files[0].settings
    p = documents.sign_flip(difference, settings.permutations, settings.seed)
    figure = documents.mean(difference, draws=settings.bootstrap_draws, seed=settings.seed, p=p)
    same = all(found[0][key][1] == found[1][key][1] for key in shared)
    named = [None if one is None else [one[key] for key in shared] for one in families]
    if named[0] is None or named[0] != named[1]:
        why = "a table does not say the rows' families" if None in named else "the tables say other families of them"
        return Paired(len(shared), same, figure, None, why)
    alike = Families(named[0], [document for _, document, *_ in shared])
    p = alike.sign_flip(difference, settings.permutations, settings.seed)
    balanced = alike.mean(difference, draws=settings.bootstrap_draws, seed=settings.seed, p=p)
    why = f"{len(alike)} families have {FEWEST_OF_A_FAMILY} rows or more, at least 2 needed"
    return Paired(len(shared), same, figure, balanced, "" if balanced else why)


def _tables(path: Path, evaluation: Evaluation) -> Tables:

    from .measures.tables import Tables

    rows = path.parent / ROWS
    if not rows.is_file():
        raise EvaluationError(f"{path} names the table {ROWS}, which is not beside it. Keep them together.")
    if sha256_of(rows) != evaluation.files[ROWS]:
        raise EvaluationError(f"{rows} is not the table that {path} was computed from.")
    return Tables(read_table(rows), None, evaluation.settings)


def _rows(tables: Tables, names: list[str]) -> Iterator[tuple[tuple, tuple[float, bytes]]]:
    """Of each evaluated row its key, its FVE and its activation."""
    from .measures.tables import numbers

    fve, vectors = tables.fve(numbers(tables.rows, "cosine_real")), tables.activations
    for at, key in enumerate(_keys(tables, names)):
        if tables.evaluated[at]:
            yield key, (fve[at], vectors[at].tobytes())


def _keys(tables: Tables, names: list[str]) -> list[tuple]:
    """What each row is known by."""
    return [tuple(row.values()) for row in tables.rows.select(names).to_pylist()]


def lines(a: Path, b: Path) -> Iterator[str]:
    """The comparison as plain text."""
    one, other = load(a), load(b)
    yield f"A  {one.subject.av} + {one.subject.ar} on {one.data.name}: {one.verdict.value}"
    yield f"B  {other.subject.av} + {other.subject.ar} on {other.data.name}: {other.verdict.value}"
    if one.subject.layer != other.subject.layer or one.subject.base_model != other.subject.base_model:
        yield "They read different layers or models: compare FVE and gain, not cosine."
    yield f"{'':40}{'A':>26}{'B':>26}"
    measured = [(name, of(one), of(other)) for name, of in MEASURES]
    measured.insert(1, ("  each family counting alike", _balanced(a, one), _balanced(b, other)))
    for name, left, right in measured:
        if left is not None or right is not None:
            yield f"{name:40}{_said(left):>26}{_said(right):>26}"
    for name, left, right in (*_matched(one, other), *_claims(one, other)):
        yield f"{name:40}{_said(left):>26}{_said(right):>26}"
    if published := [side for side, found in (("A", one), ("B", other)) if found.origin == "published"]:
        yield f"No paired test: {' and '.join(published)} published: no rows."
        return
    test = paired(a, b)
    if test is None:
        alike = [side for side, found in (("A", one), ("B", other)) if found.round_trip.fve is None]
        yield f"No paired test: {' and '.join(alike)} has no FVE." if alike else _nothing_shared(a, b)
        return
    said = "the same activations" if test.same_activations else "the same positions, other activations"
    figure = test.difference
    yield f"B − A on {test.rows} shared rows ({said}): FVE {_said(figure)}, p = {figure.p:.2g}"
    if (alike := test.balanced) is None:
        yield f"  not with each family counting alike: {test.why_not_balanced}"
    else:
        counted = f"each of {alike.families} families counting alike ({alike.n} rows)"
        yield f"  {counted}: FVE {_said(alike)}, p = {alike.p:.2g}"


def _matched(one: Evaluation, other: Evaluation) -> Iterator[tuple[str, Figure | None, Figure | None]]:
    """The share of explanations that are given their own texts."""
    both = [{match.features: match for match in evaluation.matching or []} for evaluation in (one, other)]
    for features in dict.fromkeys(name for named in both for name in named):
        left, right = (named[features].matched if features in named else None for named in both)
        if left is not None or right is not None:
            of = next(named[features].of for named in both if features in named)
            yield f"matched with its text of {of}: {features}", left, right


def _claims(one: Evaluation, other: Evaluation) -> Iterator[tuple[str, Figure | None, Figure | None]]:
    """Precision of each kind of claim beside chance, and how far the probabilities can be trusted."""
    both = [evaluation.claims for evaluation in (one, other)]
    kinds = [{kind.kind: kind for kind in claims.kinds} if claims else {} for claims in both]
    for kind in dict.fromkeys(name for named in kinds for name in named):
        for said, part in ((f"claims supported: {kind}", "precision"), ("  by chance", "chance")):
            left, right = (getattr(named[kind], part) if kind in named else None for named in kinds)
            if left is not None or right is not None:
                yield said, left, right
    for said, of in MORE_OF_CLAIMS:
        left, right = (of(claims) if claims else None for claims in both)
        if left is not None or right is not None:
            yield said, left, right
    found = [claims.reliability if claims else None for claims in both]
    if any(found):
        for said, part in (("probability of support, AUROC", "auroc"), ("  calibration error (ECE)", "ece")):
            left, right = (getattr(reliability, part) if reliability else None for reliability in found)
            yield said, left, right


def _balanced(path: Path, evaluation: Evaluation) -> Balanced | None:
    """FVE with each family counting alike; of a file that is older than the figure, from the rows beside it."""
    stated = evaluation.round_trip.fve_balanced
    if stated is not None or evaluation.origin != "measured" or not (path.parent / ROWS).is_file():
        return stated
    from .measures.tables import balanced_figure, numbers

    tables = _tables(path, evaluation)
    return balanced_figure(tables, tables.evaluated, numbers(tables.rows, "cosine_real")[tables.evaluated])


def _nothing_shared(a: Path, b: Path) -> str:
    """Why two measured evaluations share no row, as far as their tables tell, and how to get rows that they do."""
    import pyarrow.parquet as pq

    one, other = load(a), load(b)
    found = [pq.read_table(path.parent / ROWS, columns=["row_id", "doc_id"]) for path in (a, b)]
    rows = [{tuple(row.values()) for row in table.to_pylist()} for table in found]
    documents = [{document for _, document in keys} for keys in rows]
    if one.data.sha256 == other.data.sha256:
        why = "both were measured on one table, but no row was evaluated in both"
        how = "measure both without --limit, or look at the statuses in their rows.parquet"
    elif rows[0] & rows[1]:
        why = "same row_ids and documents, but at other tokens (n_raw_tokens)"
        how = "extract both tables at the same positions"
    elif documents[0] & documents[1]:
        why = f"{len(documents[0] & documents[1])} documents in common, but no row_id"
        how = "split and build both tables with the same config and seed, so that rows keep their row_id"
    else:
        why = f"A is on {one.data.name}, B on {other.data.name}, and they share no document"
        how = "measure both pairs on one held-out table"
    return (
        f"No paired test: no rows in common ({why}). To get some: {how}. Rows are the same where row_id, doc_id and "
        "n_raw_tokens are: pass one FILE as --data for both, or, for a pair of another layer, that layer's table of "
        "the same texts and split."
    )


def _said(figure: Figure | None) -> str:
    if figure is None:
        return "—"
    if figure.interval_95 is None:
        return f"{figure.value:.3f}"
    return f"{figure.value:.3f} [{figure.interval_95[0]:.3f}, {figure.interval_95[1]:.3f}]"
