"""A pair of LoRA adapters on a tiny Gemma 4 gives what a straightforward computation gives."""

from __future__ import annotations

import importlib.util
import math
import shutil
import warnings

import pytest
import torch
from safetensors.torch import save_file

from nla_sdk import NLAPair, metrics
from nla_sdk.errors import (
    InputError,
    MismatchedHalvesError,
    MissingHalfError,
    NonFiniteActivationError,
    PrecisionWarning,
    TruncatedExplanationWarning,
    UnmatchedPairWarning,
)
from nla_sdk.model.decoding import writing
from tests import reference, tiny
from tests.conftest import DEPTHS

TEXTS = [
    "The cat sat on the mat.",
    "Go",
    "In 1492 a fleet of three ships left for the west, and nobody on board knew how far it was.",
    "{braces} and % signs, \n new lines",
]
EXPLANATIONS = ["", "a cat", "x" * 150, "An old {sailor} tells of his ships. " * 3, "</text> <summary>"]
needs_bitsandbytes = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed"
)
precisions = pytest.mark.parametrize("quantization", [None, pytest.param("nf4", marks=needs_bitsandbytes)])
depths = pytest.mark.parametrize("depth", DEPTHS)


def vectors(count: int, seed: int = 5) -> torch.Tensor:
    return tiny.random(count, tiny.D_MODEL, seed=seed, scale=4.0)


def by_hand(pair, folder, base, rows, quantization=None, steps=12) -> list[str]:
    """Explanations by full forwards; `rows` are what is injected, before scaling."""
    model, tokenizer = reference.load(base, folder / "av", quantization), pair.source.tokenizer
    prompt, marker = reference.av_prompt(tokenizer), tokenizer.convert_tokens_to_ids(tiny.MARKER)
    written = [reference.write(model, prompt, marker, reference.scaled(row), steps) for row in rows]
    return [tokenizer.decode(tokens, skip_special_tokens=True).strip() for tokens in written]


# --- against the straightforward computation ----------------------------------------------------------------------
@precisions
def test_explain_equals_full_forwards_with_the_embedding_overwritten(lora_pair, lora_folders, gemma_base, quantization):
    pair, rows = lora_pair("shared", quantization), vectors(4)
    explanations = pair.explain(rows)
    assert explanations == by_hand(pair, lora_folders["shared"], gemma_base, rows, quantization)
    assert len(set(explanations)) == len(rows), "the vector must matter"


@precisions
def test_the_first_logits_equal_those_of_a_full_forward(lora_pair, lora_folders, gemma_base, quantization, monkeypatch):
    pair, rows = lora_pair("shared", quantization), vectors(3)
    seen, choose = [], writing.draw
    monkeypatch.setattr(writing, "draw", lambda logits, *rest: seen.append(logits) or choose(logits, *rest))
    pair.explain(rows, max_new_tokens=1)
    model, tokenizer = reference.load(gemma_base, lora_folders["shared"] / "av", quantization), pair.source.tokenizer
    prompt, marker = reference.av_prompt(tokenizer), tokenizer.convert_tokens_to_ids(tiny.MARKER)
    expected = torch.stack([reference.logits(model, prompt, marker, reference.scaled(row)) for row in rows])
    assert reference.distance(seen[0], expected) < 1e-4


@precisions
@depths
def test_reconstruct_equals_the_head_on_the_hidden_state_of_the_last_token(
    lora_pair, lora_folders, gemma_base, depth, quantization
):
    pair, folder = lora_pair(depth, quantization), lora_folders[depth] / "ar"
    model, head = reference.load(gemma_base, folder, quantization), torch.load(folder / "linear_head.pt")
    prompts = [reference.ar_prompt(pair.source.tokenizer, text) for text in EXPLANATIONS]
    expected = torch.stack([reference.reconstruct(model, ids, DEPTHS[depth][1], head) for ids in prompts])
    found = pair.reconstruct(EXPLANATIONS)
    assert found.dtype == torch.float32
    assert reference.distance(found, expected) < 1e-4


