"""NaN and infinity: found in weights before they are used, and in outputs with rows and cause named."""

from __future__ import annotations

import math
import re
import shutil

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from safetensors.torch import load_file, save_file

from nla_sdk import NLAPair
from nla_sdk.errors import HeadError, NonFiniteOutputError, NonFiniteWeightsError
from nla_sdk.model.decoding import writing
from nla_sdk.model.weights.finite import describe, is_finite, weights_of
from nla_sdk.model.weights.heads import load_head
from nla_sdk.sampling import Sampling
from tests import tiny

D = tiny.D_MODEL
ROWS = tiny.random(3, D, seed=3, scale=3.0)
NAN = math.nan


def changed(file, change):
    """Change a safetensors file's tensors in place: `change(tensors)`."""
    tensors = load_file(file)
    change(tensors)
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, file, metadata={"format": "pt"})


@pytest.fixture
def llama_pair(tmp_path, llama_base):
    """A base of its own and a pair on it, to be damaged at will."""
    base = tmp_path / "base"
    shutil.copytree(llama_base, base)
    return base, tiny.lora_pair(tmp_path / "pair", base, tiny.plain_model(base), layer=1, blocks=2)


# --- weights ------------------------------------------------------------------------------------------------------
@given(
    arrays.arrays(
        np.float32,
        st.tuples(st.integers(1, 6), st.integers(1, 5)),
        elements=st.sampled_from([0.0, -1.5, 3e38, NAN, math.inf, -math.inf]),
    ),
    st.sampled_from([torch.float32, torch.bfloat16, torch.float64]),
)
@settings(max_examples=150, deadline=None)
def test_what_is_said_of_a_tensor_is_what_numpy_counts(array, dtype):
    tensor = torch.from_numpy(array).to(dtype)
    bad = ~np.isfinite(array)
    assert is_finite(tensor) == (not bad.any())
    text = describe(tensor)
    assert text.startswith(f"NaN or infinity in {bad.sum()} of {bad.size} numbers")
    assert ("the whole of" in text) == bool((bad.any(axis=1) == bad.all(axis=1)).all())
    if bad.any():
        named = text.rpartition(" row")[2].removeprefix("s").strip()
        rows = {
            row
            for part in named.split(" and ")[0].split(", ")
            for row in range(int(part.split("–")[0]), int(part.split("–")[-1]) + 1)
        }
        assert rows <= set(np.flatnonzero(bad.any(axis=1)).tolist())
        assert "more" in named or rows == set(np.flatnonzero(bad.any(axis=1)).tolist())


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.int8, torch.bool, torch.float16])
def test_tensors_of_every_dtype_can_be_looked_at(dtype):
    assert is_finite(torch.ones(3, 2).to(dtype))
    assert is_finite(torch.empty(0, 2, dtype=torch.float32))
    assert is_finite(torch.empty(3, device="meta"))


@pytest.mark.parametrize("half", ["av", "ar"])
@pytest.mark.parametrize("value", [NAN, math.inf])
def test_an_adapter_with_one_such_number_is_not_loaded_and_the_base_stays_as_it_was(llama_pair, half, value):
    base, pair = llama_pair
    file = pair / half / "adapter_model.safetensors"
    good = file.read_bytes()

    def poison(tensors):
        tensors[min(tensors)][1, 2] = value

    changed(file, poison)
    named = (
        rf"{re.escape(str(file))}: .*layers\.0\..*lora_A\.weight holds NaN or infinity in 1 of \S+ numbers, in row 1"
    )
    with pytest.raises(NonFiniteWeightsError, match=named):
        NLAPair.from_pretrained(pair)
    other = NLAPair.from_pretrained(None, pair / "ar") if half == "av" else NLAPair.from_pretrained(pair / "av")
    before = {name: tensor.clone() for name, tensor in other.source.model.named_parameters()}
    with pytest.raises(NonFiniteWeightsError):
        other.source.load_adapter("more", pair / half)
    assert before.keys() == dict(other.source.model.named_parameters()).keys()
    assert all(torch.equal(before[name], tensor) for name, tensor in other.source.model.named_parameters())
    file.write_bytes(good)
    other.source.load_adapter("more", pair / half)


