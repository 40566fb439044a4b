"""A card says what the evaluation says: every figure of the file and none besides, the verdict first."""

from __future__ import annotations

import re

import pytest

from cards import About, CardError, diff, render, space
from cards.phrases import losing
from cards.report import report, summary
from nla_sdk.evaluation.claims import Claims, TokenClass
from nla_sdk.evaluation.parts import Figure, Share
from nla_sdk.evaluation.reading import load, save
from tests.cards.claimed import claims, classes, others, worded
from tests.cards.samples import ABOUT, contract, measured, published, section
from tests.evaluate.test_verdicts import numbers_in


@pytest.mark.parametrize("role", ["av", "ar"])
def test_without_an_evaluation_a_card_makes_no_claim(role):
    card = render(contract(role), about=ABOUT[role])
    assert "**Not evaluated.**" in card.body and card.body.index("Not evaluated") < card.body.index("```")
    assert "model-index" not in card.text
    for word in ("FVE |", "## Performance", "gain over", "reads-content", "Useful:"):
        assert word not in card.body


@pytest.mark.parametrize("verdict", ["content-blind", "template-collapsed", "inconclusive", "reads-content"])
def test_every_verdict_has_its_box_above_all_code(verdict):
    found, _ = measured()
    other = found.model_copy(update={"verdict": found.verdict.model_copy(update={"value": verdict})})
    body = render(contract("av"), other, about=ABOUT["av"]).body
    box = next(line for line in body.splitlines() if line.startswith("> **Verdict"))
    assert verdict in box and body.index(box) < body.index("```")
    assert ("[!NOTE]" if verdict == "reads-content" else "[!WARNING]") in body[: body.index(box)]


def test_a_mixed_pair_is_said_to_be_one():
    found, _ = measured()
    mixed = found.model_copy(update={"subject": found.subject.model_copy(update={"matched": False})})
    assert "do not name each other" in render(contract("av"), mixed, about=ABOUT["av"]).body


def changed(evaluation, path):
    """The evaluation with one number changed, as a reader of the file would get it if nobody checked."""
    values = evaluation.model_dump(mode="python")
    at = values
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = at[path[-1]] + (3 if isinstance(at[path[-1]], int) else 0.0137)
    return type(evaluation).model_construct(
        **{name: field_of(evaluation, name, values[name]) for name in type(evaluation).model_fields}
    )


def field_of(evaluation, name, value):
    part = getattr(evaluation, name)
    if isinstance(part, list) and all(hasattr(one, "model_dump") for one in part):
        return [type(one).model_validate(new) for one, new in zip(part, value, strict=True)]
    return type(part).model_validate(value) if hasattr(part, "model_dump") else value


SHOWN = ("round_trip", "ablation", "identity", "content", "controls", "collapse", "signal", "true_labels")

# Counts of rows behind a figure, draws, and what is said in a rounder form elsewhere.
QUIET = {"n", "draws", "chance", "raw_variance", "baseline_mse", "baseline_mse_raw_variance", "p"}
QUIET |= {
    "by_seed",
    "queries",
    "documents",
    "margin",
    "prefixes",
    "floor",
    "of",
    "interval_95",
    "distinct",
    "mean_words",
}
QUIET |= {"fve_all_attempted", "attempted", "evaluated", "true_labels_identity", "size"}


def test_every_figure_of_the_file_is_on_the_card_and_changes_it():
    found, _ = measured()
    before = render(contract("ar"), found, about=ABOUT["ar"]).body
    values = found.model_dump(mode="python")
    paths = [path for path in numbers_in({name: values[name] for name in SHOWN}) if not QUIET & set(path)]
    assert len(paths) > 60
    unmoved = []
    for path in paths:
        if path[-2:] == ("percentile", "value") or "deltas" in path and path[-2] == "fve":
            continue
        try:
            other = changed(found, path)
        except ValueError:
            continue
        if render(contract("ar"), other, about=ABOUT["ar"]).body == before:
            unmoved.append(".".join(map(str, path)))
    assert not unmoved, unmoved


def forms(value: float) -> set[str]:
    """How a card may print a number."""
    said = {f"{value:.{digits}f}" for digits in range(5)} | {f"{100 * value:.{digits}f}" for digits in range(3)}
    said |= {f"{value:.2g}", str(value), f"{value / 2:.3f}"}
    return {one.lstrip("-+") for one in said}


