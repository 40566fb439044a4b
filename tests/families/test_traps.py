"""Where a generic loader goes wrong without an error though nothing is unstated: refused, or the right result."""

from __future__ import annotations

import copy

import pytest
import torch
from safetensors.torch import load_file, save_file

from nla_sdk import NLAPair
from nla_sdk.errors import (
    AdapterMismatchError,
    ContractMismatchError,
    HeadError,
    InjectionError,
    NLAError,
    NonFiniteWeightsError,
    UnseenValueError,
    UnstatedFactError,
)
from tests import tiny

from . import layouts, plain, templates
from .bases import D, tokens_of
from .family import load, without
from .layouts import LAYER

pytestmark = pytest.mark.filterwarnings("ignore::nla_sdk.errors.UnmatchedPairWarning")
WHOLE_ARS = ["kitft on Qwen", "nanoNLA merged"]


# --- an adapter attached to nothing ---------------------------------------------------------------------------------
def test_an_adapter_of_the_model_inside_a_multimodal_wrapper_finds_its_modules(copied, loaded):
    folder, found = copied("EasyNLA with the norm kept", "av")
    tiny.rename_tensors(folder, lambda key: key.replace("model.model.layers", "model.model.language_model.layers"))
    pair = NLAPair.from_pretrained(folder, contract=found.contract)
    vectors, expected = found.clear_rows()
    assert list(pair.explain(vectors)) == expected


def test_an_adapter_none_of_whose_tensors_has_a_place_is_refused(copied):
    folder, found = copied("EasyNLA with the norm kept", "av")
    tiny.rename_tensors(folder, lambda key: key.replace("self_attn", "attention").replace("mlp", "feed_forward"))
    with pytest.raises(AdapterMismatchError):
        NLAPair.from_pretrained(folder, contract=found.contract)


def test_an_ar_file_whose_tensors_have_no_place_is_refused(copied):
    folder, found = copied("EasyNLA with the norm kept", "ar")
    file = folder / "ar_lora_value_head.safetensors"
    renamed = {key.replace("layers.0.", "layers.99."): tensor for key, tensor in load_file(file).items()}
    save_file(renamed, file)
    with pytest.raises(AdapterMismatchError):
        NLAPair.from_pretrained(None, folder, contract=found.contract)


# --- the final norm -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["nanoNLA merged", "Solshine"])
def test_an_ar_of_which_nobody_says_whether_its_final_norm_stays_is_refused(name, family):
    found = family(name)
    stated = found.contract | {"ar": without(found.stated["ar"], "final_norm")}
    with pytest.raises(UnstatedFactError, match=r"`ar\.final_norm` is not stated.*dropped \(.*--contract"):
        NLAPair.from_pretrained(None, found.halves["ar"], contract=stated)


@pytest.mark.parametrize("name", ["kitft on Qwen", "kitft on Gemma 3", "achand45 whole AR"])
def test_an_ar_whose_file_holds_no_final_norm_has_none_though_nobody_says_it(name, family):
    found, texts = family(name), templates.TEXTS
    stated = found.contract | {"ar": without(found.stated["ar"], "final_norm")}
    pair = NLAPair.from_pretrained(None, found.halves["ar"], contract=stated)
    assert plain.distance(pair.reconstruct(texts), found.ar(texts)) < 1e-4


@pytest.mark.parametrize("name", WHOLE_ARS)
def test_a_norm_kept_and_a_norm_dropped_are_other_vectors_so_neither_is_a_default(name, family, loaded):
    found, texts = family(name), templates.TEXTS
    other = {"kept": "dropped", "dropped": "kept"}[found.stated["ar"]["final_norm"]]
    try:
        wrong = load(found, ar=found.stated["ar"] | {"final_norm": other}).reconstruct(texts)
    except NLAError as refused:  # there is none in the file to be kept
        assert "norm" in str(refused)
    else:
        assert plain.distance(wrong, found.ar(texts)) > 1e-2


def test_an_ar_without_a_norm_in_its_file_is_read_alike_each_time_it_is_loaded(family):
    first, again = (load(family("kitft on Qwen")).reconstruct(templates.TEXTS) for _ in range(2))
    assert torch.equal(first, again)


