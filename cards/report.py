"""An evaluation as a page of Markdown, and as a few lines for the terminal. Every number is the file's."""

from __future__ import annotations

from collections.abc import Iterator

from nla_sdk.evaluation.measures import CONDITIONS, Ablation
from nla_sdk.evaluation.parts import Figure
from nla_sdk.evaluation.schema import Evaluation

from .text import figure, inert, number, p_value, percent, share, signed, table

SAYS = {
    "reads-content": "The explanations carry content of their own activation.",
    "content-blind": "The explanations reconstruct their activations no better than no text at all. Do not read the "
    "round-trip score as the quality of explanations.",
    "template-collapsed": "The AV says the same of many activations. No explanation can be taken for its row's own.",
    "inconclusive": "These figures do not show that explanations carry content, nor that they don't.",
}
GIVEN = {
    "real": "its own explanation",
    "shuffled": "other rows' explanations (mean)",
    "unrelated": "unrelated sentences",
    "nonsense": "nonsense words",
    "empty": "no text",
}
FEW = 30  # rows; of fewer a share is said to the nearest 5 %
INJECTED = {
    "zero": "a zero vector",
    "none": "nothing (the marker itself)",
    "random": "a random direction",
    "other": "another row's activation",
}


USEFUL = {
    "reads-content": (
        "Useful: as a hint what an activation of this block is about, row by row, to be checked against the text.",
        "Useful: comparing pairs, layers and recipes by FVE and gain.",
        "Not useful: as proof that the model represents what one explanation says; details are invented.",
    ),
    "content-blind": (
        "Useful: as a baseline.",
        "Not useful: for judging explanations. They reconstruct their activations no better than no text at all.",
        "Not useful: for any statement about what a single activation holds.",
    ),
    "template-collapsed": (
        "Useful: as a baseline for recipes that avoid the collapse.",
        "Not useful: for telling one activation from another by its explanation.",
    ),
    "inconclusive": (
        "Useful: for measuring again, on more rows.",
        "Not useful: for conclusions in either direction.",
    ),
}


def useful_for(evaluation: Evaluation) -> list[str]:
    """What follows from the verdict, and from a mixed pair."""
    lines = list(USEFUL[evaluation.verdict.value])
    if evaluation.origin == "published":
        lines.insert(1, "Useful: for reproducing the published figures, with the matched other half.")
    if evaluation.subject.matched is False:
        lines.append("Not useful: with the other half it was measured with; the two do not name each other.")
    return lines


def report(evaluation: Evaluation, figures: str | None = None) -> str:
    """One page: the verdict, then FVE and gain, then cosine with what it must be read beside, then the rest.

    Args:
        figures: the folder of the figures, as seen from the page; None: there are none to link.
    """
    return "\n".join(_lines(evaluation, figures)).rstrip() + "\n"


def _lines(found: Evaluation, figures: str | None) -> Iterator[str]:
    trip, subject = found.round_trip, found.subject
    yield f"# Evaluation of {inert(subject.av)} and {inert(subject.ar)}"
    yield ""
    yield f"**{found.verdict.value}**: {inert(found.verdict.reason)}. {SAYS[found.verdict.value]}"
    yield ""
    yield thresholds(found)
    yield ""
    if found.origin == "published":
        yield f"Figures as published ({inert(found.published_at)}), not re-measured."
        yield ""
    if subject.matched is False:
        yield "**The two halves do not name each other**: a score of this mixed pair says little about either."
        yield ""
    data = found.data
    where = f"{trip.attempted} activations" + (f" of {data.documents} documents" if data.documents else "")
    base = f", {inert(subject.base_model)}" if subject.base_model else ""
    layer = f", block {subject.layer}" if subject.layer is not None else ""
    yield f"Held out: {where} ({inert(data.name)}){base}{layer}. Intervals: 95 %, bootstrapped over documents."
    yield ""
    yield "## Round trip"
    yield ""
    yield from round_trip_table(found)
    for title, part in (("Content ablation", found.ablation), ("The AR on written labels", found.true_labels)):
        if part is not None:
            yield from ("", f"## {title}", "")
            yield from ablation_table(part, "its written label" if part is found.true_labels else GIVEN["real"])
    if found.identity is not None or found.content is not None:
        yield from ("", "## Does it tell rows and documents apart", "")
        yield from retrieval_table(found)
    if found.controls:
        yield from ("", f"## Injection controls ({found.controls[0].n} rows)", "")
        yield from controls_table(found)
    if found.collapse is not None:
        yield from ("", "## Template collapse", "")
        yield from collapse_lines(found)
    if found.signal is not None:
        yield from ("", f"## Where the signal sits ({found.signal.n} rows, FVE)", "")
        yield from signal_table(found)
    if figures is not None:
        names = {"content_ablation": found.ablation, "retrieval": found.content or found.identity}
        if found.origin == "measured" and trip.evaluated:
            names = {"cosine_per_row": trip, "cosine_distribution": trip, **names}
        drawn = (
            f"[{name.replace('_', ' ')}]({figures}/{name}.png)" for name, part in names.items() if part is not None
        )
        yield from ("", f"Figures: {', '.join(drawn)}.")
    yield from ("", "## From what", "")
    yield from _provenance(found)


