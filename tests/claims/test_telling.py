"""A check goes into JSON and comes back whole."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from nla_sdk.claims.cutting import claims_of
from nla_sdk.claims.receipts import RECEIPTS, Check, CheckedClaim, Receipt
from nla_sdk.claims.telling import heard, told

NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
RECEIVED = st.dictionaries(st.sampled_from(list(RECEIPTS)), st.builds(Receipt, NUMBERS, st.none() | NUMBERS))
WHY = st.none() | st.just("no calibration")
HOLDS = st.none() | st.booleans()
SUPPORT = st.none() | st.floats(0, 1)
TEXTS = st.sampled_from(
    ['"mat" or "sofa" comes next. Fiction about sat, 猫.', "It is 🙂. It says “the city”.", "…", ""]
)


@given(TEXTS, st.data())
def test_what_is_told_of_a_check_is_that_check(text, data):
    claims = [
        CheckedClaim(one, data.draw(RECEIVED), data.draw(SUPPORT), data.draw(WHY), data.draw(HOLDS))
        for one in claims_of(text)
    ]
    facts = {"unit": data.draw(st.sampled_from([None, "FVE"])), "missing": {"lens": "no source"}}
    check = Check(text, tuple(claims), why_no_support=data.draw(WHY), **facts)
    assert heard(text, json.loads(json.dumps(told(check)))) == check


def test_the_support_of_an_explanation_is_the_mean_over_the_claims_that_have_one():
    text = "A line break comes next. Prose about sea, sand."
    claims = claims_of(text)
    parts = [CheckedClaim(claim, {}, support) for claim, support in zip(claims, (0.25, None, 0.75, None), strict=True)]
    assert told(Check(text, parts))["support"] == 0.5
    assert told(Check(text, [CheckedClaim(claims[0], {})], why_no_support="no"))["support"] is None
    assert told(Check("", []))["support"] is None


def test_each_claim_is_told_where_it_stands_and_why():
    text = "It says “the city of”."
    found = told(Check(text, [CheckedClaim(one, {"ablation": Receipt(0.02, 0.01)}, 0.5) for one in claims_of(text)]))
    for one, claim in zip(found["claims"], claims_of(text), strict=True):
        assert text[one["start"] : one["end"]] == one["text"] == claim.text and one["kind"] == claim.kind
        assert one["receipts"] == {"ablation": {"value": 0.02, "null": 0.01}} and one["reason"]