def test_a_head_half_of_whose_rows_are_nan_is_named_with_its_rows(tmp_path):
    weight = torch.eye(D)
    weight[: D // 2] = NAN
    save_file({"weight": weight}, tmp_path / "value_head.safetensors")
    said = "value_head.safetensors: weight holds NaN or infinity in 2,048 of 4,096 numbers, the whole of rows 0–31;"
    with pytest.raises(NonFiniteWeightsError, match=said):
        load_head(tmp_path, D)


def test_of_two_heads_that_differ_none_is_picked(tmp_path):
    head = {"weight": torch.eye(D), "bias": torch.zeros(D)}
    torch.save(head, tmp_path / "linear_head.pt")
    save_file(head, tmp_path / "linear_head.safetensors")
    assert load_head(tmp_path, D).weight.equal(torch.eye(D)), "one head in two formats"
    save_file({"weight": 2 * torch.eye(D)}, tmp_path / "value_head.safetensors")
    with pytest.raises(HeadError, match=r"two heads that differ, linear_head\.safetensors and value_head\.safetensors"):
        load_head(tmp_path, D)


def test_a_full_checkpoints_head_and_a_bias_and_a_mean_are_looked_at_too(full_folder, lora_folders, tmp_path):
    full = shutil.copytree(full_folder, tmp_path / "full")
    changed(full / "ar" / "value_head.safetensors", lambda tensors: tensors["weight"][3].fill_(NAN))
    with pytest.raises(NonFiniteWeightsError, match="the whole of row 3"):
        NLAPair.from_pretrained(full)
    centred = shutil.copytree(lora_folders["centred"], tmp_path / "centred")
    changed(centred / "av" / "activation_mean.safetensors", lambda tensors: tensors["mean"][5:7].fill_(math.inf))
    with pytest.raises(NonFiniteWeightsError, match="mean holds NaN or infinity in 2 of 64 numbers"):
        NLAPair.from_pretrained(centred)
    head = torch.load(lora_folders["below"] / "ar" / "linear_head.pt", weights_only=True)
    head["bias"][0] = NAN
    torch.save(head, tmp_path / "linear_head.pt")
    with pytest.raises(NonFiniteWeightsError, match=r"linear_head.pt: bias holds NaN or infinity in 1 of 64 numbers"):
        load_head(tmp_path, D)


def test_bases_and_full_checkpoints_are_looked_at_if_asked(llama_pair, full_folder, tmp_path):
    base, pair = llama_pair
    changed(base / "model.safetensors", lambda tensors: tensors["model.layers.3.mlp.up_proj.weight"][7].fill_(NAN))
    assert NLAPair.from_pretrained(None, pair / "ar").reconstruct("a").isfinite().all(), "block 3 never runs there"
    said = (
        r"base: model\.layers\.3\.mlp\.up_proj\.weight holds NaN or infinity in 64 of 8,192 numbers, the whole of row 7"
    )
    with pytest.raises(NonFiniteWeightsError, match=said):
        NLAPair.from_pretrained(pair, check_weights=True)
    full = shutil.copytree(full_folder, tmp_path / "full")
    NLAPair.from_pretrained(full, check_weights=True)
    changed(full / "av" / "model.safetensors", lambda tensors: tensors["model.norm.weight"][0:2].fill_(math.inf))
    with pytest.raises(
        NonFiniteWeightsError, match=r"av: model\.norm\.weight holds NaN or infinity in 2 of 64 numbers"
    ):
        NLAPair.from_pretrained(full, check_weights=True)


def test_the_scales_of_4_bit_weights_are_what_is_looked_at(lora_folders):
    pytest.importorskip("bitsandbytes")
    pair = NLAPair.from_pretrained(lora_folders["shared"], quantization="nf4", check_weights=True)
    found = dict(weights_of(pair.source.model))
    assert sum(name.endswith("(nested absmax)") for name in found) > 10
    assert any(name.endswith("embed_tokens.weight") for name in found)


# --- outputs ------------------------------------------------------------------------------------------------------
def test_a_base_with_nan_is_named_at_the_first_step_by_weight_and_place(llama_pair):
    base, pair = llama_pair
    changed(base / "model.safetensors", lambda tensors: tensors["model.layers.3.mlp.up_proj.weight"][7].fill_(NAN))
    loaded = NLAPair.from_pretrained(pair)
    said = (
        r"^rows 0, 1, 2: What the AV .*pair.* computes for its first token is NaN or infinite in float32: in block 3 "
        r"the weight model\.layers\.3\.mlp\.up_proj.*weight holds NaN or infinity in 64 of 8,192 numbers, the whole "
        r"of row 7\. Download"
    )
    for options in ({}, {"temperature": 0.7}, {"best_of": 2}):
        with pytest.raises(NonFiniteOutputError, match=said):
            loaded.explain(ROWS, **options)
    with pytest.raises(NonFiniteOutputError, match=said) as caught:
        loaded.explain(ROWS, n=3, temperature=1.0)
    assert caught.value.rows == (0, 1, 2)


@pytest.fixture
def one_bad_token(llama_pair):
    """A pair on a base in which one token's embedding, that of "q", is NaN."""
    base, pair = llama_pair
    q = tiny.tokenizer().convert_tokens_to_ids("q")
    changed(base / "model.safetensors", lambda tensors: tensors["model.embed_tokens.weight"][q].fill_(NAN))
    return NLAPair.from_pretrained(pair)


def test_one_text_that_gives_nan_is_named_and_poisons_no_other(one_bad_token):
    texts = ["a cat", "a q b", "the dog sat on the mat"]
    said = r"^row 1: What the AR .* reconstructs is NaN or infinite in float32: in the input embedding the weight model"
    with pytest.raises(NonFiniteOutputError, match=said) as caught:
        one_bad_token.reconstruct(texts)
    assert caught.value.rows == (1,)
    good = one_bad_token.reconstruct([texts[0], texts[2]])
    with torch.no_grad(), one_bad_token.source.using("ar"):
        contract, tokenizer = one_bad_token.ar_contract, one_bad_token.source.tokenizer
        prompts = [ids for ids, _ in contract.ar_prompt_ids_batch(tokenizer, texts)]
        together = one_bad_token.reconstructor.forward(prompts)
    torch.testing.assert_close(together[[0, 2]], good)
    assert together[1].isnan().all()


def test_activations_that_are_nan_are_named_by_text_layer_and_position(one_bad_token):
    texts = ["a cat", "no", "a q b"]
    with pytest.raises(NonFiniteOutputError, match=r"^row 2: The activation at layer 1, position \d, is NaN") as caught:
        one_bad_token.extract(texts, "all")
    assert caught.value.rows == (2,)
    assert one_bad_token.extract(texts[:2], "all").vectors.isfinite().all()
    with pytest.raises(NonFiniteOutputError, match="The activation at layer 1"):
        one_bad_token.round_trip(texts)


def test_a_row_that_stops_giving_numbers_later_is_named_and_others_are_not(pair, monkeypatch):
    verbalizer, steps = pair.verbalizer, []
    own = writing.draw

    def later(logits, *others):
        steps.append(len(logits))
        if len(steps) == 3:
            logits[1, 5] = NAN
        return own(logits, *others)

    monkeypatch.setattr(writing, "draw", later)
    with pytest.raises(NonFiniteOutputError, match="^row 1: .*for its 3. token .*every block gave numbers") as caught:
        verbalizer(ROWS, Sampling(5, ignore_end=True))
    assert caught.value.rows == (1,)


def test_rows_are_counted_over_all_batches_and_samples(pair, monkeypatch):
    from nla_sdk.model import verbalizer as module

    monkeypatch.setattr(module, "ROWS_PER_BATCH", 2)
    own, calls = writing.draw, []

    def third(logits, *others):
        calls.append(len(logits))
        if sum(calls) > 4:
            logits.fill_(NAN)
        return own(logits, *others)

    pair.explain(ROWS, max_new_tokens=1)
    monkeypatch.setattr(writing, "draw", third)
    with pytest.raises(NonFiniteOutputError) as caught:  # 3 rows of 2 samples in batches of 2
        pair.verbalizer(ROWS, Sampling(1, temperature=1.0, n=2))
    assert caught.value.rows == (2,)


def narrow(base, pair, dtype="float16"):
    return NLAPair.from_pretrained(pair, base=base, dtype=dtype)


def test_an_overflow_of_float16_is_named_with_its_block_and_what_helps(llama_pair):
    base, pair = llama_pair
    changed(base / "model.safetensors", lambda tensors: tensors["model.layers.1.mlp.down_proj.weight"].mul_(3e4))
    loaded = narrow(base, pair)
    cause = (
        r"is NaN or infinite in float16: block 1 overflows \(its input reaches \d+, float16 ends at 65,504\)\. Load it"
    )
    for work in (
        lambda: loaded.explain(ROWS),
        lambda: loaded.explain(ROWS, temperature=0.5),
        lambda: loaded.reconstruct("a cat"),
        lambda: loaded.extract("a cat"),
        lambda: loaded.round_trip("a cat"),
        lambda: loaded.verbalizer.write(None),
    ):
        with pytest.raises(NonFiniteOutputError, match=cause):
            work()
    wide = narrow(base, pair, "bfloat16")
    assert wide.extract("a cat").vectors.isfinite().all() and wide.explain(ROWS)


def test_a_vector_too_large_for_the_dtype_is_named_and_not_its_neighbours(llama_pair):
    base, pair = llama_pair
    tiny.write_sidecar(pair / "av", injection_scale=None)
    loaded = narrow(base, pair)
    rows = ROWS.clone()
    rows[2, 4] = 1e5
    said = r"^row 2: The activation for the AV .*, scaled as its contract says, is beyond float16\. Load it in bfloat16"
    with pytest.raises(NonFiniteOutputError, match=said):
        loaded.explain(rows)
    assert len(loaded.explain(rows[:2])) == 2


def test_a_head_of_zeros_has_no_direction_to_give(llama_pair):
    _, pair = llama_pair
    torch.save({"weight": torch.zeros(D, D), "bias": torch.zeros(D)}, pair / "ar" / "linear_head.pt")
    with pytest.raises(NonFiniteOutputError, match="^rows 0, 1: What the AR .* reconstructs is all zeros"):
        NLAPair.from_pretrained(pair).reconstruct(["a", "b"])


def test_restricted_writing_tells_the_same(llama_pair):
    base, pair = llama_pair
    changed(base / "model.safetensors", lambda tensors: tensors["model.layers.1.mlp.down_proj.weight"].mul_(3e4))
    with pytest.raises(NonFiniteOutputError, match="All logits of LlamaForCausalLM are NaN or infinite in float16"):
        narrow(base, pair).verbalizer.restrict(range(4, 60))


@pytest.mark.parametrize("temperature", [1e-45, 1e-300, 5e-324])
def test_a_temperature_so_small_that_logits_overflow_is_greedy(pair, temperature):
    assert pair.explain(ROWS, temperature=temperature, max_new_tokens=6) == pair.explain(ROWS, max_new_tokens=6)


def test_the_error_can_be_pickled_and_counts_on():
    import pickle

    error = NonFiniteOutputError("It is NaN.", range(6))
    assert str(error) == "rows 0, 1, 2, 3 and 2 more: It is NaN."
    again = pickle.loads(pickle.dumps(error.numbered(lambda row: row // 6, of="t.parquet")))
    assert (str(again), again.rows) == ("t.parquet, row 0: It is NaN.", (0,))