def thresholds(found: Evaluation) -> str:
    """What the verdict was decided by, in the order it is decided in."""
    limits = found.verdict.thresholds
    return (
        f"Decided in this order: fewer than {limits.fewest_rows} evaluated rows, inconclusive; gain over no text below "
        f"{limits.least_gain} or its interval touching 0, content-blind; less than "
        f"{percent(limits.least_unique_share)} distinct explanations, template-collapsed; gain over other rows' "
        f"explanations above 0 and p of the mean rank percentile below {limits.identity_p}, reads-content; else "
        "inconclusive."
    )


def round_trip_table(found: Evaluation) -> Iterator[str]:
    """FVE and gain first, then cosine with what it must be read beside."""
    trip = found.round_trip
    counts = f"{trip.evaluated} of {trip.attempted} evaluated, {trip.empty} empty, {trip.failed} failed"
    if trip.truncated is not None:
        counts += f", {trip.truncated} met the token limit"
    if trip.ar_cut is not None:
        counts += f", {trip.ar_cut} were cut by the AR"
    rows = [["rows", counts]]
    if trip.fve is not None:
        rows.append(["**FVE** (0: the mean direction, 1: exact)", f"**{figure(trip.fve)}**"])
    if trip.fve_raw_variance is not None:
        rows.append(["FVE, raw-variance baseline", figure(trip.fve_raw_variance)])
    if trip.fve_all_attempted is not None and trip.empty:
        rows.append(["FVE with empty outputs scored as they are", figure(trip.fve_all_attempted)])
    if found.gain is not None:
        name = "**gain** over no text, 1 − mse(real) / mse(empty)"
        if trip.gain is None:
            name += f", derived from the {'published ' * (found.origin == 'published')}ablation, n = {found.gain.n}"
        rows.append([name, f"**{figure(found.gain)}** {p_value(found.gain)}".strip()])
    if trip.cosine is not None:
        spread = f" ± {number(trip.cosine.std)}" if trip.cosine.std is not None else ""
        rows.append(["cosine", f"{figure(trip.cosine.mean)}{spread}"])
        rows += _ends(median=trip.cosine.median, min=trip.cosine.min, max=trip.cosine.max)
    if trip.reference is not None:
        beside = f"the mean direction {number(trip.reference.mean_cosine)}"
        if trip.reference.random_pair_cosine is not None:
            beside += f", two unrelated activations {number(trip.reference.random_pair_cosine)}"
        rows.append(["cosine to be read beside it", beside])
    if trip.mse is not None:
        rows.append(["mse (unrelated directions: 2.0)", figure(trip.mse)])
    rows += _ends(min=trip.mse_min, max=trip.mse_max)
    if trip.above_floor is not None:
        rows.append([f"rows above the noise floor {number(trip.floor, 2)}", share(trip.above_floor)])
    yield from table(["", ""], rows)
    yield ""
    yield "Cosine compares neither layers nor models; FVE and gain do."
    if trip.by_family:
        yield ""
        said = (f"{inert(family)} {figure(one, 2)} (n = {one.n})" for family, one in trip.by_family.items())
        yield f"FVE by source family: {'; '.join(said)}."


def _ends(**named: float | None) -> Iterator[list[str]]:
    """A row of what else is known of a distribution, if anything is."""
    if said := [f"{name} {number(value)}" for name, value in named.items() if value is not None]:
        yield ["… over the rows", ", ".join(said)]


def ablation_table(part: Ablation, real: str = GIVEN["real"]) -> list[str]:
    """The AR on the same targets with different texts, and what the real one (called `real`) is better by."""
    given = GIVEN | {
        "real": real,
        "shuffled": GIVEN["shuffled"] if real == GIVEN["real"] else "other rows' labels (mean)",
    }
    fve, floor = (any(getattr(one, name) for one in part.conditions.values()) for name in ("fve", "above_floor"))
    rows = []
    for name in CONDITIONS:
        if name not in part.conditions:
            continue
        one, delta = part.conditions[name], part.deltas.get(name)
        cells = [given[name], *([figure(one.fve) if one.fve else "—"] if fve else []), number(one.cosine.value, 4)]
        if floor:
            cells.append(f"{one.above_floor.count} of {one.above_floor.of}" if one.above_floor else "—")
        better = ""
        if delta is not None:
            better = f"cosine {signed(delta.cosine.value)}"
            if delta.gain is not None:
                better += f", gain {figure(delta.gain)}"
            better += f", {said}" if (said := p_value(delta.cosine)) else ""
        rows.append([*cells, better])
    columns = {f"the AR is given (n = {part.n})": True, "FVE": fve, "cosine": True, "above the floor": floor}
    head = [*(name for name, there in columns.items() if there), "the real one is better by"]
    lines = table(head, rows)
    if (fixed := part.content_independent_share) is not None and fixed > 0:
        said = percent(fixed) if part.n >= FEW else f"about {5 * round(20 * fixed)} %"
        lines += ["", f"No text at all scores {said} of that cosine."]
    return lines