def test_no_number_in_the_quality_sections_comes_from_elsewhere():
    found, _ = measured()
    body = render(contract("ar"), found, about=ABOUT["ar"]).body.replace("−", "-")
    quality = body[body.index("> **Verdict") : body.index("## How to use")]
    quality += body[body.index("## Performance") : body.index("## What it is useful for")]
    values = found.model_dump(mode="json", exclude_none=True)
    allowed = {"0", "1", "2", "3", "4", "5", "6", "95", "2.0", "0.5", "0.05", "10", "100"}
    for path in numbers_in(values):
        at = values
        for key in path:
            at = at[key]
        allowed |= forms(at)
        allowed |= {str(key) for key in path if str(key).isdigit()}
    for one in found.content.retrieval:
        if one.times_chance:
            allowed |= forms(one.times_chance)
    allowed |= forms(found.identity.pool.times_chance) | forms(found.true_labels_identity.pool.times_chance)
    allowed |= forms(found.collapse.unique_share) | forms(found.collapse.duplicate_share)
    for part in (found.ablation, found.true_labels):
        allowed |= forms(part.content_independent_share)
    trip = found.round_trip
    allowed |= forms(trip.above_floor.share) | forms(trip.empty / trip.attempted)
    for one in found.controls:
        allowed |= forms(one.changed.share)
    for stem, _ in found.collapse.commonest_stems:
        quality = quality.replace(stem, "")
    foreign = {
        one
        for one in re.findall(r"\d+(?:\.\d+)?(?:e-?\d+)?", quality)
        if one.lstrip("0") not in {""} and one not in allowed
    }
    assert not foreign, foreign


def test_an_edited_evaluation_file_is_not_rendered(tmp_path):
    from nla_sdk.evaluation.reading import EvaluationError

    file = save(published(), tmp_path / "evaluation.json")
    file.write_text(file.read_text(encoding="utf-8").replace("0.437837", "0.737837"), encoding="utf-8")
    with pytest.raises(EvaluationError, match="changed after it was written"):
        render(contract("ar"), file, about=ABOUT["ar"])


def test_a_card_of_another_kind_than_the_contract_is_refused():
    with pytest.raises(CardError, match="kind ar was asked for"):
        render(contract("av"), kind="ar", about=ABOUT["av"])
    with pytest.raises(CardError, match="needs the facts"):
        render(contract("av"), kind="dataset", about=ABOUT["av"])


@pytest.mark.parametrize("changes", [{"layer": 17}, {"d_model": 32}])
def test_an_evaluation_of_another_layer_or_width_is_refused(changes):
    found, _ = measured()
    with pytest.raises(CardError, match=f"`{next(iter(changes))}` is .*belong to another half"):
        render(contract("ar", **changes), found, about=ABOUT["ar"])


# --- what the words are worth ----------------------------------------------------------------------------------------
WORTH, OTHERS = "What its words are worth", "Others' figures, as published, not of this pair"


def worth_of(evaluation, role="av"):
    about = About("ada/cat", pair="ada/other", figures=["claims_reliability"])
    return section(render(contract(role), evaluation, about=about).body, WORTH)


def changed_parts(part, path=()):
    """Every number of a part, with the part in which it alone is another (not validated: as nobody's file would be)."""
    if isinstance(part, bool) or part is None or isinstance(part, str):
        return
    if isinstance(part, int | float):
        yield path, part + (3 if isinstance(part, int) else 0.0173)
    elif isinstance(part, dict):
        for key, one in part.items():
            for at, new in changed_parts(one, (*path, key)):
                yield at, {**part, key: new}
    elif isinstance(part, list | tuple):
        for place, one in enumerate(part):
            for at, new in changed_parts(one, (*path, place)):
                yield at, type(part)([*part[:place], new, *part[place + 1 :]])
    else:
        for name in type(part).model_fields:
            for at, new in changed_parts(getattr(part, name), (*path, name)):
                yield at, part.model_copy(update={name: new})


OF_THE_LINE = {"value", "null", "auroc", "ece", "brier", "fve", "mean_fve", "delta"}  # n is said once a line


def is_quiet(path) -> bool:
    """What is said once for several figures: an n, and by family neither intervals nor the n of chance."""
    if "chance_by_family" in path or "by_family" in path and "interval_95" in path:
        return path[-1] != "value"
    return len(path) > 1 and path[-1] == "n" and path[-2] in OF_THE_LINE


def test_every_figure_of_claims_is_on_the_card_and_changes_it():
    found = worded()
    before = render(contract("av"), found, about=ABOUT["av"]).body
    parts = ("claims", "token_classes", "published")
    changes = [
        (path, {name: part})
        for name in parts
        for path, part in changed_parts(getattr(found, name), (name,))
        if not is_quiet(path)
    ]
    assert len(changes) > 150
    unmoved = []
    for path, update in changes:
        body = render(contract("av"), found.model_copy(update=update), about=ABOUT["av"]).body
        if all(section(body, title) == section(before, title) for title in (WORTH, OTHERS)):
            unmoved.append(path)
    assert not unmoved, unmoved