@precisions
@pytest.mark.parametrize("layer", range(tiny.GEMMA_BLOCKS))
def test_extract_equals_the_hidden_states_of_the_bare_base(lora_pair, gemma_base, layer, quantization):
    pair = lora_pair("shared", quantization)
    model, tokenizer = reference.load(gemma_base, None, quantization), pair.source.tokenizer
    rows = [tokenizer("<bos>" + text, add_special_tokens=False).input_ids for text in TEXTS]
    acts = pair.extract(TEXTS, "all", layer=layer)
    assert reference.distance(acts.vectors, torch.cat([reference.states(model, ids, layer) for ids in rows])) < 1e-4
    assert acts.positions == [position for ids in rows for position in range(len(ids))]
    assert acts.texts == [text for text, ids in enumerate(rows) for _ in ids]
    assert "".join(acts.tokens) == "".join("<bos>" + text for text in TEXTS)
    assert torch.equal(acts.norms, acts.vectors.norm(dim=-1))
    assert (acts.layer, len(acts)) == (layer, len(acts.vectors))


def test_extract_reads_the_layer_of_the_contract_at_the_last_token_by_default(pair):
    everywhere = pair.extract(TEXTS[0], "all", layer=DEPTHS["shared"][0])
    assert reference.distance(pair.extract(TEXTS[0]).vectors, everywhere.vectors[-1:]) < 1e-5
    chosen = pair.extract(TEXTS[0], [0, -2, 3])
    assert chosen.positions == [0, len(everywhere) - 2, 3]
    assert reference.distance(chosen.vectors, everywhere.vectors[chosen.positions]) < 1e-5


def test_norms_in_modules_to_save_act_in_the_av_and_nowhere_else(lora_pair, lora_folders, gemma_base):
    plain, pair, rows = lora_pair("shared"), lora_pair("norms"), vectors(3)
    assert pair.explain(rows) == by_hand(pair, lora_folders["norms"], gemma_base, rows)
    assert pair.explain(rows) != plain.explain(rows)
    for other in ("extract", "reconstruct"):
        ours, theirs = getattr(pair, other)(TEXTS), getattr(plain, other)(TEXTS)
        torch.testing.assert_close(getattr(ours, "vectors", ours), getattr(theirs, "vectors", theirs), rtol=0, atol=0)


def test_a_centred_pair_subtracts_the_mean_and_adds_it_again(lora_pair, lora_folders, gemma_base):
    pair, folder, rows = lora_pair("centred"), lora_folders["centred"], vectors(3)
    mean = tiny.random(tiny.D_MODEL, seed=77, scale=3.0)
    assert pair.explain(rows) == by_hand(pair, folder, gemma_base, rows - mean)
    model, head = reference.load(gemma_base, folder / "ar"), torch.load(folder / "ar" / "linear_head.pt")
    ids = reference.ar_prompt(pair.source.tokenizer, "a cat")
    output = reference.reconstruct(model, ids, DEPTHS["shared"][1], head)
    assert reference.distance(pair.reconstruct("a cat"), mean + 20.0 * output / output.norm()) < 1e-4


# --- round trips --------------------------------------------------------------------------------------------------
def test_a_round_trip_is_explain_then_reconstruct_and_its_score_is_of_raw_directions(lora_pair):
    pair, row = lora_pair("centred"), vectors(1)[0]
    trip = pair.round_trip(row)
    assert trip.explanation == pair.explain(row)
    torch.testing.assert_close(trip.reconstruction, pair.reconstruct(trip.explanation))
    a, b = trip.reconstruction.double().tolist(), row.double().tolist()
    dot, norms = sum(x * y for x, y in zip(a, b, strict=True)), math.hypot(*a) * math.hypot(*b)
    assert trip.cosine == pytest.approx(dot / norms, abs=1e-9)
    assert trip.mse == pytest.approx(2 - 2 * dot / norms, abs=1e-9)
    assert trip.fve == pytest.approx(1 - trip.mse / 1.5, abs=1e-9)
    assert (trip.matched, trip.status) == (True, "truncated")
    assert torch.equal(trip.activation, row)
    assert pair.score(trip.explanation, row).cosine == pytest.approx(trip.cosine, abs=1e-6)


