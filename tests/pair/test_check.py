"""`pair.check`: claims with receipts, a reason and, where it was measured, a probability."""

from __future__ import annotations

import math
from threading import Event

import pytest
import torch

from nla_sdk import Check, Explanation, NLAPair, Results, metrics
from nla_sdk.checking.gathering import gather
from nla_sdk.checking.parts import Context
from nla_sdk.claims.calibration import CLAIMS, Calibration, Weight, Weights
from nla_sdk.claims.cutting import claims_of
from nla_sdk.claims.truth import supported
from nla_sdk.errors import CancelledCallError, InputError, MismatchedHalvesError, MissingHalfError
from nla_sdk.halves.beside.digests import half_digests
from tests import tiny

WORDS = '"b" or "so" comes next. Expository prose about fish, sea, fish.'
OTHER = '"a" comes next. A worked sum about cats.'
TEXT = "The fish swam in the sea"


@pytest.fixture(scope="module")
def vectors():
    return tiny.random(2, tiny.D_MODEL, seed=3, scale=3.0)


def receipts(check: Check):
    return [one.receipts for one in check.claims]


def test_one_explanation_has_one_check_with_the_receipts_that_are_at_hand(pair, vectors):
    check = pair.check(WORDS, vectors[0])
    [wanted] = gather(
        pair, [WORDS], vectors[:1], which=["ablation", "lens", "repeats"], spared={"ablation": ["next token"]}
    )
    assert isinstance(check, Check) and receipts(check) == wanted and check.unit == "gain"
    assert [one.claim for one in check.claims] == list(claims_of(WORDS)) and check.explanation == WORDS


def test_with_a_text_its_receipts_are_there_too_of_the_position(pair, vectors):
    check = pair.check(WORDS, vectors[0], TEXT, position=8)
    ids = pair.source.tokenizer(TEXT).input_ids
    context = Context(pair.source.tokenizer.decode(ids[1:9]), pair.source.tokenizer.decode(ids[9:]), tuple(ids[:9]))
    which = ["ablation", "lens", "repeats", "in_text", "in_text_exact", "in_text_after", "model_agrees"]
    [wanted] = gather(pair, [WORDS], vectors[:1], which=which, texts=[context], spared={"ablation": ["next token"]})
    assert receipts(check) == wanted and not check.missing
    agrees = [one.get("model_agrees") for one in wanted]
    assert [one.holds for one in check.claims] == [
        supported(claim, context.before, agree and agree.value)
        for claim, agree in zip(claims_of(WORDS), agrees, strict=True)
    ]
    assert {one.holds for one in check.claims} == {True, False} and "✓" in repr(check) and "✗" in repr(check)
    assert {one.holds for one in pair.check(WORDS, vectors[0]).claims} == {None}


def test_a_list_has_a_check_each_and_a_row_for_each_claim(pair, vectors):
    checks = pair.check([WORDS, OTHER], vectors, [TEXT, "cats"])
    assert isinstance(checks, Results) and [len(one.claims) for one in checks] == [6, 3]
    table = checks.to_arrow()
    assert table.num_rows == 9 and table["row"].to_pylist() == [0] * 6 + [1] * 3
    assert table["claim"].to_pylist()[:2] == ["b", "so"] and str(table.schema.field("support").type) == "double"
    fish = checks[0].claims[3]
    assert fish.receipts["in_text"].value == 1.0 and fish.receipts["in_text"].null == 0.0  # of the other row's cats


def test_activations_bring_their_positions_and_which_text_they_are_of(pair):
    read = pair.extract([TEXT, "So it was"], [3, 5])
    checks = pair.check([WORDS] * 4, read, [TEXT, "So it was"])
    said = [
        pair.check(WORDS, read.vectors[at], text, position=place)
        for at, (text, place) in enumerate([(TEXT, 3), (TEXT, 5), ("So it was", 3), ("So it was", 5)])
    ]
    assert [[one["in_text"] for one in receipts(check)] for check in checks] == [
        [one["in_text"] for one in receipts(check)] for check in said
    ]


