"""The verdict's rules, in their order."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nla_sdk.evaluation.measures import Collapse, RoundTripFigures
from nla_sdk.evaluation.parts import Data, Figure
from nla_sdk.evaluation.verdict import Thresholds, decide
from tests.cards.samples import measured, published


def parts(n=100, gain=0.5, low=0.4, unique=100, shuffled=0.3, p=0.001, documents: int | None = 50, evaluated=None):
    found, _ = measured()
    deltas = dict(found.ablation.deltas)
    deltas["shuffled"] = deltas["shuffled"].model_copy(update={"gain": Figure(value=shuffled, n=n)})
    percentile = found.identity.percentile.model_copy(update={"p": p})
    over_no_text = Figure(value=gain, n=n, interval_95=(low, gain + 0.1))
    return {
        "data": Data(name="heldout.parquet", documents=documents),
        "round_trip": RoundTripFigures(attempted=n, evaluated=n, documents=evaluated, gain=over_no_text),
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
        ({"documents": 20}, "reads-content"),
        ({"documents": 19}, "inconclusive"),
        ({"documents": None}, "inconclusive"),
        ({"evaluated": 20}, "reads-content"),
        ({"evaluated": 2}, "inconclusive"),
        ({"n": 19, "unique": 19}, "inconclusive"),
        ({"documents": 2, "gain": 0.049}, "content-blind"),
        ({"documents": 2, "unique": 10}, "template-collapsed"),
    ],
)
def test_the_first_rule_that_holds_decides(changes, verdict):
    assert decide(parts(**changes)).value == verdict


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"documents": 2, "n": 20, "unique": 20}, "2 documents, at least 20 needed to say that it reads content"),
        ({"evaluated": 3}, "3 documents, at least 20 needed"),
        ({"documents": None}, "the number of documents is not known, at least 20 needed"),
        ({"n": 12, "unique": 12}, "12 documents, at least 20 needed"),
    ],
)
def test_many_rows_of_few_documents_are_few_observations_and_that_is_said(changes, reason):
    found = decide(parts(**changes))
    assert found.value == "inconclusive" and reason in found.reason


def test_parts_without_data_are_of_who_knows_how_many_documents():
    found = parts()
    del found["data"]
    assert decide(found).value == "inconclusive" and "not known" in decide(found).reason


@settings(deadline=None)
@given(
    st.integers(0, 200),
    st.floats(-1, 1),
    st.floats(0, 1),
    st.integers(0, 100),
    st.floats(-1, 1),
    st.floats(0, 1),
    st.integers(0, 60),
)
def test_only_a_pair_that_passes_every_rule_reads_content(n, gain, width, unique, shuffled, p, documents):
    found = parts(n=n, gain=gain, low=gain - width, unique=unique, shuffled=shuffled, p=p, documents=documents)
    limits = Thresholds()
    passes = n >= limits.fewest_rows and gain >= limits.least_gain and gain - width > 0
    passes &= n > 0 and unique / max(n, 1) >= limits.least_unique_share and shuffled > 0 and p < limits.identity_p
    passes &= min(documents, n) >= 20
    assert (decide(found).value == "reads-content") == passes


def test_a_published_pair_without_an_ablation_gets_no_verdict_on_content():
    found = {"round_trip": published().round_trip, "ablation": None, "identity": None, "collapse": None}
    assert decide(found).value == "inconclusive"