def controls_table(found: Evaluation) -> Iterator[str]:
    """What is written and scored when something else is injected."""
    rows = [
        [
            INJECTED[one.name],
            share(one.changed),
            figure(one.cosine),
            f"{figure(one.delta)} {p_value(one.delta)}".strip(),
        ]
        for one in found.controls
    ]
    yield from table(["injected instead", "text changes", "cosine", "lost against the real one"], rows)


def retrieval_table(found: Evaluation) -> Iterator[str]:
    """Identity, document retrieval and probes, each beside its chance."""
    rows = []
    if (one := found.identity) is not None:
        chance = f"{percent(one.chance, 2)}"
        rows.append(
            [
                "reconstruction → its own activation",
                f"{_share_of(one.top1)} of {one.n}",
                chance,
                p_value(one.top1),
            ]
        )
        rows.append(["… mean rank percentile (chance 0.5)", figure(one.percentile), "", p_value(one.percentile)])
        if one.pool is not None:
            times = f"{_times(one.pool.times_chance)} × chance"
            rows.append([f"… first among {one.pool.size}", percent(one.pool.top1, 1), times, ""])
    for one in found.content.retrieval if found.content else []:
        name = "raw activation → its document (ceiling)"
        if one.query == "explanation":
            to = "another position of its document" if one.candidates == "explanations" else "its source text"
            name = f"AV text → {to} ({one.features})"
        if one.broken:
            rows.append([name, f"broken metric: {inert(one.broken)}", percent(one.chance, 2), ""])
            continue
        asked = f"{one.queries} queries" + (f" of {one.eligible} rows" if one.eligible is not None else "")
        top = f"{_share_of(one.top1)}, {_times(one.times_chance)} × chance ({asked})"
        rows.append([name, top, percent(one.chance, 2), p_value(one.top1)])
    for one in found.content.probes if found.content else []:
        name = f"linear probe: {one.target} from {one.on}"
        if one.broken:
            rows.append([name, f"not made: {inert(one.broken)}", "", ""])
            continue
        rows.append([name, f"{_share_of(one.accuracy)} ({one.classes} classes)", percent(one.chance, 1), ""])
    yield from table(["", "first", "chance", ""], rows)


def _share_of(one: Figure) -> str:
    """A share with its interval, in per cent."""
    if one.interval_95 is None:
        return percent(one.value, 1)
    low, high = (number(100 * end, 1) for end in one.interval_95)
    return f"{percent(one.value, 1)} [{low}, {high}]"


def _times(value: float) -> str:
    return number(value, 1 if value < 10 else 0)


def collapse_lines(found: Evaluation) -> Iterator[str]:
    """How much outputs repeat."""
    one = found.collapse
    yield (
        f"{one.unique} distinct among {one.n} explanations ({percent(one.unique_share)}; exact duplicates "
        f"{percent(one.duplicate_share)})."
        # How many words a published opening has is not in the file.
        + (f" {one.stems} distinct openings{' of four words' * (found.origin == 'measured')}." if one.stems else "")
    )
    if one.prefixes:
        said = (f"{count} at {length} characters" for length, count in one.prefixes.items())
        yield f"Distinct beginnings: {', '.join(said)}."
    if one.distinct:
        said = (f"{percent(value)} (n = {size})" for size, value in one.distinct.items())
        yield f"Distinct n-grams: {', '.join(said)}."
    if one.commonest_stems:
        yield ""
        said = (f"“{inert(stem)}” {count}" for stem, count in one.commonest_stems[:5])
        yield f"Commonest openings: {', '.join(said)}."