# --- BOS ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "count"),
    [(name, 1) for name in ("kitft on Llama", "kitft on Gemma 3", "EasyNLA with the norm kept", "Solshine")]
    + [(name, 0) for name in ("nla-at-home single layer", "nla-at-home universal", "kitft on Qwen")],
)
def test_an_av_prompt_begins_with_bos_as_often_as_in_training(name, count, loaded):
    verbalizer = loaded(name).verbalizer
    bos = verbalizer.backbone.tokenizer.bos_token_id
    assert verbalizer.prompt_ids.count(bos) == count and (verbalizer.prompt_ids[0] == bos) == bool(count)


def test_an_ar_with_and_without_bos_gives_other_vectors_and_each_as_stated(family, loaded):
    found, texts = family("EasyNLA with the norm kept"), templates.TEXTS
    with_bos = load(found, ar=found.stated["ar"] | {"bos": True})
    assert plain.distance(loaded("EasyNLA with the norm kept").reconstruct(texts), found.ar(texts)) < 1e-4
    assert plain.distance(with_bos.reconstruct(texts), found.ar(texts)) > 1e-2


def test_bos_that_the_chat_template_writes_cannot_be_stated_away(family):
    with pytest.raises(ContractMismatchError, match="`bos` is false, but the tokenizer's chat template writes BOS"):
        load(family("kitft on Llama"), bos=False)


def test_whether_a_raw_prompt_begins_with_bos_is_refused_until_it_is_stated(family):
    found = family("Solshine")
    with pytest.raises(UnstatedFactError, match="`bos` is not stated"):
        NLAPair.from_pretrained(found.halves["av"], contract=without(found.contract, "bos") | {"role": "av"})


def test_whether_an_ar_prompt_begins_with_bos_is_refused_until_it_is_stated(family):
    found = family("EasyNLA with the norm kept")
    stated = found.contract | {"ar": without(found.stated["ar"], "bos")}
    with pytest.raises(UnstatedFactError, match=r"`ar\.bos` is not stated"):
        NLAPair.from_pretrained(None, found.halves["ar"], contract=stated)


# --- the marker -----------------------------------------------------------------------------------------------------
def test_a_marker_that_is_several_tokens_is_refused(family):
    found = family("olens")
    assert len(tokens_of("qwen3.6")("㈀", add_special_tokens=False).input_ids) > 1
    with pytest.raises(ContractMismatchError, match=r"The marker '㈀' is \d tokens, not one"):
        load(found, injection_char="㈀")


def test_a_marker_that_stands_in_the_prompt_twice_is_refused(family):
    found = family("olens")
    with pytest.raises(NLAError, match="㈜"):
        load(found, av_template="Not this ㈜ but that: " + found.stated["av_template"])


def test_a_marker_with_another_models_id_is_refused(family):
    with pytest.raises(ContractMismatchError, match="The marker '㈜' is another token"):
        load(family("olens"), injection_token_id=7)


# --- a corrupt head -------------------------------------------------------------------------------------------------
def corrupt(folder, rows: slice, value: float) -> None:
    weight = load_file(folder / "value_head.safetensors")["weight"]
    weight[rows] = value
    save_file({"weight": weight}, folder / "value_head.safetensors")


