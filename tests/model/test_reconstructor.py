"""ARs of every make give what a plain computation with transformers gives: norm, state, position, blocks, heads."""

from __future__ import annotations

import functools
import json
import math
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from nla_sdk import NLAPair
from nla_sdk.contract import Contract
from nla_sdk.errors import (
    ContractError,
    HeadError,
    LoadError,
    MissingMeanError,
    UnseenValueError,
    UnstatedFactError,
)
from nla_sdk.model.weights.heads import read_heads
from nla_sdk.model.weights.transforms import Transform
from tests import tiny
from tests.model import ars
from tests.model.ars import ALPHA, BLOCKS, LAYER, RANK, TEXTS, Base, D, Plain, square


@pytest.fixture(scope="module", params=list(ars.CONFIGS))
def base(request, tmp_path_factory) -> Base:
    return Base.make(request.param, tmp_path_factory.mktemp(request.param) / "base")


@pytest.fixture(scope="module")
def llama(tmp_path_factory) -> Base:
    return Base.make("llama", tmp_path_factory.mktemp("alone") / "base")


def same(folder, base: Base, plain: Plain, **stated) -> NLAPair:
    """The AR in a folder gives the plain computation's directions, in a batch and alone."""
    pair = NLAPair.from_pretrained(None, folder, **stated)
    together = pair.reconstruct(TEXTS)
    near(together, torch.stack([plain(base, text) for text in TEXTS]))
    for row in (0, 7):
        near(pair.reconstruct(TEXTS[row]), together[row])
    return pair


def near(made: torch.Tensor, wanted: torch.Tensor) -> None:
    """Each vector within 1e-4 of the wanted one's length."""
    assert made.shape == wanted.shape
    distance = (made - wanted).norm(dim=-1) / wanted.norm(dim=-1)
    assert float(distance.max()) < 1e-4, distance


# --- whole checkpoints ---------------------------------------------------------------------------------------------
def test_a_checkpoint_cut_before_its_final_norm_uses_none(base, tmp_path):
    model = ars.write_full(tmp_path / "ar", base, blocks=LAYER + 1, norm=False)
    save_file({"weight": square(1)}, tmp_path / "ar" / "value_head.safetensors")
    # Nobody says it: the files do.
    ars.sidecar(tmp_path / "ar", base, ar={"final_norm": None}, ar_num_blocks=None)
    pair = same(tmp_path / "ar", base, Plain(weight=square(1), model=model))
    assert pair.ar_contract.ar_final_norm == "dropped" and pair.ar_contract.ar_num_blocks == LAYER + 1


def test_a_checkpoint_whose_norm_is_kept_uses_that_of_its_own_file(base, tmp_path):
    model = ars.write_full(tmp_path / "ar", base, blocks=LAYER + 1, norm=True)
    save_file({"weight": square(2, torch.bfloat16)}, tmp_path / "ar" / "value_head.safetensors")
    ars.sidecar(tmp_path / "ar", base, ar={"final_norm": "kept", "state": "sqrt_d", "bos": False})
    plain = Plain(weight=square(2, torch.bfloat16), norm=True, sqrt_d=True, bos=False, model=model)
    same(tmp_path / "ar", base, plain)


def test_a_norm_that_was_dropped_is_not_applied_though_the_file_has_one(base, tmp_path):
    model = ars.write_full(
        tmp_path / "ar", base, blocks=4, norm=True
    )  # more blocks than the layer needs, as row 25 has
    save_file({"weight": square(3)}, tmp_path / "ar" / "value_head.safetensors")
    ars.sidecar(tmp_path / "ar", base, ar={"state": "sqrt_d"}, ar_num_blocks=4)
    same(tmp_path / "ar", base, Plain(blocks=4, weight=square(3), sqrt_d=True, model=model))


def test_a_norm_that_is_kept_and_absent_from_the_file_is_refused(llama, tmp_path):
    ars.write_full(tmp_path, llama, blocks=LAYER + 1, norm=False)
    save_file({"weight": square(1)}, tmp_path / "value_head.safetensors")
    ars.sidecar(tmp_path, llama, ar={"final_norm": "kept"})
    with pytest.raises(
        LoadError, match="holds 3 blocks and no final norm, and its contract says `ar.final_norm: kept`"
    ):
        NLAPair.from_pretrained(None, tmp_path)