def test_a_text_makes_a_round_trip_from_its_last_token(pair):
    trip = pair.round_trip(TEXTS[0])
    assert torch.equal(trip.activation, pair.extract(TEXTS[0]).vectors[0])
    trips = pair.round_trip(TEXTS[:2])
    assert [one.explanation for one in trips] == pair.explain(pair.extract(TEXTS[:2]).vectors)
    assert trip.fve is None, "this contract has no baseline_mse"


def test_scores_go_text_by_text_or_one_against_all(pair):
    rows = vectors(3)
    assert [type(one).__name__ for one in pair.score(["a", "b", "c"], rows)] == ["Score"] * 3
    one_for_all = pair.score("a", rows)
    assert [one.cosine for one in one_for_all] == pytest.approx([pair.score("a", row).cosine for row in rows], abs=1e-6)
    assert len(pair.score(["a", "b"], rows[0])) == 2
    with pytest.raises(InputError, match="2 explanations and 3 activations; expected as many of each"):
        pair.score(["a", "b"], rows)


def test_metrics_and_the_pair_share_one_definition(pair):
    row = vectors(1)[0]
    score = pair.score("a cat", row)
    assert score.mse == metrics.direction_mse(pair.reconstruct("a cat"), row)


# --- batches ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("quantization", "count"), [(None, 32), pytest.param("nf4", 8, marks=needs_bitsandbytes)])
def test_a_batch_of_32_vectors_is_explained_as_32_single_vectors_are(lora_pair, quantization, count):
    pair, rows = lora_pair("shared", quantization), vectors(count, seed=6)
    assert pair.explain(rows, max_new_tokens=6) == [pair.explain(row, max_new_tokens=6) for row in rows]


@precisions
def test_a_batch_of_32_explanations_of_very_different_lengths_gives_what_32_single_ones_give(lora_pair, quantization):
    pair = lora_pair("shared", quantization)
    texts = ["The ship sails. " * (at % 8) * (at % 5) + "end"[: at % 4] for at in range(32)]
    singles = torch.stack([pair.reconstruct(text) for text in texts])
    assert reference.distance(pair.reconstruct(texts), singles) < 1e-4


@precisions
def test_a_batch_of_32_texts_gives_the_activations_of_32_single_ones(lora_pair, quantization):
    pair = lora_pair("shared", quantization)
    texts = ["The ship sails. " * (at % 8) + f"Day {at}." for at in range(32)]
    singles = torch.cat([pair.extract(text, [0, -1]).vectors for text in texts])
    assert reference.distance(pair.extract(texts, [0, -1]).vectors, singles) < 1e-4


def test_batches_that_do_not_fit_at_once_keep_their_order(pair, monkeypatch):
    texts, rows = ["a b c d e f " * at for at in range(9)], vectors(9)
    explanations, reconstructions, acts = pair.explain(rows), pair.reconstruct(texts), pair.extract(["x", *texts[1:]])
    monkeypatch.setattr("nla_sdk.model.verbalizer.ROWS_PER_BATCH", 4)
    monkeypatch.setattr("nla_sdk.model.batches.TOKENS_PER_BATCH", 100)
    done = []
    assert pair.explain(rows, progress=done.append) == explanations
    assert sum(done) == 9
    assert reference.distance(pair.reconstruct(texts), reconstructions) < 1e-4
    assert reference.distance(pair.extract(["x", *texts[1:]]).vectors, acts.vectors) < 1e-4


# --- long explanations --------------------------------------------------------------------------------------------
def test_a_too_long_explanation_is_cut_with_a_warning_and_the_suffix_stays(copied):
    folder = copied()
    tiny.write_sidecar(folder / "ar", max_length=60)
    pair = NLAPair.from_pretrained(folder)
    short = "b" * 7
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pair.reconstruct(short)
    room = 60 - len(reference.ar_prompt(pair.source.tokenizer, ""))
    with pytest.warns(
        TruncatedExplanationWarning, match=r"1 of 2 explanations \(first: row 1\).*max_length 60"
    ) as caught:
        found = pair.reconstruct([short, "b" * 300])
    assert caught[0].filename == __file__
    assert reference.distance(found, pair.reconstruct([short, "b" * room])) < 1e-4