def test_samples_and_neighbours_are_explained_and_steering_is_tried(pair):
    read = pair.extract(TEXT, [6])
    check = pair.check(WORDS, read, TEXT, samples=2, nearby=2, steering=True)
    around = pair.extract(TEXT, [4, 5, 7, 8])
    nearby = list(pair.explain(around.vectors))
    samples = list(pair.explain(read.vectors[0], n=2, temperature=0.7))
    wanted = gather(
        pair,
        [WORDS],
        read.vectors,
        which=["recurs_nearby", "recurs_in_samples"],
        nearby=[nearby],
        samples=[samples],
    )[0]
    for found, plain in zip(receipts(check), wanted, strict=True):
        assert {name: found[name] for name in plain} == plain
    steered = pair.check(WORDS, read, TEXT, steering=True).claims[0].receipts["steering"].value
    assert steered == check.claims[0].receipts["steering"].value and math.isfinite(steered)


def test_without_an_ar_nothing_is_ablated_and_that_is_said(lora_folders, vectors):
    alone = NLAPair.from_pretrained(lora_folders["shared"] / "av")
    check = alone.check(WORDS, vectors[0])
    assert set(check.missing) == {"ablation"} and check.unit is None
    assert all("ablation" not in one for one in receipts(check)) and "lens" in receipts(check)[0]


def test_without_a_source_in_memory_there_is_no_lens_and_that_is_said(full_folder, vectors):
    pair = NLAPair.from_pretrained(full_folder)
    check = pair.check(WORDS, vectors[0], TEXT)
    assert (
        check.missing["lens"]
        == check.missing["model_agrees"]
        == ("the source model is not in memory: pair.source loads it")
    )
    assert pair.base.in_memory is None and "ablation" in receipts(check)[-1]
    _ = pair.source
    assert "lens" in receipts(pair.check(WORDS, vectors[0]))[0]


def calibrated(folder, names=("repeats", "alone")):
    """A pair with a claims.json that knows words."""
    pair = NLAPair.from_pretrained(folder)
    halves = {"av": pair.av, "ar": pair.ar}
    made_from = {
        k: v for role, half in halves.items() for k, v in half_digests(role, half.folder, half.contract).items()
    }
    weights = {name: Weight(weight=0.7, mean=0.1, std=2.0) for name in names}
    kinds = {"word": Weights(n=20, supported=8, intercept=-0.4, receipts=weights)}
    chance = {"word": {"repeats": 0.125}}
    made = Calibration(made_from=made_from, data="rows.parquet", unit="gain", kinds=kinds, chance=chance)
    made.save(folder / "av" / CLAIMS)
    return NLAPair.from_pretrained(folder), made


def test_the_probability_is_the_calibrations_and_what_it_rests_on_is_gathered(copied, vectors):
    pair, made = calibrated(copied())
    assert pair.calibration == made
    check = pair.check(WORDS, vectors[0])
    assert check.calibrated and "alone" in receipts(check)[-1]
    for one in check.claims:
        if one.claim.kind == "word":
            score = -0.4 + sum(0.7 * (one.receipts[name].value - 0.1) / 2.0 for name in ("repeats", "alone"))
            assert one.support == pytest.approx(1 / (1 + math.exp(-score))) and one.why_no_support is None
            assert one.receipts["repeats"].null == 0.125
        else:
            assert one.support is None and one.why_no_support == (
                f"claims of the kind {one.claim.kind!r} were not measured"
            )
    none = pair.check("It is so.", vectors[0])
    assert not none.calibrated and none.why_no_support == "claims of the kind 'sentence' were not measured"


def test_next_tokens_are_taken_out_only_where_their_probability_rests_on_it(copied, vectors):
    pair, made = calibrated(copied())
    kinds = [one.claim.kind for one in pair.check(WORDS, vectors[0]).claims if "ablation" in one.receipts]
    assert kinds == ["register", "word", "word", "word"]
    weights = Weights(n=20, supported=8, intercept=0.1, receipts={"ablation": Weight(weight=1.0, mean=0.0, std=1.0)})
    made.model_copy(update={"kinds": {"next token": weights}}).save(pair.av.folder / CLAIMS)
    again = NLAPair.from_pretrained(pair.av.folder.parent).check(WORDS, vectors[0])
    assert all("ablation" in one.receipts for one in again.claims) and again.claims[0].support is not None


def test_receipts_are_in_the_unit_that_the_calibration_was_fitted_in(copied, vectors):
    """The contract's own denominator of FVE is of other rows."""
    folder = copied()
    pair, made = calibrated(folder)
    alone = pair.check(WORDS, vectors[0]).claims[-1].receipts["alone"].value
    empty = 1 - metrics.cosine(pair.reconstruct(""), vectors[0])
    made.model_copy(update={"unit": "FVE", "baseline_mse": 0.125}).save(folder / "av" / CLAIMS)
    check = NLAPair.from_pretrained(folder).check(WORDS, vectors[0])
    assert check.unit == "FVE"
    assert check.claims[-1].receipts["alone"].value == pytest.approx(alone * 2 * empty / 0.125, abs=1e-5)