def test_no_number_about_claims_comes_from_elsewhere():
    found = worded()
    body = worth_of(found).replace("−", "-")
    allowed = {"0.5", "0.01", "50", "10", "2", "5"}  # no information; the rule's two limits; of a class's name; counts
    for part in (found.claims, found.token_classes):
        values = part.model_dump() if not isinstance(part, list) else [one.model_dump() for one in part]
        for _, value in flat(values):
            allowed |= forms(value)
    shares = [kind.nothing for kind in found.claims.kinds]
    shares.append(found.claims.repeats)
    shares += [share for one in found.claims.specifics for share in (one.invented, one.chance)]
    for share in shares:
        allowed |= forms(share.share)
    foreign = {one for one in re.findall(r"\d+(?:\.\d+)?", body) if one not in allowed}
    assert not foreign, foreign


def flat(value, path=()):
    """Every number inside, with where it is."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        yield path, value
    elif isinstance(value, dict | list | tuple):
        for key, one in value.items() if isinstance(value, dict) else enumerate(value):
            yield from flat(one, (*path, key))


def test_every_sentence_and_row_about_claims_has_a_number():
    body = worth_of(worded())
    said = [line for line in body.splitlines() if line.strip() and not line.startswith(("| ---", "!["))]
    tables = [at for at, line in enumerate(said) if line.startswith("|") and not said[at - 1].startswith("|")]
    sentences = [line for at, line in enumerate(said) if at not in tables and not line.endswith(":")]
    explained = ("A claim carries nothing where FVE",)
    assert len(sentences) > 20
    for line in sentences:
        assert re.search(r"\d", line) or line.startswith(explained), line


def test_a_file_without_claims_says_nothing_of_them():
    """Version 1, and version 2 of a pair whose claims nobody looked at."""
    found, _ = measured()
    bare = {"claims": None, "token_classes": None, "published": None}
    for one in (found.model_copy(update=bare), published()):
        for page in (render(contract("av"), one.model_copy(update={"subject": found.subject}), about=ABOUT["av"]).body,
                     report(one, figures="figures"), summary(one)):  # fmt: skip
            for word in (
                WORTH,
                "supported",
                "receipt",
                "AUROC",
                "published, not of this pair",
                "mean direction of the class",
                "claims\\_reliability",
                "claims_reliability",
            ):
                assert word not in page, word


def test_a_class_of_tokens_where_the_mean_wins_is_said_first_and_plainly():
    found = worded()
    assert [one.name for one in losing(found)] == ["first 10 positions", "number"]
    body = render(contract("av"), found, about=ABOUT["av"]).body
    box = body[body.index("> **Verdict") :].split("\n\n")[0]
    table = [line for line in section(body, WORTH).splitlines() if "FVE of the class's mean" in line or "| **" in line]
    useful = section(body, "What it is useful for, and what not")
    page = report(found)
    over = page[: page.index("## Round trip")]
    served = space("ada/served", "ada/cat-av", contract("av"), found).body
    for place in (box, useful, over, served[: served.index("```")]):
        for figures in ("first 10 positions (FVE 0.108", "the mean 0.533", "number (FVE 0.127", "the mean 0.204"):
            assert figures in place, (figures, place)
        assert "mean direction" in place and "0.261" not in place, "what the interval leaves open is no loss"
    assert table[1].startswith("| **first 10 positions**") and table[2].startswith("| **number**")
    assert "on 2 of 5 classes" in section(body, WORTH) and "0.108 < 0.533" in summary(found)
    better = [one for one in classes() if not one.loses]
    won = render(contract("av"), worded(token_classes=better), about=ABOUT["av"]).body
    assert "does better than the pair" not in won and "| other word | 71 |" in won


def test_claims_that_hold_no_more_often_than_by_chance_are_of_no_use():
    lines = section(render(contract("av"), worded(), about=ABOUT["av"]).body, "What it is useful for, and what not")
    assert "of the kind register: 23.7 % [18.1, 29.3] are supported, by other documents' texts 21.9 %" in lines
    assert "of the kind word" not in lines


@pytest.mark.parametrize(
    ("invented", "of", "said"), [(61, 87, True), (5, 10, True), (4, 10, False), (4, 4, False), (0, 20, False)]
)
def test_numbers_that_are_mostly_invented_are_of_no_use_and_of_a_few_nothing_is_said(invented, of, said):
    found = worded()
    number = found.claims.specifics[0].model_copy(update={"stated": of, "invented": Share(count=invented, of=of)})
    found = found.model_copy(update={"claims": found.claims.model_copy(update={"specifics": [number]})})
    lines = section(render(contract("av"), found, about=ABOUT["av"]).body, "What it is useful for, and what not")
    assert (f"the numbers that it states: {invented} of {of} ({invented / of:.0%}".replace("%", " %") in lines) is said
    assert ("that it states" in lines) is said


def test_without_texts_or_probability_the_card_says_why():
    kinds = [
        one.model_copy(update={"precision": None, "chance": None, "by_family": {}, "chance_by_family": {}})
        for one in claims().kinds
    ]
    facts = {"kinds": kinds, "known": 0, "supported_per_explanation": None, "specifics": [], "reliability": None}
    said = worth_of(worded(claims=claims(**facts, why_no_precision="no text", why_no_support="no truth", unit="gain")))
    assert (
        "0 are known to hold or not: no text." in said
        and "0 of 3606 claims have a calibrated probability: no truth" in said
    )
    assert (
        "| kind of claim | n | carries nothing |" in said and "at least 0.01" not in said and "supported |" not in said
    )
    assert "where gain is no lower" in said and "ablation: gain lost when it is taken out" in said
    stated = [claims().specifics[0].model_copy(update={"stated": 0, "invented": Share(count=0, of=0), "chance": None})]
    of_text = [claims().receipts[0].model_copy(update={"name": "in_text", "auroc": None, "auroc_by_kind": {}})]
    rarely = worth_of(worded(claims=claims(specifics=stated, receipts=of_text)))
    assert "| numbers | 0 | — | — |" in rarely and "| — (of the text) | 3301 |" in rarely
    nothing = worth_of(worded(claims=Claims(n=0, rows=7, documents=6, per_explanation=0.0, kinds=[]), token_classes=[]))
    assert nothing.strip().startswith("0 claims in 7 explanations") and "|" not in nothing


def test_others_figures_stand_apart_with_source_and_n():
    body = render(contract("av"), worded(), about=ABOUT["av"]).body
    table = section(body, OTHERS)
    assert "| 0.596 | 777 | lab/their-av | [example.org/their\\_audit](https://example.org/their_audit) |" in table
    assert "| 0.596 | not stated |" in table and body.count("0.596") == table.count("0.596") == 2


def test_names_of_kinds_families_receipts_and_sources_stay_inert():
    evil = "x|y\n# head\n<script>alert(1)</script> ![i](http://evil/x.png) `c` {{ 7*7 }}"
    kind = claims().kinds[0]
    kind = kind.model_copy(
        update={
            "kind": evil,
            "by_family": {evil: kind.precision},
            "chance_by_family": {evil: kind.chance},
            "chance": kind.precision,
        }
    )
    receipt = claims().receipts[0].model_copy(update={"name": evil, "auroc_by_kind": {evil: Figure(value=0.5, n=3)}})
    reliability = claims().reliability.model_copy(
        update={"receipts": [evil], "auroc_by_kind": {evil: Figure(value=0.5, n=3)}}
    )
    hostile = claims(
        kinds=[kind],
        receipts=[receipt],
        reliability=reliability,
        n=kind.n,
        per_explanation=kind.n / 416,
        why_no_precision=evil,
    )
    no_support = claims(reliability=None, why_no_support=evil)
    stated = [others(what=evil, of=evil, source=evil), others(source="javascript:alert(1)")]
    for part in (hostile, no_support):
        found = worded(claims=part, published=stated)
        for page in (render(contract("av"), found, about=ABOUT["av"]).body, report(found)):
            plain = re.sub(r"```.*?```", "", page, flags=re.DOTALL)
            assert (
                "<script>" not in plain
                and "![i](" not in plain
                and "\n# head" not in page
                and "](javascript" not in page
            )
            assert (
                "49" not in re.sub(r"[0-9.]*49[0-9.]+|[0-9.]+49", "", section(page, OTHERS))
                and "](http://evil" not in plain
            )


def test_a_changed_figure_of_claims_is_shown_under_its_section(tmp_path):
    old, new = worded(), worded(published=[others(value=0.7)])
    cards = [render(contract("av"), one, about=ABOUT["av"]).text for one in (old, new)]
    told = diff(*cards)
    assert f"@@ {OTHERS}" in told and "| 0.7 |" in told and load(save(new, tmp_path / "evaluation.json")) == new


def test_a_class_without_an_interval_is_not_said_to_lose():
    one = classes()[1]
    bare = one.model_copy(update={"delta": one.delta.model_copy(update={"interval_95": None})})
    assert isinstance(bare, TokenClass) and not losing(worded(token_classes=[bare]))
