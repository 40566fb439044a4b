"""A card says what the evaluation says: every figure of the file and none besides, the verdict first."""

from __future__ import annotations

import re

import pytest

from cards import CardError, render
from nla_sdk.evaluation.reading import save
from tests.cards.samples import ABOUT, contract, measured, published
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