def test_a_head_half_of_whose_rows_are_nan_is_refused_with_its_file(copied):
    folder, found = copied("kitft on Qwen", "ar")
    corrupt(folder, slice(None, D // 2), float("nan"))
    with pytest.raises(NonFiniteWeightsError, match=r"value_head\.safetensors"):
        NLAPair.from_pretrained(None, folder, contract=found.contract)


def test_a_head_with_numbers_near_the_end_of_floats_gives_an_error_not_a_score(copied):
    folder, found = copied("kitft on Qwen", "ar")
    corrupt(folder, slice(None, D // 2), 3e38)
    with pytest.raises(HeadError, match=r"value_head\.safetensors: weight reaches 3e\+38, in 32 of 64 rows"):
        NLAPair.from_pretrained(None, folder, contract=found.contract).reconstruct(templates.TEXTS)


# --- outputs --------------------------------------------------------------------------------------------------------
def test_an_output_that_nothing_but_the_budget_ends_is_whole_and_one_that_should_have_ended_is_cut(family, loaded):
    vectors, _ = family("syvb bullets").clear_rows()
    lines = loaded("syvb bullets").explain(vectors)
    assert all(line.status in ("ok", "empty") and line.tokens <= 9 for line in lines)
    assert max(line.tokens for line in lines) == 9
    cut = load(family("syvb bullets"), output={"form": "lines", "stop": "eos"}).explain(vectors)
    open_ended = [line for line in cut if line.tokens == 9 and plain.CLOSE not in line.raw]
    assert open_ended and {line.status for line in open_ended} <= {"truncated", "empty"}


def test_an_output_without_the_tags_it_was_trained_to_write_is_told_from_content(family, loaded):
    vectors, _ = family("syvb list by the tagged prompt").clear_rows()
    tagged = load(family("syvb list by the tagged prompt"), output={"form": "tagged"}).explain(vectors)
    untagged = [one for one in tagged if "<explanation>" not in one.raw and one]
    assert untagged and {one.status for one in untagged} == {"untagged"}
    assert {one.status for one in loaded("syvb list by the tagged prompt").explain(vectors)} <= {"ok", "empty"}


# --- what was never trained -----------------------------------------------------------------------------------------
def test_a_percent_that_was_never_trained_is_refused_or_becomes_the_nearest_that_was(family, loaded):
    found = family("nla-at-home universal")
    vectors, expected = found.clear_rows()
    assert list(loaded("nla-at-home universal").explain(vectors, layer=LAYER)) == expected
    exact = {"depth": {"rule": "start", "values": [10, 25, 47, 63]}}
    with pytest.raises(UnseenValueError, match=r"depth '40' was never trained; expected one of 10, 25, 47, 63"):
        load(found, fields=exact).explain(vectors, layer=LAYER)


@pytest.mark.parametrize("name", ["olens", "oracle with one vector"])
def test_a_layer_that_was_never_trained_is_refused(name, family, loaded):
    vectors, _ = family(name).clear_rows()
    call = (
        loaded(name).explain if name == "olens" else lambda rows, layer: loaded(name).ask(rows[0], "Who?", layer=layer)
    )
    with pytest.raises(UnseenValueError, match=r"layer 4 was never trained; it reads 1, 2, 3"):
        call(vectors, layer=4)


def test_a_layer_without_a_head_of_its_own_is_refused(loaded):
    with pytest.raises(UnseenValueError, match="layer 0"):
        loaded("nla-at-home universal").reconstruct("a cat", layer=0)


def test_a_model_tag_that_was_never_trained_is_refused(family):
    with pytest.raises(NLAError, match="tiny-unheard-of"):
        fields = {"model_tag": {"values": ["tiny-other"], "default": "tiny-unheard-of"}}
        load(family("linear maps"), fields=fields)


# --- a hook that never fires ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["nanoNLA merged", "oracle with one vector", "oracle that replaces"])
def test_a_block_that_the_model_does_not_run_is_noticed_at_the_first_vector(name, family, monkeypatch):
    found = family(name)
    pair, (vectors, _) = load(found), found.clear_rows()
    pair.check_activations(vectors.flatten(0, -2))  # the base's statistics are measured with its own blocks
    backbone = pair.verbalizer.backbone
    elsewhere = copy.deepcopy(list(backbone.blocks))  # as of a wrapper's other copy of the model
    monkeypatch.setattr(backbone, "blocks", elsewhere)
    with pytest.raises(InjectionError):
        found.explain(pair, vectors)


@pytest.mark.parametrize("name", ["olens", "Solshine"])
def test_an_adapter_that_takes_the_embedding_out_of_the_path_still_lets_the_vector_in(name, family, tmp_path):
    found = family(name)
    base = found.notes["base"]
    av = layouts.with_embedding(layouts.lora(tmp_path / "av", base, seed=191), base, seed=192)
    pair = NLAPair.from_pretrained(av, contract=found.contract | {"role": "av"})
    assert len(set(pair.explain(found.clear_rows()[0]))) > 1