def signal_table(found: Evaluation) -> Iterator[str]:
    """Which part of an explanation carries the score."""
    one = found.signal
    rows = [["whole explanation", figure(one.whole), ""]]
    for name, level in (("its quoted spans alone", one.quotes_only), ("its prose without quotes", one.prose_only)):
        if level is not None:
            rows.append([name, figure(level), f"n = {level.n}"])
    if one.prose_only_gain is not None:
        rows.append(["… gain of that prose over no text", figure(one.prose_only_gain), ""])
    if one.first_words:
        name = f"its first {', '.join(map(str, one.first_words))} words"
        rows.append([name, ", ".join(number(level.value) for level in one.first_words.values()), ""])
    for name, lost in (
        ("lost when one claim is left out", one.claims),
        ("lost when the claims change order", one.claims_shuffled),
        ("lost when all words change order", one.words_shuffled),
        ("lost in paraphrase", one.paraphrased),
    ):
        if lost is not None:
            rows.append([name, figure(lost), f"n = {lost.n}, {p_value(lost)}"])
    if one.claims_by_position:
        values = ", ".join(number(lost.value) for lost in one.claims_by_position)
        rows.append(["… when it is the first, second, …", values, ""])
    for number_of, level in one.round_trips.items():
        rows.append([f"after {number_of} round trip{'s' if number_of > 1 else ''}", figure(level), ""])
    yield from table(["", "FVE", ""], rows)


def _provenance(found: Evaluation) -> Iterator[str]:
    if found.cost is not None:
        cost = found.cost
        said = [f"{number(sum(cost.seconds.values()), 0)} s"] if cost.seconds else []
        if cost.tokens_per_second is not None:
            said.append(f"{number(cost.tokens_per_second, 1)} tokens/s written")
        if cost.peak_memory_gib is not None:
            said.append(f"{number(cost.peak_memory_gib, 1)} GiB at most")
        if cost.hardware:
            said.append(inert(cost.hardware))
        yield f"Cost: {', '.join(said)}."
        yield ""
    if found.versions:
        yield f"Versions: {', '.join(f'{inert(name)} {inert(version)}' for name, version in found.versions.items())}."
        yield ""
    if len(found.measured_by) > 1:
        yield f"Rows were measured by more than one version of the code: {', '.join(map(inert, found.measured_by))}."
        yield ""
    if found.inputs:
        rows = []
        for name, digest in found.inputs.items():
            part = " (what decides results)" if name.endswith("/nla_meta.yaml") else ""
            rows.append([inert(name) + part, digest[:16]])
        yield from table(["measured from", "SHA-256"], rows)


def summary(found: Evaluation) -> str:
    """The headline in at most twenty lines of plain text, in the report's order."""
    trip = found.round_trip
    lines = [
        f"{found.verdict.value}: {found.verdict.reason}",
        _limits(found),
        f"{trip.evaluated} of {trip.attempted} rows evaluated, {trip.empty} empty, {trip.failed} failed",
    ]
    if found.subject.matched is False:
        lines.append("the halves do not name each other: a score of this mixed pair says little about either")
    said: list[tuple[str, str]] = []
    for name, one in (("round-trip FVE", trip.fve), ("gain over no text", found.gain)):
        if one is not None:
            said.append((name, figure(one)))
    for name in CONDITIONS[1:]:
        if found.ablation is not None and name in found.ablation.conditions:
            condition = found.ablation.conditions[name]
            if condition.fve is None:
                said.append((f"  cosine of {GIVEN[name]}", number(condition.cosine.value)))
            else:
                said.append((f"  FVE of {GIVEN[name]}", figure(condition.fve)))
    if found.true_labels is not None:
        said.append(("AR on written labels, FVE", figure(found.true_labels.conditions["real"].fve)))
    if trip.cosine is not None:
        beside = "" if trip.reference is None else f" (mean direction {number(trip.reference.mean_cosine)})"
        said.append(("cosine", f"{figure(trip.cosine.mean)}{beside}"))
    if found.identity is not None:
        top, rank = found.identity.top1, found.identity.percentile
        said.append(("finds its own activation", f"{_share_of(top)} of {found.identity.n}, {p_value(top)}"))
        said.append(("  mean rank percentile", f"{figure(rank)}, {p_value(rank)}"))
    for one in found.content.retrieval if found.content else []:
        if one.broken is None and one.features in ("words", "activations"):
            name = (
                "raw activation finds its document"
                if one.query == "activation"
                else f"AV text finds ({one.candidates})"
            )
            times = f"{_times(one.times_chance)} × chance"
            said.append((name, f"{_share_of(one.top1)}, {times}, {p_value(one.top1)}"))
    if found.collapse is not None:
        said.append(("distinct explanations", f"{found.collapse.unique} of {found.collapse.n}"))
    return "\n".join([*lines, *(f"{name:42}{value}" for name, value in said)])


def _limits(found: Evaluation) -> str:
    limits = found.verdict.thresholds
    return (
        f"thresholds: {limits.fewest_rows} rows, gain {limits.least_gain}, {percent(limits.least_unique_share)} "
        f"distinct, p of the rank percentile {limits.identity_p}"
    )