def test_a_norm_of_which_nobody_says_whether_it_was_kept_is_never_guessed(llama, tmp_path):
    ars.write_full(tmp_path, llama, blocks=LAYER + 1, norm=True)
    save_file({"weight": square(1)}, tmp_path / "value_head.safetensors")
    ars.sidecar(tmp_path, llama, ar={"final_norm": None}, ar_num_blocks=None, critic={"num_hidden_layers": LAYER})
    with pytest.raises(UnstatedFactError, match=r"`ar\.final_norm` is not stated"):
        NLAPair.from_pretrained(None, tmp_path)


# --- LoRA on the base ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("blocks", [LAYER, BLOCKS])
def test_a_lora_with_a_head_with_bias_may_run_fewer_blocks_than_the_layer_or_all(base, tmp_path, blocks):
    model = ars.write_lora(tmp_path, base, ar_num_blocks=blocks)
    bias = tiny.random(D, seed=8)
    torch.save({"weight": square(4), "bias": bias}, tmp_path / "linear_head.pt")
    same(tmp_path, base, Plain(blocks=blocks, weight=square(4), bias=bias, model=model))


@pytest.mark.parametrize("state", ["raw", "sqrt_d"])
def test_the_bases_own_norm_and_the_states_length_come_before_a_head_with_bias(base, tmp_path, state):
    model = ars.write_lora(tmp_path, base, ar={"final_norm": "kept", "state": state}, ar_num_blocks=BLOCKS)
    bias = tiny.random(D, seed=9)
    torch.save({"weight": square(5), "bias": bias}, tmp_path / "value_head.pt")
    plain = Plain(blocks=BLOCKS, norm=True, sqrt_d=state == "sqrt_d", weight=square(5), bias=bias, model=model)
    same(tmp_path, base, plain)


def test_without_a_head_the_state_at_the_marker_is_the_vector(base, tmp_path):
    facts = {"ar_template": ars.MARKED + " end", "injection_char": tiny.MARKER}
    said = {"heads": "none", "position": "marker", "bos": False}
    model = ars.write_lora(tmp_path, base, ar=said, **facts)
    marker = base.tokenizer.convert_tokens_to_ids(tiny.MARKER)
    prompt = functools.partial(lambda text: (ars.MARKED + " end").replace("{explanation}", text))
    same(tmp_path, base, Plain(prompt=prompt, bos=False, at=lambda ids: ids.index(marker), model=model))


def test_an_explanation_that_holds_the_marker_does_not_move_the_reading(llama, tmp_path):
    facts = {"ar_template": ars.MARKED, "injection_char": tiny.MARKER}
    model = ars.write_lora(tmp_path, llama, ar={"heads": "none", "position": "marker"}, **facts)
    plain = Plain(prompt=lambda text: ars.MARKED.replace("{explanation}", text), model=model)
    text = f"it says {tiny.MARKER} twice"
    made = NLAPair.from_pretrained(None, tmp_path).reconstruct(text)
    near(made, plain(llama, text))


def test_a_chat_turn_is_read_at_its_last_token(base, tmp_path):
    model = ars.write_lora(
        tmp_path, base, ar={"prompt_style": "chat", "position": "turn", "bos": base.family != "qwen"}
    )
    save_file({"weight": square(6)}, tmp_path / "linear_head.safetensors")

    def prompt(text: str) -> str:
        message = [{"role": "user", "content": ars.TEMPLATE.replace("{explanation}", text)}]
        return base.tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=False)

    same(tmp_path, base, Plain(prompt=prompt, bos=False, weight=square(6), model=model))


# --- a head for each layer -----------------------------------------------------------------------------------------
HEADS = {0: square(20), LAYER: square(21), BLOCKS - 1: square(22)}