# --- halves -------------------------------------------------------------------------------------------------------
def test_one_half_alone_works_and_what_needs_the_other_says_why(lora_folders, pair):
    rows = vectors(2)
    av = NLAPair.from_pretrained(lora_folders["shared"] / "av")
    assert av.explain(rows) == pair.explain(rows)
    with pytest.raises(
        MissingHalfError, match=r"reconstruct needs an AR, and this pair has none: .*av names no AR.*pass ar="
    ):
        av.reconstruct("a cat")
    with pytest.raises(MissingHalfError, match="round_trip needs an AR"):
        av.round_trip(rows)
    ar = NLAPair.from_pretrained(None, lora_folders["shared"] / "ar")
    torch.testing.assert_close(ar.reconstruct("a cat"), pair.reconstruct("a cat"))
    torch.testing.assert_close(ar.extract("a cat").vectors, pair.extract("a cat").vectors)
    with pytest.raises(
        MissingHalfError, match=r"explain needs an AV, and this pair has none: .*ar names no AV.*pass av="
    ):
        ar.explain(rows)


def test_the_other_half_is_found_by_its_name_next_to_the_first(tmp_path, lora_folders, pair):
    for half in ("av", "ar"):
        (tmp_path / f"tiny-{half}-v1").symlink_to(lora_folders["shared"] / half, target_is_directory=True)
    found = NLAPair.from_pretrained(tmp_path / "tiny-av-v1")
    torch.testing.assert_close(found.reconstruct("a cat"), pair.reconstruct("a cat"))


def test_halves_that_do_not_name_each_other_load_with_a_warning_and_their_scores_say_so(copied):
    folder = copied()
    tiny.write_sidecar(folder / "ar", provenance={"pair_id": "another run"})
    with pytest.warns(UnmatchedPairWarning, match="do not name each other as partners") as caught:
        pair = NLAPair.from_pretrained(folder / "av", folder / "ar")
    assert caught[0].filename == __file__
    assert not pair.matched
    assert not pair.round_trip(vectors(1)[0]).matched
    assert not pair.score("a", vectors(1)[0]).matched


# --- saving -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["norms", "centred"])
def test_a_saved_pair_loads_from_its_folder_and_gives_identical_results(tmp_path, lora_pair, name):
    pair, row = lora_pair(name), vectors(1)[0]
    assert pair.save_pretrained(tmp_path / "saved") == tmp_path / "saved"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = NLAPair.from_pretrained(tmp_path / "saved")
    one, two = pair.round_trip(row), again.round_trip(row)
    assert (one.raw, one.cosine, one.fve, one.matched) == (two.raw, two.cosine, two.fve, two.matched)
    assert torch.equal(one.reconstruction, two.reconstruction)
    assert again.av_contract.to_dict() == pair.av_contract.to_dict()
    assert sorted(path.name for path in (tmp_path / "saved").iterdir()) == ["ar", "av"], "no temporary folder is left"
    again.save_pretrained(tmp_path / "again")
    with pytest.raises(InputError, match="is where this pair was loaded from; save it elsewhere"):
        again.save_pretrained(tmp_path / "saved")


def test_halves_that_named_each_other_still_do_once_they_are_saved_elsewhere(tmp_path, copied):
    folder = copied()
    for half in ("av", "ar"):
        tiny.write_sidecar(folder / half, "provenance")
        (folder / half).rename(folder / f"lm-{half}")  # now each is the other's likely name
    pair = NLAPair.from_pretrained(folder / "lm-av", folder / "lm-ar")
    assert pair.matched
    pair.save_pretrained(tmp_path / "saved")
    assert NLAPair.from_pretrained(tmp_path / "saved").matched


