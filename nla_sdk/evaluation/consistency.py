"""What must agree inside an evaluation file: mse with cosine, gains with conditions, counts with their wholes.

A file whose hash holds may still have been written by hand; whoever changes one figure has to change all that follow
from it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from .schema import Evaluation


def contradictions(evaluation: Evaluation) -> list[str]:
    """What the file's own arithmetic refutes: mse = 2 (1 − cos), gains, shares, counts, order. Empty if it holds.

    Measured figures must agree within 1e-6, published ones, which are rounded, within 1e-3.
    """
    tolerance = 1e-6 if evaluation.origin == "measured" else 1e-3
    return [
        *_round_trip(evaluation, tolerance),
        *_ablations(evaluation, tolerance),
        *_tests(evaluation, tolerance),
        *_matching(evaluation, tolerance),
        *_collapse(evaluation),
        *_claims(evaluation, tolerance),
        *_figures(evaluation.model_dump(exclude_none=True), tolerance, inside=evaluation.origin == "published"),
    ]


def _same(what: str, stated: float | None, follows: float | None, tolerance: float) -> Iterator[str]:
    if stated is not None and follows is not None and not math.isclose(stated, follows, rel_tol=0, abs_tol=tolerance):
        yield f"{what} is {stated:g}, but {follows:g} follows from the other figures"


def _ordered(what: str, tolerance: float, **named: float | None) -> Iterator[str]:
    """Values that must not fall, from left to right; those that are absent are left out."""
    there = {name: value for name, value in named.items() if value is not None}
    # The mean of equal values may differ from them by a rounding.
    if any(value > following + tolerance for value, following in pairwise(there.values())):
        yield f"{what}: {', '.join(there)} are not in order: {list(there.values())}"


def _round_trip(evaluation: Evaluation, tolerance: float) -> Iterator[str]:
    trip, cosines = evaluation.round_trip, evaluation.round_trip.cosine
    if evaluation.data.rows is not None and trip.attempted != evaluation.data.rows:
        yield f"round_trip: {trip.attempted} rows attempted, the data have {evaluation.data.rows}"
    if evaluation.origin == "published" and (evaluation.data.documents or 0) > trip.attempted:
        yield f"data: {evaluation.data.documents} documents of {trip.attempted} rows"
    if trip.documents is not None and trip.documents > min(trip.evaluated, evaluation.data.documents or trip.evaluated):
        yield f"round_trip.documents is {trip.documents}, more than there are rows or documents"
    for name in ("truncated", "ar_cut"):
        if (getattr(trip, name) or 0) > trip.evaluated:
            yield f"round_trip.{name} is {getattr(trip, name)}, evaluated were {trip.evaluated}"
    for name in ("fve", "fve_raw_variance", "gain", "mse"):
        if (figure := getattr(trip, name)) is not None and figure.n != trip.evaluated:
            yield f"round_trip: {name} is over {figure.n} rows, evaluated were {trip.evaluated}"
    if trip.above_floor is not None and trip.above_floor.of != trip.evaluated:
        yield f"round_trip.above_floor is of {trip.above_floor.of} rows, evaluated were {trip.evaluated}"
    if cosines is not None:
        mean = cosines.mean.value
        if cosines.mean.n != trip.evaluated:
            yield f"round_trip: cosine is over {cosines.mean.n} rows, evaluated were {trip.evaluated}"
        if not -1 <= mean <= 1:
            yield f"round_trip.cosine.mean is {mean:g}, no cosine"
        yield from _ordered("round_trip.cosine", tolerance, min=cosines.min, mean=mean, max=cosines.max)
        yield from _ordered("round_trip.cosine", tolerance, min=cosines.min, median=cosines.median, max=cosines.max)
        yield from _same("round_trip.mse", trip.mse.value if trip.mse else None, 2 * (1 - mean), tolerance)
        for name, of in (("mse_min", cosines.max), ("mse_max", cosines.min)):
            yield from _same(f"round_trip.{name}", getattr(trip, name), None if of is None else 2 * (1 - of), tolerance)
        if trip.above_floor is not None and trip.floor is not None:
            count, of = trip.above_floor.count, trip.above_floor.of
            all_above = cosines.min is not None and cosines.min > trip.floor
            none_above = cosines.max is not None and cosines.max <= trip.floor
            if (all_above and count < of) or (none_above and count):
                yield f"round_trip.above_floor is {count} of {of}, which the least or largest cosine refutes"
    if trip.tokens is not None:
        yield from _ordered("round_trip.tokens", tolerance, median=trip.tokens.median, max=trip.tokens.max)
    if (balanced := trip.fve_balanced) is not None and (families := trip.by_family.values()):
        follows = sum(one.value for one in families) / len(families)
        yield from _same("round_trip.fve_balanced", balanced.value, follows, tolerance)
        if (balanced.families, balanced.n) != (len(families), sum(one.n for one in families)):
            yield f"round_trip.fve_balanced is of {balanced.families} families, {balanced.n} rows; by_family has others"
    if trip.fve is not None and trip.mse is not None and trip.reference is not None:
        follows = 1 - trip.mse.value / trip.reference.baseline_mse if trip.reference.baseline_mse else None
        yield from _same("round_trip.fve", trip.fve.value, follows, tolerance)


def _ablations(evaluation: Evaluation, tolerance: float) -> Iterator[str]:
    trip = evaluation.round_trip
    for name, ablation in (("ablation", evaluation.ablation), ("true_labels", evaluation.true_labels)):
        if ablation is None:
            continue
        for kind, condition in ablation.conditions.items():
            if not -1 <= condition.cosine.value <= 1:
                yield f"{name}.conditions.{kind}.cosine is {condition.cosine.value:g}, no cosine"
            floor = condition.above_floor
            if condition.cosine.n != ablation.n or (floor is not None and floor.of != ablation.n):
                yield f"{name}.conditions.{kind} is not over the {ablation.n} rows of the ablation"
        if "real" not in ablation.conditions:
            continue
        real = ablation.conditions["real"].cosine.value
        for other, delta in ablation.deltas.items():
            if other not in ablation.conditions:
                yield f"{name}.deltas.{other} has no condition of that name"
                continue
            cosine = ablation.conditions[other].cosine.value
            yield from _same(f"{name}.deltas.{other}.cosine", delta.cosine.value, real - cosine, tolerance)
            if delta.gain is not None and cosine < 1:
                follows = 1 - (1 - real) / (1 - cosine)
                yield from _same(f"{name}.deltas.{other}.gain", delta.gain.value, follows, tolerance)
    ablation, gain = evaluation.ablation, trip.gain
    if gain is None or ablation is None or ablation.n != gain.n or not {"real", "empty"} <= set(ablation.conditions):
        return
    real, empty = (ablation.conditions[name].cosine.value for name in ("real", "empty"))
    if empty < 1:
        yield from _same("round_trip.gain", gain.value, 1 - (1 - real) / (1 - empty), tolerance)


def _tests(evaluation: Evaluation, tolerance: float) -> Iterator[str]:
    """Identity and retrieval: shares, and their chance."""
    for name in ("identity", "true_labels_identity"):
        if (test := getattr(evaluation, name)) is not None:
            for part in ("top1", "percentile"):
                if not 0 <= getattr(test, part).value <= 1:
                    yield f"{name}.{part} is {getattr(test, part).value:g}, no share"
            yield from _same(f"{name}.chance", test.chance, 1 / test.n if test.n else None, tolerance)
    for index, test in enumerate(evaluation.content.retrieval if evaluation.content else []):
        where = f"content.retrieval.{index}"
        yield from _same(f"{where}.chance", test.chance, 1 / test.documents if test.documents else None, tolerance)
        if test.top1 is not None and test.by_seed:  # the worst seed stands for all: none may be picked
            yield from _same(f"{where}.top1", test.top1.value, min(test.by_seed), tolerance)
        if test.eligible is not None and test.eligible < test.queries:
            yield f"{where}: {test.queries} queries among {test.eligible} rows"


def _matching(evaluation: Evaluation, tolerance: float) -> Iterator[str]:
    """Explanations put to texts: shares and their chance, of enough documents."""
    for one in evaluation.matching or []:
        where = f"matching.{one.features}"
        yield from _same(f"{where}.chance", one.chance, 1 / one.of, tolerance)
        if (one.matched is None) == (one.why_not is None):
            yield f"{where} has to say either what was matched or why nothing was"
        if one.documents > one.rows:
            yield f"{where}: {one.documents} documents of {one.rows} rows"
        if one.matched is None:
            continue
        if not 0 <= one.matched.value <= 1:
            yield f"{where}.matched is {one.matched.value:g}, no share"
        if one.documents < one.of or not one.of <= one.matched.n <= min(one.rows, one.of * one.draws):
            dealt = f"{one.matched.n} of {one.rows} rows in {one.draws} draws"
            yield f"{where}: {one.of} of {one.documents} documents, {dealt}, which cannot be"
        if one.features == "meaning" and evaluation.settings is not None and evaluation.settings.embedder is None:
            yield f"{where} needs an embedder, and settings name none"


def _collapse(evaluation: Evaluation) -> Iterator[str]:
    if (collapse := evaluation.collapse) is None:
        return
    if collapse.n != evaluation.round_trip.evaluated:
        yield f"collapse is over {collapse.n} rows, evaluated were {evaluation.round_trip.evaluated}"
    if collapse.unique > collapse.n:
        yield f"collapse: {collapse.unique} distinct explanations among {collapse.n}"
    counts = {f"{length} characters": count for length, count in collapse.prefixes.items()}
    for what, count in ({"four words": collapse.stems} | counts).items():
        if count is not None and count > collapse.unique:
            yield f"collapse: {count} distinct beginnings of {what} of {collapse.unique} distinct explanations"
    if sum(count for _, count in collapse.commonest_stems) > collapse.n:
        yield f"collapse: the commonest openings have more than {collapse.n} rows"


def _claims(evaluation: Evaluation, tolerance: float) -> Iterator[str]:
    """What claims are worth: counts with their wholes, shares, the calibration error with its bins."""
    for one in evaluation.token_classes or []:
        follows = one.fve.value - one.mean_fve.value
        yield from _same(f"token_classes.{one.name}.delta", one.delta.value, follows, tolerance)
        if not one.n == one.fve.n == one.mean_fve.n == one.delta.n:
            yield f"token_classes.{one.name} is not over its {one.n} rows"
    if (claims := evaluation.claims) is None:
        return
    if (inside := sum(kind.n for kind in claims.kinds)) != claims.n:
        yield f"claims: {claims.n} in all, {inside} by kind"
    if claims.known > claims.n:
        yield f"claims: {claims.known} known of {claims.n}"
    yield from _same("claims.per_explanation", claims.per_explanation, claims.n / max(claims.rows, 1), tolerance)
    for kind in claims.kinds:
        for name in ("precision", "chance"):
            if (figure := getattr(kind, name)) is not None and not 0 <= figure.value <= 1:
                yield f"claims.{kind.kind}.{name} is {figure.value:g}, no share"
    if claims.repeats is not None and claims.repeats.of != claims.rows:
        yield f"claims.repeats is of {claims.repeats.of} explanations, there are {claims.rows}"
    if (near := claims.near) is not None:
        in_text = next((kind.precision for kind in claims.kinds if kind.kind == "word"), None)
        yield from _ordered("claims.near", tolerance, in_text=in_text and in_text.value, near=near.precision.value)
    if (found := claims.reliability) is None:
        return
    if sum(one.n for one in found.bins) != found.n:
        yield f"claims.reliability: {found.n} claims, {sum(one.n for one in found.bins)} in bins"
    error = sum(one.n * abs(one.predicted - one.observed) for one in found.bins) / max(found.n, 1)
    yield from _same("claims.reliability.ece", found.ece.value, error, tolerance)


def _figures(part: Any, tolerance: float, inside: bool, where: str = "") -> Iterator[str]:
    """Every interval, wherever it is: its ends in order; where `inside`, its value between them.

    Not of measured files: a percentile bootstrap of few draws may miss its own value, and `verify` draws it again.
    """
    if isinstance(part, list | tuple):
        part = dict(enumerate(part))
    if not isinstance(part, dict):
        return
    if "interval_95" in part:
        (low, high), value = part["interval_95"], part["value"]
        if low > high or inside and not low - tolerance <= value <= high + tolerance:
            yield f"{where.lstrip('.')} is {value:g} with the interval [{low:g}, {high:g}]"
    for name, inner in part.items():
        yield from _figures(inner, tolerance, inside, f"{where}.{name}")