def test_each_layers_head_reads_that_layers_block(base, tmp_path):
    model = ars.write_lora(tmp_path, base, ar_num_blocks=BLOCKS, layers=sorted(HEADS))
    save_file({str(at): head for at, head in HEADS.items()}, tmp_path / "value_heads.safetensors")
    pair = NLAPair.from_pretrained(None, tmp_path)
    assert pair.ar_contract.ar_heads == "per_layer", "its file says so"
    for layer, weight in HEADS.items():
        plain = torch.stack([Plain(blocks=layer + 1, weight=weight, model=model)(base, text) for text in TEXTS])
        near(pair.reconstructor(TEXTS, layer=layer), plain)
        near(pair.reconstructor(TEXTS[3:4], layer=layer)[0], plain[3])
    torch.testing.assert_close(pair.reconstruct(TEXTS), pair.reconstructor(TEXTS, layer=LAYER))  # the contract's


def per_layer(folder, base, heads=HEADS, **facts):
    model = ars.write_lora(folder, base, **({"ar_num_blocks": BLOCKS} | facts))
    save_file({str(at): head for at, head in heads.items()}, folder / "value_heads.safetensors")
    return model


@pytest.mark.parametrize("key", ["value_head.{}.weight", "heads.{}.linear.weight"])
def test_heads_of_layers_go_by_several_names(tmp_path, key):
    save_file({key.format(at): head for at, head in HEADS.items()}, tmp_path / "value_heads.safetensors")
    facts = {"role": "ar", "base_model": "a/b", "d_model": tiny.D_MODEL, "layer": LAYER, "ar_num_blocks": BLOCKS}
    contract = Contract.from_dict(facts | {"ar_template": "{explanation}>", "ar": {"heads": "per_layer"}})
    found = read_heads(tmp_path, contract)
    assert {at: bool(torch.equal(head.weight, HEADS[at])) for at, head in found.items()} == dict.fromkeys(HEADS, True)


def test_the_empty_text_is_kept_for_each_layer(llama, tmp_path):
    model = per_layer(tmp_path, llama)
    reconstructor = NLAPair.from_pretrained(None, tmp_path).reconstructor
    for layer in (None, 0, BLOCKS - 1, LAYER):
        at = LAYER if layer is None else layer
        plain = Plain(blocks=at + 1, weight=HEADS[at], model=model)(llama, "")
        near(reconstructor.empty(layer), plain)
        assert reconstructor.empty(layer) is reconstructor.empty(layer)
    assert reconstructor.empty() is reconstructor.empty(LAYER)
    before = reconstructor.empty(0)
    reconstructor.reset()
    assert reconstructor.empty(0) is not before


def test_a_layer_without_a_head_is_refused_and_those_with_one_are_named(llama, tmp_path):
    per_layer(tmp_path, llama)
    pair = NLAPair.from_pretrained(None, tmp_path)
    assert pair.ar_contract.layers == [0, 2, 5], "the heads tell them"
    with pytest.raises(UnseenValueError, match="has no head for layer 3: only for 0, 2, 5. Pass layer= one of them"):
        pair.reconstructor(["a cat"], layer=3)
    with pytest.raises(HeadError, match=r"has heads for layers 0, 2, 5 and its contract's `layer` is 3.*'layer': 0"):
        NLAPair.from_pretrained(None, tmp_path, contract={"layer": 3})
    anywhere = NLAPair.from_pretrained(None, tmp_path, contract={"layer": 3, "layers": "any"})
    with pytest.raises(UnseenValueError, match="has no head for layer 3"):
        anywhere.reconstruct("a cat")


def test_another_layer_than_the_one_it_was_trained_for_is_refused(llama, tmp_path):
    ars.write_lora(tmp_path, llama)
    save_file({"weight": square(6)}, tmp_path / "linear_head.safetensors")
    with pytest.raises(UnseenValueError, match="layer 1 was never trained; it reads 2"):
        NLAPair.from_pretrained(None, tmp_path).reconstructor(["a cat"], layer=1)