def test_saving_a_mixed_pair_does_not_make_it_a_matched_one(tmp_path, copied):
    folder = copied()
    tiny.write_sidecar(folder / "ar", "provenance")
    with pytest.warns(UnmatchedPairWarning):
        NLAPair.from_pretrained(folder).save_pretrained(tmp_path / "saved")
    with pytest.warns(UnmatchedPairWarning):
        assert not NLAPair.from_pretrained(tmp_path / "saved").matched


def test_a_saved_single_half_loads_from_its_folder(tmp_path, lora_folders):
    NLAPair.from_pretrained(None, lora_folders["shared"] / "ar").save_pretrained(tmp_path / "saved")
    again = NLAPair.from_pretrained(tmp_path / "saved")
    assert again.reconstruct("a cat").shape == (tiny.D_MODEL,)
    assert again.av_contract is None


# --- precision ----------------------------------------------------------------------------------------------------
def test_another_precision_than_the_one_trained_on_warns_once(copied):
    folder = copied()
    tiny.write_sidecar(folder / "av", extraction_precision="bfloat16")
    pair = NLAPair.from_pretrained(folder)
    with pytest.warns(
        PrecisionWarning, match="runs in float32; the pair was trained on activations read in bfloat16"
    ) as caught:
        pair.extract("a cat")
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pair.extract("a cat")


@needs_bitsandbytes
def test_quantization_auto_is_what_the_contract_says(copied):
    folder = copied()
    tiny.write_sidecar(folder / "ar", quantization="nf4", extraction_precision="nf4")
    pair = NLAPair.from_pretrained(folder)
    assert pair.source.quantization == "nf4"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pair.extract("a cat")
    assert NLAPair.from_pretrained(folder, quantization=None).source.quantization is None


# --- what a pair says of itself -----------------------------------------------------------------------------------
def test_a_pair_reads_as_two_lines(pair):
    first, second = repr(pair).splitlines()
    assert first.startswith("NLAPair(av='") and first.endswith("/ar',")
    assert second.endswith(f", d_model {tiny.D_MODEL}, float32 on cpu)") and "layer 4 of " in second
    assert "<table>" in pair._repr_html_()


def test_the_halves_and_the_place_of_the_base_are_public(pair, lora_folders, gemma_base):
    assert (pair.av.folder, pair.ar.folder) == (lora_folders["shared"] / "av", lora_folders["shared"] / "ar")
    assert (pair.av.role, pair.ar.role, pair.missing) == ("av", "ar", "")
    assert pair.base_path == gemma_base


def test_explanations_know_how_they_were_written(pair):
    rows = vectors(2)
    written = pair.explain(rows, max_new_tokens=3)
    assert [(one.status, one.tokens, one.score) for one in written] == [("truncated", 3, None)] * 2
    assert written[0].raw.startswith(written[0][:1]) and type(pair.explain(rows, n=2)[0][0]) is type(written[0])
    assert written.to_arrow()["tokens_written"].to_pylist() == [3, 3]


def test_an_activation_of_a_text_that_is_not_finite_is_refused_like_any_other(pair, monkeypatch):
    broken = pair.extract(TEXTS[:2])
    broken.vectors[1, 3] = math.inf
    monkeypatch.setattr(type(pair), "_extract", lambda self, text, positions, layer: broken)
    with pytest.raises(NonFiniteActivationError, match="The activation in row 1 holds NaN or infinity"):
        pair.round_trip(TEXTS[:2])


def test_halves_that_name_each_other_and_are_centred_by_two_means_are_refused(lora_folders, tmp_path):
    folder = shutil.copytree(lora_folders["shared"], tmp_path / "pair")
    mean = tiny.random(tiny.D_MODEL, seed=3, scale=2.0)
    tiny.centre(folder, mean, 5.0, 0.3)
    NLAPair.from_pretrained(folder)
    save_file({"mean": mean * 1.05}, folder / "ar" / "activation_mean.safetensors")
    with pytest.raises(MismatchedHalvesError, match="activation means differ by 5%"):
        NLAPair.from_pretrained(folder)
