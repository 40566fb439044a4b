"""The claims of explanations over HTTP: as `pair.check` finds them, or refused."""

from __future__ import annotations

import math

import pytest

from nla_sdk import NLAPair
from nla_sdk.results import Results
from nla_sdk.serve.running import serving
from tests.serve.wire import CHAT, TEXT, VECTOR, Wire, told_of

WORDS = ['"cat" or "dog" comes next. Prose about mat, sea.', "It sat. It says “a mat”."]


def same(found: list[dict], own: list) -> bool:
    """Whether rows say what a pair's own checks say."""
    wanted = [{"index": at, **told_of(one)} for at, one in enumerate(own)]
    assert [{**row, "claims": None} for row in found] == [{**row, "claims": None} for row in wanted]
    for row, other in zip(found, wanted, strict=True):
        for claim, right in zip(row["claims"], other["claims"], strict=True):
            assert {**claim, "receipts": None} == {**right, "receipts": None}
            numbers, others = claim["receipts"], right["receipts"]
            assert numbers.keys() == others.keys() != set()
            assert all(numbers[name] == pytest.approx(others[name], abs=1e-5) for name in numbers)
    return True


def test_a_texts_rows_are_checked_against_that_text(wire: Wire, full_pair):
    found = wire.ask("/v1/check", {**TEXT, "positions": [3, -1], "explanations": WORDS})
    acts = full_pair.extract(TEXT["text"], [3, -1])
    assert same(found["rows"], full_pair.check(WORDS, acts, [TEXT["text"]] * 2, position=acts.positions))
    assert "in_text" in found["rows"][0]["claims"][-1]["receipts"]
    assert found["layer"] == full_pair.layer and found["rows"][0]["why_no_support"]


def test_texts_and_chats_are_known_as_well(wire: Wire, full_pair):
    texts = ["one mat", "two cats"]
    found = wire.ask("/v1/check", {"texts": texts, "explanations": WORDS})
    assert same(found["rows"], full_pair.check(WORDS, full_pair.extract(texts), texts))
    found = wire.ask("/v1/check", {**CHAT, "positions": 2, "explanations": WORDS[:1]})
    own = full_pair.check(WORDS[:1], full_pair.extract([CHAT["messages"]], 2), [CHAT["messages"]], position=2)
    assert same(found["rows"], own)


def test_vectors_are_checked_without_a_text_or_with_the_one_that_is_told(wire: Wire, full_pair):
    body = {"vectors": [VECTOR, VECTOR[::-1]], "explanations": WORDS}
    found = wire.ask("/v1/check", body)
    vectors = [VECTOR, VECTOR[::-1]]
    assert same(found["rows"], full_pair.check(WORDS, vectors))
    assert not any("in_text" in claim["receipts"] for row in found["rows"] for claim in row["claims"])
    known = [{**TEXT, "position": 4}, {"text": "a mat"}]
    own = full_pair.check(WORDS, vectors, [TEXT["text"], "a mat"], position=[4, -1])
    assert same(wire.ask("/v1/check", {**body, "known": known})["rows"], own)
    own = full_pair.check(WORDS, vectors, [TEXT["text"]] * 2, position=4)
    assert same(wire.ask("/v1/check", {**body, "known": known[:1]})["rows"], own)


def test_samples_and_steering_are_what_the_pairs_are(wire: Wire, full_pair):
    body = {**TEXT, "explanations": WORDS[:1], "samples": 2, "steering": True, "seed": 3}
    found = wire.ask("/v1/check", body)["rows"]
    acts = full_pair.extract([TEXT["text"]])
    own = full_pair.check(WORDS[:1], acts, [TEXT["text"]], samples=2, steering=True, seed=3)
    assert same(found, own) and "recurs_in_samples" in found[0]["claims"][0]["receipts"]


REFUSED = {
    "explanations are not as many": ({**TEXT, "explanations": WORDS}, 400, "2 explanations of 1 rows"),
    "directions": ({"vectors": [VECTOR], "kind": "direction", "explanations": ["a"]}, 400, "kind 'direction'"),
    "a text's text": ({**TEXT, "known": [TEXT], "explanations": ["a"]}, 422, "known is said of vectors"),
    "known, not as many": (
        {"vectors": [VECTOR] * 3, "known": [TEXT] * 2, "explanations": ["a"] * 3},
        400,
        "2 texts for 3 rows",
    ),
    "known, but neither": ({"vectors": [VECTOR], "known": [{}], "explanations": ["a"]}, 422, "one of text, messages"),
    "a position beyond": (
        {"vectors": [VECTOR], "known": [{**TEXT, "position": 999}], "explanations": ["a"]},
        400,
        "Position 999 does not exist",
    ),
    "too much at once": (
        {"vectors": [VECTOR] * 64, "samples": 64, "explanations": ["a"] * 64},
        400,
        "at most 2,048 texts",
    ),
    "too many claims": (
        {"vectors": [VECTOR] * 5, "explanations": ["It is. " * 1000] * 5},
        400,
        "5,000 claims; expected at most 4,096",
    ),
    "too many samples": ({**TEXT, "samples": 65, "explanations": ["a"]}, 422, "less than or equal to 64"),
    "no such field": ({**TEXT, "dictionary": "a/b", "explanations": ["a"]}, 422, "Extra inputs"),
}