def test_a_head_for_a_layer_whose_block_does_not_run_is_refused(llama, tmp_path):
    per_layer(tmp_path, llama, ar_num_blocks=LAYER + 1)
    with pytest.raises(HeadError, match=r"a head for layer 5, .* `ar_num_blocks` is 3. Correct it to at least 6"):
        NLAPair.from_pretrained(None, tmp_path)


@pytest.mark.parametrize(
    ("tensors", "key", "message"),
    [
        ({"a": square(1)}, None, r"holds tensors \['a'\]; expected one weight for each layer"),
        ({"1.2": square(1)}, None, "expected one weight for each layer"),
        ({"1": square(1), "head.1": square(2)}, None, "expected one weight for each layer"),
        ({"1": square(1)[:3]}, None, r"\{'weight': \(3, 64\)\} for layer 1; expected"),
        ({"h.1": square(1), "g.2": square(1)}, "h.{layer}", r"holds tensors \['g.2', 'h.1'\]; expected h.\{layer\}"),
        ({"h.1": square(1)}, "h.1", r"`ar.head_key` is 'h.1'; of one head per layer it needs \{layer\}"),
        ({"1.bias": tiny.random(D, seed=1)}, None, "expected one weight for each layer"),
    ],
)
def test_heads_under_other_keys_are_refused(llama, tmp_path, tensors, key, message):
    ars.write_lora(tmp_path, llama, ar_num_blocks=BLOCKS, ar={"heads": "per_layer", "head_key": key})
    save_file(tensors, tmp_path / "value_heads.safetensors")
    with pytest.raises(HeadError, match=message):
        NLAPair.from_pretrained(None, tmp_path)


def test_the_contract_names_the_heads_file_and_keys_and_each_may_have_a_bias(llama, tmp_path):
    said = {"heads": "per_layer", "head_file": "probes.safetensors", "head_key": "L{layer}.weight"}
    model = ars.write_lora(tmp_path, llama, ar=said, ar_num_blocks=BLOCKS)
    bias = tiny.random(D, seed=31)
    tensors = {f"L{at}.weight": head for at, head in HEADS.items()} | {f"L{at}.bias": bias + at for at in HEADS}
    save_file(tensors, tmp_path / "probes.safetensors")
    pair = NLAPair.from_pretrained(None, tmp_path)
    for layer, weight in HEADS.items():
        plain = Plain(blocks=layer + 1, weight=weight, bias=bias + layer, model=model)(llama, "a cat")
        near(pair.reconstructor(["a cat"], layer=layer)[0], plain)


# --- depth in the prompt, means by layer ---------------------------------------------------------------------------
def test_the_depth_in_the_prompt_and_the_mean_are_the_layers_own(base, tmp_path):
    facts = {
        "ar_template": ars.WITH_DEPTH,
        "injection_char": tiny.MARKER,
        "fields": {"depth": {"rule": "middle"}},
        "layers": [1, 2, 4],
        "activation_mean": "layer_means.pt",
        "centred_norm": 3.0,
        "ar_num_blocks": BLOCKS,
    }
    model = ars.write_lora(tmp_path, base, ar={"heads": "none", "position": "marker"}, **facts)
    means = {at: tiny.random(D, seed=80 + at) for at in (1, 2, 4)}
    torch.save(means, tmp_path / "layer_means.pt")
    pair = NLAPair.from_pretrained(None, tmp_path)
    for layer, percent in ((1, 25), (2, 42), (4, 75)):  # round(100·(L + ½)/6)

        def prompt(text: str, percent: int = percent) -> str:
            return ars.WITH_DEPTH.replace("{depth}", str(percent)).replace("{explanation}", text)

        plain = []
        for text in TEXTS:
            made = Plain(blocks=BLOCKS, prompt=prompt, model=model)(base, text)
            plain.append(means[layer] + 3.0 * made / made.norm())
        near(pair.reconstructor(TEXTS, layer=layer), torch.stack(plain))


# --- EasyNLA's file ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("stripped", [True, False])
def test_a_lora_and_its_head_in_one_file_are_rank_stabilised_and_keep_the_norm_unless_it_was_stripped(
    base, tmp_path, stripped
):
    in_one_file(tmp_path, base, stripped)