def test_no_probability_is_made_of_another_layer_or_what_is_not_there(copied, vectors):
    pair, _ = calibrated(copied("norms"), names=("recurs_in_samples",))
    word = pair.check(WORDS, vectors[0]).claims[-1]
    assert word.support is None and word.why_no_support == "it rests on recurs_in_samples, which this claim has not"
    assert pair.check(WORDS, vectors[0], samples=1).claims[-1].support is not None


def test_a_pair_without_calibration_says_so_and_one_with_anothers_is_refused(pair, copied, vectors):
    check = pair.check(WORDS, vectors[0])
    assert pair.calibration is None and not check.calibrated
    assert check.why_no_support.startswith("no claims.json lies beside ")
    folder = copied()
    calibrated(folder)
    with (folder / "av" / "adapter_config.json").open("a") as file:
        file.write("\n")
    other = NLAPair.from_pretrained(folder)
    with pytest.raises(MismatchedHalvesError, match="av/adapter_config.json differs"):
        other.check(WORDS, vectors[0])


def test_what_is_no_explanation_claims_nothing(pair, vectors):
    for words in ("", Explanation('"b" comes next.', status="untagged")):
        check = pair.check(words, vectors[0])
        assert check.claims == [] and check.why_no_support.startswith("the explanation claims nothing")
        assert check.explanation == words


def test_of_what_claims_nothing_no_receipt_is_missing(pair, vectors):
    check = pair.check("", vectors[0], TEXT)
    assert not check.claims and check.missing == {} and check.why_no_support == "the explanation claims nothing"


def test_a_check_reads_as_lines_and_as_a_table_with_reasons(pair, vectors):
    check = pair.check(WORDS, vectors[0], TEXT)
    lines = repr(check).splitlines()
    assert len(lines) == 1 + 6 + 1 and lines[-1].startswith("  [no support: no claims.json")
    assert check.reason(3) == check.reason(check.claims[3]) and check.reason(3) in lines[4]
    assert check.reason(3).startswith("The text has it word for word; the vector itself gives it ")
    markup = pair.check("<b>is</b> so.", vectors[0])._repr_html_()
    assert "&lt;b&gt;" in markup and "<b>" not in markup
    assert check._repr_html_().count("<tr>") == 7


def test_numbers_that_do_not_match_and_what_is_no_activation_are_refused(pair, lora_folders, vectors):
    with pytest.raises(InputError, match="1 explanations and 2 activations; expected as many"):
        pair.check(WORDS, vectors)
    with pytest.raises(InputError, match="3 positions and 2 activations"):
        pair.check([WORDS, OTHER], vectors, TEXT, position=[1, 2, 3])
    with pytest.raises(InputError, match="nearby=1 needs the text"):
        pair.check(WORDS, vectors[0], nearby=1)
    with pytest.raises(InputError, match="meaning is a int; expected a SentenceTransformer"):
        pair.check(WORDS, vectors[0], meaning=3)
    with pytest.raises(InputError, match="dictionary is a int; expected directions"):
        pair.check(WORDS, vectors[0], dictionary=3)
    with pytest.raises(InputError, match="explanation is a NoneType; expected an explanation"):
        pair.check(None, vectors[0])
    with pytest.raises(InputError, match="One of the explanations is a NoneType"):
        pair.check([WORDS, None], vectors)
    from nla_sdk import Vectors

    with pytest.raises(InputError, match="These are directions, which no text says anything of"):
        pair.check(WORDS, Vectors(vectors[:1], "direction", pair.layer))
    only_ar = NLAPair.from_pretrained(None, lora_folders["shared"] / "ar")
    with pytest.raises(MissingHalfError, match="AV"):
        only_ar.check(WORDS, vectors[0], samples=1)
    assert "ablation" in receipts(only_ar.check(WORDS, vectors[0]))[-1]


def test_a_check_can_be_called_off(pair, vectors):
    off = Event()
    off.set()
    with pytest.raises(CancelledCallError):
        pair.check(WORDS, torch.clone(vectors[0]), cancel=off)
