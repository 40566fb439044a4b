"""An evaluation as a page of Markdown, and as a few lines for the terminal. Every number is the file's."""

from __future__ import annotations

from collections.abc import Iterator

from nla_sdk.evaluation.claims import KindOfClaim
from nla_sdk.evaluation.measures import CONDITIONS
from nla_sdk.evaluation.schema import Evaluation

from .phrases import GIVEN, losing
from .sandbox import fill
from .text import figure, interval_percent, number, p_value, percent, times


def report(evaluation: Evaluation, figures: str | None = None) -> str:
    """One page: the verdict, then FVE and gain, then cosine with what it must be read beside, then the rest.

    Args:
        figures: the folder of the figures, as seen from the page; None: there are none to link.
    """
    return fill("report.md", evaluation=evaluation, figures=figures, drawn=_drawn(evaluation))


def _drawn(evaluation: Evaluation) -> list[str]:
    """The figures that `cards.figures.drawing` makes of the evaluation."""
    names = []
    if evaluation.origin == "measured" and evaluation.round_trip.evaluated:
        names += ["cosine_per_row", "cosine_distribution"]
    if evaluation.ablation is not None:
        names.append("content_ablation")
    if evaluation.content is not None or evaluation.identity is not None:
        names.append("retrieval")
    if (
        evaluation.claims is not None
        and evaluation.claims.reliability is not None
        and evaluation.claims.reliability.bins
    ):
        names.append("claims_reliability")
    return names


def summary(evaluation: Evaluation) -> str:
    """The headline in some twenty lines of plain text, in the report's order."""
    trip, limits = evaluation.round_trip, evaluation.verdict.thresholds
    lines = [
        f"{evaluation.verdict.value}: {evaluation.verdict.reason}",
        f"thresholds: {limits.fewest_rows} rows, "
        + (f"{limits.fewest_documents} documents, " if limits.fewest_documents is not None else "")
        + f"gain {limits.least_gain}, {percent(limits.least_unique_share)} distinct, p of the rank percentile "
        f"{limits.identity_p}",
        f"{trip.evaluated} of {trip.attempted} rows evaluated, {trip.empty} empty, "
        + (f"{trip.untagged} untagged (in another form than the contract states), " if trip.untagged else "")
        + f"{trip.failed} failed",
    ]
    if evaluation.subject.matched is False:
        lines.append("the halves do not name each other: a score of this mixed pair says little about either")
    return "\n".join([*lines, *(f"{name:42}{value}" for name, value in _headline(evaluation))])


def _headline(evaluation: Evaluation) -> Iterator[tuple[str, str]]:
    """Figures by name, as far as they were measured."""
    trip, ablation, identity = evaluation.round_trip, evaluation.ablation, evaluation.identity
    if trip.fve is not None:
        yield "round-trip FVE", figure(trip.fve)
    if trip.fve_balanced is not None:
        yield f"  each of {trip.fve_balanced.families} families counting alike", figure(trip.fve_balanced)
    if trip.fve_without_outlying is not None and trip.reference is not None:
        yield f"  without {trip.reference.outlying} rows of outlying norm", figure(trip.fve_without_outlying)
    if evaluation.gain is not None:
        yield "gain over no text", figure(evaluation.gain)
    for name in CONDITIONS[1:]:
        if ablation is None or (condition := ablation.conditions.get(name)) is None:
            continue
        if condition.fve is None:
            yield f"  cosine of {GIVEN[name]}", number(condition.cosine.value)
        else:
            yield f"  FVE of {GIVEN[name]}", figure(condition.fve)
    if evaluation.true_labels is not None:
        yield "AR on written labels, FVE", figure(evaluation.true_labels.conditions["real"].fve)
    if trip.cosine is not None:
        beside = "" if trip.reference is None else f" (mean direction {number(trip.reference.mean_cosine)})"
        yield "cosine", f"{figure(trip.cosine.mean)}{beside}"
    if identity is not None:
        top1 = f"{interval_percent(identity.top1)} of {identity.n}"
        yield "finds its own activation", f"{top1}, {p_value(identity.top1)}"
        yield "  mean rank percentile", f"{figure(identity.percentile)}, {p_value(identity.percentile)}"
    for test in evaluation.content.retrieval if evaluation.content else []:
        if test.broken is None and test.features in ("words", "activations"):
            is_ceiling = test.query == "activation"
            name = "raw activation finds its document" if is_ceiling else f"AV text finds ({test.candidates})"
            over_chance = f"{times(test.times_chance)} × chance"
            yield name, f"{interval_percent(test.top1)}, {over_chance}, {p_value(test.top1)}"
    matched = [one for one in evaluation.matching or [] if one.matched is not None]
    if matched:
        said = (f"{interval_percent(one.matched)} by {one.features}" for one in matched)
        yield f"matched with its text among {matched[0].of}", f"{', '.join(said)} (chance {percent(matched[0].chance)})"
    elif evaluation.matching:
        yield "matched with its text", f"not measured: {evaluation.matching[0].why_not}"
    if evaluation.collapse is not None:
        tokens = "" if trip.tokens is None else f", {number(trip.tokens.median, 1)} tokens in the median"
        yield "distinct explanations", f"{evaluation.collapse.unique} of {evaluation.collapse.n}{tokens}"
    claims = evaluation.claims
    held = [kind for kind in claims.kinds if kind.precision is not None] if claims is not None else []
    if held:
        said = (f"{kind.kind} {percent(kind.precision.value)}{_by_chance(kind)}" for kind in held)
        yield "claims supported (by other texts)", ", ".join(said)
    if claims is not None and (near := claims.near) is not None:
        by_chance = f" ({percent(near.chance.value)})" if near.chance is not None else ""
        yield "  words in the text or near it", f"{percent(near.precision.value)}{by_chance}"
    if claims is not None and (found := claims.likeliest) is not None:
        both = (("all named", found.named, found.named_chance), ("the first", found.first, found.first_chance))
        said = (f"{name} {percent(one.value)}" + (f" ({percent(by.value)})" if by else "") for name, one, by in both)
        yield f"  next tokens among {found.of} likeliest", ", ".join(said)
    if claims is not None and claims.repeats is not None:
        yield "  explanations that say a claim twice", f"{claims.repeats.count} of {claims.repeats.of}"
    if lost := losing(evaluation):
        said = (f"{one.name} {number(one.fve.value)} < {number(one.mean_fve.value)}" for one in lost)
        yield "FVE below the token class's mean", ", ".join(said)


def _by_chance(kind: KindOfClaim) -> str:
    return f" ({percent(kind.chance.value)})" if kind.chance is not None else ""