def test_a_file_that_says_nothing_of_the_norm_kept_it(llama, tmp_path):
    in_one_file(tmp_path, llama, None)


def in_one_file(tmp_path, base, stripped):
    model, weight = ars.easy_lora(tmp_path, base, **({} if stripped is None else {"final_norm_stripped": stripped}))
    ars.sidecar(
        tmp_path, base, ar={"bos": False, "final_norm": None, "state": "sqrt_d"}, ar_num_blocks=None, role="critic"
    )
    pair = same(tmp_path, base, Plain(weight=weight, norm=not stripped, sqrt_d=True, bos=False, model=model))
    contract = pair.ar_contract
    assert contract.ar_final_norm == ("dropped" if stripped else "kept") and contract.ar_num_blocks == LAYER + 1
    assert contract.weights_rslora is True and contract.weights_alpha == ALPHA


def test_plain_scaling_would_be_another_model(llama, tmp_path):
    assert not math.isclose(ALPHA / RANK, ALPHA / math.sqrt(RANK))
    _, weight = ars.easy_lora(tmp_path, llama, final_norm_stripped=True)
    ars.sidecar(tmp_path, llama, ar={"final_norm": None})
    weaker = Plain(weight=weight, model=ars.lora(llama, ALPHA / RANK)[1])(llama, "a cat")
    made = NLAPair.from_pretrained(None, tmp_path).reconstruct("a cat")
    assert torch.nn.functional.cosine_similarity(made, weaker, dim=0) < 0.999


@pytest.mark.parametrize(
    ("meta", "message"),
    [
        ("[1]", "ar_meta.json holds a list; expected a mapping"),
        ("{", "ar_meta.json cannot be read"),
        ('{"final_norm_stripped": "yes"}', "`final_norm_stripped` is 'yes'; expected true or false"),
        ('{"ar_num_layers": "three"}', "three.*expected a whole number"),
    ],
)
def test_a_meta_file_that_says_nonsense_is_refused(llama, tmp_path, meta, message):
    ars.easy_lora(tmp_path, llama)
    (tmp_path / "ar_meta.json").write_text(meta)
    ars.sidecar(tmp_path, llama, ar_num_blocks=None)
    with pytest.raises(ContractError, match=message):
        NLAPair.from_pretrained(None, tmp_path)


def test_what_a_sidecar_says_stands_above_what_the_meta_file_says(llama, tmp_path):
    model, weight = ars.easy_lora(tmp_path, llama, final_norm_stripped=False)
    ars.sidecar(tmp_path, llama)  # dropped
    same(tmp_path, llama, Plain(weight=weight, model=model))


def test_without_the_meta_file_the_loras_strength_is_not_guessed(llama, tmp_path):
    ars.easy_lora(tmp_path, llama)
    (tmp_path / "ar_meta.json").unlink()
    ars.sidecar(tmp_path, llama)
    with pytest.raises(UnstatedFactError, match=r"`weights\.alpha` is not stated"):
        NLAPair.from_pretrained(None, tmp_path)


# --- centred without its mean --------------------------------------------------------------------------------------
def test_an_ar_of_rests_gives_directions_and_is_compared_with_no_raw_activation(llama, tmp_path):
    model = ars.write_lora(tmp_path, llama, ar={"target": "centred"})
    save_file({"weight": square(6)}, tmp_path / "linear_head.safetensors")
    pair = same(tmp_path, llama, Plain(weight=square(6), model=model))
    vectors = tiny.random(3, D, seed=90)
    with pytest.raises(MissingMeanError, match=r"`ar.target: centred`\), and no file of that mean is named"):
        pair.reconstructor.compared(vectors)
    mean = tiny.random(D, seed=91)
    with pytest.raises(MissingMeanError):
        pair.score("a cat", vectors)
    known = Transform(D, {1: mean, 2: 2 * mean}, layer=2)
    torch.testing.assert_close(pair.reconstructor.compared(vectors, known=known), vectors - 2 * mean)
    wanted = torch.stack([vectors[0] - mean, vectors[1] - 2 * mean, vectors[2] - mean])
    torch.testing.assert_close(pair.reconstructor.compared(vectors, [1, 2, 1], known=known), wanted)


