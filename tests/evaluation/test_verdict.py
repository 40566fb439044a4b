"""The verdict's rules, in their order."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nla_sdk.evaluation.measures import Collapse, RoundTripFigures
from nla_sdk.evaluation.parts import Figure
from nla_sdk.evaluation.verdict import Thresholds, decide
from tests.cards.samples import measured, published


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
