"""The evaluation file says nothing it contradicts, and nothing that was changed after it was written."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nla_sdk.errors import MissingFileError
from nla_sdk.evaluation.consistency import contradictions
from nla_sdk.evaluation.measures import Ablation, Collapse, Condition, Cosines, RoundTripFigures
from nla_sdk.evaluation.parts import Figure, Share
from nla_sdk.evaluation.reading import EvaluationError, digest, load, save
from nla_sdk.evaluation.verdict import Thresholds, decide
from tests.cards.samples import measured, published
from tests.evaluate.test_verdicts import edited, numbers_in


def test_the_seeds_published_summary_passes_and_is_content_blind(tmp_path):
    found = load(save(published(), tmp_path / "seed.json"))
    assert found.verdict.value == "content-blind"
    assert round(found.gain.value, 2) == 0.04
    trip = found.round_trip
    assert trip.empty / trip.attempted == 0.16 and round(found.collapse.duplicate_share, 2) == 0.52
    assert round(found.ablation.deltas["empty"].cosine.value, 3) == 0.024
    assert round(found.ablation.content_independent_share, 2) == 0.94


def test_the_seeds_summary_verifies_at_the_command_line(tmp_path):
    from training.evaluate.verify import verify

    checked = verify(save(published(), tmp_path / "seed.json"))
    assert "its arithmetic" in checked.checked


def test_every_number_of_a_published_file_changed_by_hand_is_found(tmp_path):
    values = json.loads(save(published(), tmp_path / "seed.json").read_text(encoding="utf-8"))
    for path in numbers_in(values):
        (tmp_path / "edited.json").write_text(json.dumps(edited(values, path)), encoding="utf-8")
        with pytest.raises(EvaluationError):
            load(tmp_path / "edited.json")


@pytest.mark.parametrize(
    ("where", "value", "message"),
    [
        (("mse",), Figure(value=1.0, n=42), "round_trip.mse is 1"),
        (("mse_min",), 0.5, "round_trip.mse_min"),
        (("cosine", "min"), 0.5, "not in order"),
        (("mse",), Figure(value=1.124326, n=41), "over 41 rows"),
        (("cosine", "median"), 0.99, "min, median, max are not in order"),
        (("truncated",), 900, "truncated is 900, evaluated were 42"),
        (("ar_cut",), 43, "ar_cut is 43, evaluated were 42"),
        (("gain",), Figure(value=0.9, n=10), "gain is over 10 rows"),
        (("above_floor",), Share(count=41, of=42), "which the least or largest cosine refutes"),
        (("cosine", "mean"), Figure(value=0.437837, n=42, interval_95=(0.9, 0.8)), "with the interval"),
        (("cosine", "mean"), Figure(value=0.437837, n=42, interval_95=(0.5, 0.8)), "with the interval"),
    ],
)
def test_published_arithmetic_that_does_not_hold_is_named(where, value, message):
    trip = published().round_trip
    if len(where) == 2:
        value = getattr(trip, where[0]).model_copy(update={where[1]: value})
    wrong = contradictions(published().model_copy(update={"round_trip": trip.model_copy(update={where[0]: value})}))
    assert any(message in one for one in wrong), wrong


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"unique": 43}, "43 distinct explanations among 42"),
        ({"stems": 400}, "400 distinct beginnings of four words of 20"),
        ({"prefixes": {40: 21}}, "21 distinct beginnings of 40 characters of 20"),
        ({"commonest_stems": [("a b", 30), ("c d", 13)]}, "commonest openings have more than 42"),
    ],
)
def test_published_counts_of_outputs_that_cannot_be_are_named(changes, message):
    found = published()
    wrong = contradictions(found.model_copy(update={"collapse": found.collapse.model_copy(update=changes)}))
    assert any(message in one for one in wrong), wrong


def test_a_gain_that_the_ablation_of_the_same_rows_refutes_is_named():
    found = published()
    ten = found.round_trip.model_copy(
        update={"attempted": 10, "evaluated": 10, "empty": 0, "gain": Figure(value=0.9, n=10)}
    )
    wrong = contradictions(found.model_copy(update={"round_trip": ten}))
    assert any("round_trip.gain is 0.9, but 0.0405" in one for one in wrong), wrong


def test_a_cosine_beyond_one_is_named():
    found = published()
    trip = RoundTripFigures(
        attempted=42, evaluated=42, cosine=Cosines(mean=Figure(value=1.5, n=42)), mse=Figure(value=-1.0, n=42)
    )
    assert any("is 1.5, no cosine" in one for one in contradictions(found.model_copy(update={"round_trip": trip})))
    conditions = {"real": Condition(cosine=Figure(value=-1.5, n=10))}
    beyond = Ablation(n=10, conditions=conditions)
    assert any("is -1.5, no cosine" in one for one in contradictions(found.model_copy(update={"ablation": beyond})))


@pytest.mark.parametrize(
    ("part", "values", "message"),
    [
        (Share, {"count": 99, "of": 42}, "99 of 42: more than all"),
        (RoundTripFigures, {"attempted": 8, "evaluated": 16, "empty": -8}, "greater than or equal to 0"),
        (Cosines, {"mean": {"value": 0.5, "n": 1}, "std": 3.0}, "less than or equal to 1"),
        (Cosines, {"mean": {"value": 0.5, "n": 1}, "max": 1.5}, "less than or equal to 1"),
        (Collapse, {"n": 2, "unique": 1, "distinct": {1: 1.5}}, "less than or equal to 1"),
    ],
)
def test_counts_and_shares_are_within_their_range(part, values, message):
    with pytest.raises(ValueError, match=message):
        part.model_validate(values)


def test_a_file_does_not_choose_what_it_is_judged_by_nor_what_is_said_of_it():
    verdict = published().verdict
    for changes, message in (
        ({"thresholds": Thresholds(least_gain=0.01)}, "does not choose its own"),
        ({"reason": "the best pair ever"}, "reason is not the one its figures give"),
    ):
        with pytest.raises(ValueError, match=message):
            published(verdict=verdict.model_copy(update=changes))


def test_rows_that_do_not_add_up_are_refused():
    trip = published().round_trip.model_copy(update={"empty": 7})
    with pytest.raises(ValueError, match="42 evaluated \\+ 7 empty \\+ 0 failed rows are not the 50 attempted"):
        published(round_trip=trip)


def test_reading_what_was_written_gives_the_same(tmp_path):
    found, _ = measured()
    again = load(save(found, tmp_path / "evaluation.json"))
    assert again == found and digest(again) == digest(found)


def test_what_is_no_evaluation_file_is_refused_by_what_it_is(tmp_path):
    file = tmp_path / "evaluation.json"
    with pytest.raises(MissingFileError):
        load(file)
    for text, message in [
        ("{", "no readable JSON"),
        ("[]", "holds a list"),
        ('{"rows": 1}', "no schema_version"),
        ('{"schema_version": 9}', "schema version 9; this nla-sdk reads 1"),
        ('{"schema_version": 1, "origin": "guessed"}', "origin"),
    ]:
        file.write_text(text, encoding="utf-8")
        with pytest.raises(EvaluationError, match=message):
            load(file)


# --- the verdict's order ----------------------------------------------------------------------------------------------
def parts(n=100, gain=0.5, low=0.4, unique=100, shuffled=0.3, p=0.001):
    found, _ = measured()
    deltas = dict(found.ablation.deltas)
    deltas["shuffled"] = deltas["shuffled"].model_copy(update={"gain": Figure(value=shuffled, n=n)})
    percentile = found.identity.percentile.model_copy(update={"p": p})
    over_no_text = Figure(value=gain, n=n, interval_95=(low, gain + 0.1))
    return {
        "round_trip": RoundTripFigures(attempted=n, evaluated=n, gain=over_no_text),
        "ablation": found.ablation.model_copy(update={"deltas": deltas}),
        "identity": found.identity.model_copy(update={"percentile": percentile}),
        "collapse": Collapse(n=n, unique=unique),
    }


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({}, "reads-content"),
        ({"n": 9, "gain": 0.0}, "inconclusive"),
        ({"gain": 0.049}, "content-blind"),
        ({"low": 0.0}, "content-blind"),
        ({"gain": 0.049, "unique": 10}, "content-blind"),
        ({"unique": 69}, "template-collapsed"),
        ({"unique": 70}, "reads-content"),
        ({"shuffled": 0.0}, "inconclusive"),
        ({"p": 0.01}, "inconclusive"),
        ({"p": None}, "inconclusive"),
    ],
)
def test_the_first_rule_that_holds_decides(changes, verdict):
    assert decide(parts(**changes)).value == verdict


@given(st.integers(0, 200), st.floats(-1, 1), st.floats(0, 1), st.integers(0, 100), st.floats(-1, 1), st.floats(0, 1))
def test_only_a_pair_that_passes_every_rule_reads_content(n, gain, width, unique, shuffled, p):
    found = parts(n=n, gain=gain, low=gain - width, unique=unique, shuffled=shuffled, p=p)
    limits = Thresholds()
    passes = n >= limits.fewest_rows and gain >= limits.least_gain and gain - width > 0
    passes &= n > 0 and unique / max(n, 1) >= limits.least_unique_share and shuffled > 0 and p < limits.identity_p
    assert (decide(found).value == "reads-content") == passes


def test_a_published_pair_without_an_ablation_gets_no_verdict_on_content():
    found = {"round_trip": published().round_trip, "ablation": None, "identity": None, "collapse": None}
    assert decide(found).value == "inconclusive"