def test_scores_of_an_ar_of_rests_are_of_what_is_left_over_the_avs_mean(llama, tmp_path):
    mean = tiny.random(D, seed=91)
    tiny.lora_av(tmp_path / "av", llama.folder, llama.model, layer=LAYER, activation_mean="mean.safetensors")
    save_file({"mean": mean}, tmp_path / "av" / "mean.safetensors")
    model = ars.write_lora(tmp_path / "ar", llama, ar={"target": "centred"})
    save_file({"weight": square(6)}, tmp_path / "ar" / "linear_head.safetensors")
    pair = NLAPair.from_pretrained(tmp_path / "av", tmp_path / "ar")
    vectors = tiny.random(3, D, seed=90)
    plain = Plain(weight=square(6), model=model)
    for made in (pair.score("a cat", vectors), pair.round_trip(vectors)):
        for one, vector in zip(made, vectors, strict=True):
            of = plain(llama, getattr(one, "explanation", "a cat"))
            wanted = torch.nn.functional.cosine_similarity(of, vector - mean, dim=0)
            assert one.cosine == pytest.approx(float(wanted), abs=1e-4) and one.mean_cosine is None


def test_an_ar_of_raw_directions_is_compared_with_raw_activations(llama, tmp_path):
    ars.write_lora(tmp_path, llama)
    save_file({"weight": square(6)}, tmp_path / "linear_head.safetensors")
    vectors = tiny.random(3, D, seed=90)
    known = Transform(D, {None: vectors[0]})
    assert NLAPair.from_pretrained(None, tmp_path).reconstructor.compared(vectors, known=known) is vectors


def test_what_an_ar_gives_in_a_shared_space_is_mapped_back_to_the_sources(llama, tmp_path):
    model = ars.write_lora(tmp_path, llama, reconstruction_map="back.safetensors")
    save_file({"weight": square(6)}, tmp_path / "linear_head.safetensors")
    back = {"weight": square(7), "bias": tiny.random(D, seed=3)}
    save_file(back, tmp_path / "back.safetensors")
    made = NLAPair.from_pretrained(None, tmp_path).reconstruct("a cat")
    plain = back["weight"] @ Plain(weight=square(6), model=model)(llama, "a cat") + back["bias"]
    near(made, plain)


# --- what was cut --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("truncation", "said"),
    [
        ("explanation", "their ends"),
        ("left", "the beginnings of their prompts"),
        ("right", "the ends of their prompts"),
    ],
)
def test_the_warning_says_what_was_cut(llama, tmp_path, truncation, said):
    ars.write_lora(tmp_path, llama, ar={"truncation": truncation}, max_length=60)
    save_file({"weight": square(6)}, tmp_path / "linear_head.safetensors")
    pair = NLAPair.from_pretrained(None, tmp_path)
    with pytest.warns(UserWarning, match=f"longer than max_length 60 tokens allows; {said} were cut"):
        pair.reconstruct("z" * 80)


def test_a_copy_of_the_file_that_says_how_it_was_made_is_not_needed_once_the_pair_is_saved(llama, tmp_path):
    _, weight = ars.easy_lora(tmp_path / "ar", llama, final_norm_stripped=True)
    ars.sidecar(tmp_path / "ar", llama, ar={"final_norm": None}, ar_num_blocks=None)
    pair = NLAPair.from_pretrained(None, tmp_path / "ar")
    pair.save_pretrained(tmp_path / "saved")
    (tmp_path / "saved" / "ar" / "ar_meta.json").unlink()
    again = NLAPair.from_pretrained(None, tmp_path / "saved" / "ar").reconstruct(TEXTS)
    torch.testing.assert_close(again, pair.reconstruct(TEXTS))
    assert load_file(tmp_path / "saved" / "ar" / "ar_lora_value_head.safetensors")["value_head.weight"].equal(weight)
    assert json.loads((tmp_path / "ar" / "ar_meta.json").read_text())["lora_alpha"] == ALPHA
    shutil.rmtree(tmp_path / "saved")
