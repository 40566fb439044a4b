"""The arithmetic of an evaluation file holds, or what does not is named."""

from __future__ import annotations

import pytest

from nla_sdk.evaluation.claims import Bin, Claims, KindOfClaim, Reliability, TokenClass
from nla_sdk.evaluation.consistency import contradictions
from nla_sdk.evaluation.measures import Ablation, Condition, Cosines, RoundTripFigures
from nla_sdk.evaluation.parts import Figure, Share
from tests.cards.samples import published


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


@pytest.mark.parametrize(("low", "high", "floor", "count"), [(-0.4, 0.0, 0.3, 5), (0.0, 0.4, -0.3, 5)])
def test_an_extreme_cosine_of_zero_refutes_a_count_like_any_other(low, high, floor, count):
    mean = (low + high) / 2
    cosines = Cosines(mean=Figure(value=mean, n=42), min=low, max=high)
    above = Share(count=count, of=42)
    trip = RoundTripFigures(attempted=42, evaluated=42, cosine=cosines, floor=floor, above_floor=above)
    (wrong,) = contradictions(published().model_copy(update={"round_trip": trip, "collapse": None}))
    assert "which the least or largest cosine refutes" in wrong


def claims(**changes) -> Claims:
    share = Figure(value=0.5, n=4)
    bins = [Bin(n=2, predicted=0.4, observed=0.5), Bin(n=2, predicted=0.6, observed=0.5)]
    found = Reliability(
        n=4, documents=2, folds=2, auroc=share, ece=Figure(value=0.1, n=4), brier=share, bins=bins, receipts=["lens"]
    )
    values = {"n": 4, "rows": 2, "documents": 2, "known": 4, "per_explanation": 2.0, "reliability": found}
    return Claims(**{**values, "kinds": [KindOfClaim(kind="word", n=4, precision=share)], **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kinds": [KindOfClaim(kind="word", n=3)]}, "claims: 4 in all, 3 by kind"),
        ({"known": 5}, "claims: 5 known of 4"),
        ({"per_explanation": 3.0}, "claims.per_explanation is 3, but 2 follows"),
        ({"kinds": [KindOfClaim(kind="word", n=4, chance=Figure(value=1.2, n=4))]}, "word.chance is 1.2, no share"),
        ({"reliability": claims().reliability.model_copy(update={"n": 5})}, "5 claims, 4 in bins"),
        (
            {"reliability": claims().reliability.model_copy(update={"ece": Figure(value=0.2, n=4)})},
            "ece is 0.2, but 0.1",
        ),
    ],
)
def test_figures_of_claims_that_cannot_be_are_named(changes, message):
    assert contradictions(published(claims=claims())) == []
    wrong = contradictions(published(claims=claims(**changes)))
    assert any(message in one for one in wrong), wrong


def test_a_classs_delta_is_what_its_figures_differ_by():
    def of(delta: float, n: int = 7) -> list[str]:
        figures = {name: Figure(value=value, n=7) for name, value in (("fve", 0.5), ("mean_fve", 0.2))}
        one = TokenClass(name="number", n=n, documents=3, delta=Figure(value=delta, n=7), **figures)
        return contradictions(published(token_classes=[one]))

    assert of(0.3) == []
    assert of(0.4) == ["token_classes.number.delta is 0.4, but 0.3 follows from the other figures"]
    assert of(0.3, n=8) == ["token_classes.number is not over its 8 rows"]