@pytest.mark.parametrize(("body", "status", "said"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_checked_is_refused_and_says_why(wire: Wire, body, status, said):
    answer = wire.post("/v1/check", body)
    assert (answer.status_code, said in answer.text) == (status, True), answer.text


def test_a_server_that_is_read_only_steers_for_no_check(serve, full_pair):
    wire = serve(full_pair, read_only=True)
    body = {**TEXT, "explanations": WORDS[:1]}
    assert wire.ask("/v1/check", body)["rows"][0]["claims"]
    answer = wire.post("/v1/check", {**body, "steering": True})
    assert answer.status_code == 403 and "read-only" in answer.text


def test_a_check_that_nobody_waits_for_is_called_off(serve, full_pair, monkeypatch):
    def endless(*_, cancel, **__):
        cancel.wait(60)
        return Results()

    monkeypatch.setattr(type(full_pair), "check", endless)
    answer = serve(full_pair, timeout=0.5).post("/v1/check", {**TEXT, "explanations": ["a"]})
    assert answer.status_code == 504


def test_a_pair_says_what_its_probabilities_rest_on():
    from nla_sdk.claims.calibration import Calibration, Weight, Weights
    from nla_sdk.evaluation.claims import Reliability
    from nla_sdk.evaluation.parts import Figure
    from nla_sdk.serve.about import calibration_of

    def figure(value: float) -> Figure:
        return Figure(value=value, n=90)

    weights = Weights(n=40, supported=10, intercept=0.0, receipts={"ablation": Weight(weight=1, mean=0, std=1)})
    facts = {"n": 90, "documents": 9, "folds": 5, "brier": figure(0.2), "bins": [], "receipts": ["ablation"]}
    held = Reliability(auroc=figure(0.7), ece=figure(0.03), **facts)
    calibration = Calibration(
        made_from={}, data="held", unit="FVE", baseline_mse=0.2, kinds={"word": weights}, reliability=held
    )
    assert calibration_of(None, None) is None
    assert calibration_of(calibration, None) == {
        "data": "held",
        "unit": "FVE",
        "receipts": ["ablation"],
        "n": 90,
        "documents": 9,
        "ece": 0.03,
        "auroc": 0.7,
        "kinds": [{"kind": "word", "n": 40, "precision": 0.25, "chance": None}],
    }
    bare = calibration.model_copy(update={"reliability": None})
    assert calibration_of(bare, None)["ece"] is None


@pytest.fixture
def calibrated(copied):
    """A pair's folder and what is written beside its AV: a calibration of it, or of another."""
    from pathlib import Path

    from nla_sdk.claims.calibration import CLAIMS, Calibration, Weight, Weights
    from nla_sdk.halves.beside.digests import half_digests

    def load(**foreign: str):
        pair = NLAPair.from_pretrained(copied("shared"))
        halves = [half for half in (pair.av, pair.ar) if half is not None]
        made_from = [half_digests(half.role, Path(half.folder), half.contract) for half in halves]
        weight = {"ablation": Weight(weight=1.0, mean=0.0, std=0.5)}
        kinds = {"word": Weights(n=40, supported=10, intercept=-1.0, receipts=weight)}
        facts = {
            "made_from": {**made_from[0], **made_from[1], **foreign},
            "data": "held",
            "unit": "gain",
            "kinds": kinds,
        }
        Calibration(**facts, chance={"word": {"ablation": 0.25}}).save(Path(halves[0].folder) / CLAIMS)
        return pair

    return load


def test_a_calibrated_pairs_claims_have_a_probability_and_others_say_why_not(calibrated, monkeypatch):
    pair = calibrated()
    monkeypatch.setattr(type(pair), "baseline_mse", None, raising=False)
    with serving(pair, name="tiny") as url:
        wire = Wire(url)
        assert wire.get("/v1/pair").json()["calibration"]["kinds"][0]["precision"] == 0.25
        [row] = wire.ask("/v1/check", {**TEXT, "explanations": WORDS[:1]})["rows"]
    for claim in row["claims"]:
        if claim["kind"] == "word":
            ablation = claim["receipts"]["ablation"]
            assert claim["support"] == pytest.approx(1 / (1 + math.exp(1 - ablation["value"] / 0.5)))
            assert ablation["null"] == 0.25 and claim["why_no_support"] is None
        else:
            assert claim["support"] is None and "were not measured" in claim["why_no_support"]
    known = [claim["support"] for claim in row["claims"] if claim["kind"] == "word"]
    assert row["support"] == pytest.approx(sum(known) / 2) and len(known) == 2 and row["why_no_support"] is None


def test_another_pairs_calibration_is_refused_without_a_path_and_the_rest_goes_on(calibrated):
    pair = calibrated(**{"av/nla_meta.yaml": "0" * 64})
    with serving(pair, name="tiny") as url:
        wire = Wire(url)
        assert wire.get("/v1/pair").json()["calibration"] is None
        answer = wire.post("/v1/check", {**TEXT, "explanations": WORDS[:1]})
        assert (answer.status_code, answer.json()["error"]) == (503, "MismatchedHalvesError")
        assert "claims.json was fitted with other halves" in answer.text
        assert str(pair.av.folder.parent) not in answer.text
