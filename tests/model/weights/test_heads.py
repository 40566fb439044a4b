"""The AR's head in every file that releases keep it in; one that is damaged, of another make, or not named."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from nla_sdk.contract import Contract
from nla_sdk.errors import HeadError, MissingFileError, NonFiniteWeightsError
from nla_sdk.model.weights.heads import HEAD_FILES, load_head, read_heads
from tests import tiny

D = 8
WEIGHT, BIAS = tiny.random(D, D, seed=1), tiny.random(D, seed=2)


def contract(**facts) -> Contract:
    ar = {"final_norm": "dropped"} | facts.pop("ar", {})
    common = {"kind": "nla_model", "role": "ar", "base_model": "tiny", "d_model": D, "layer": 3, "ar_num_blocks": 9}
    return Contract(**common, ar_template="{explanation}>", ar=ar, **facts)


def write(file, tensors):
    torch.save(tensors, file) if file.suffix == ".pt" else save_file(tensors, file)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", HEAD_FILES)
def test_a_head_in_any_of_the_usual_files_is_read_as_float32(tmp_path, name, dtype):
    prefix = "value_head." if name.startswith("ar_lora") else ""
    others = {"backbone.model.layers.0.self_attn.q_proj.lora_A.default.weight": torch.ones(2, D)} if prefix else {}
    write(tmp_path / name, {f"{prefix}weight": WEIGHT.to(dtype), f"{prefix}bias": BIAS.to(dtype), **others})
    head = read_heads(tmp_path, contract())
    assert head.weight.dtype == torch.float32 and head.weight.equal(WEIGHT.to(dtype).float())
    assert head.bias.equal(BIAS.to(dtype).float())


def test_a_named_file_and_key_are_read_and_no_other(tmp_path):
    write(tmp_path / "probe.pt", {"a.weight": WEIGHT, "a.bias": BIAS, "b.weight": 2 * WEIGHT})
    write(tmp_path / "linear_head.pt", {"weight": 3 * WEIGHT})
    head = read_heads(tmp_path, contract(ar={"head_file": "probe.pt", "head_key": "a.weight"}))
    assert head.weight.equal(WEIGHT) and head.bias.equal(BIAS)
    with pytest.raises(HeadError, match=r"holds tensors \['a.bias', 'a.weight', 'b.weight'\]; expected 'c'"):
        read_heads(tmp_path, contract(ar={"head_file": "probe.pt", "head_key": "c"}))
    with pytest.raises(MissingFileError, match="holds no AR head; expected one of none.pt"):
        read_heads(tmp_path, contract(ar={"head_file": "none.pt"}))


def test_a_head_where_the_contract_says_none_is_refused(tmp_path):
    assert read_heads(tmp_path, contract(ar={"heads": "none"})) is None
    write(tmp_path / "value_head.pt", {"weight": WEIGHT})
    with pytest.raises(HeadError, match=r"`ar.heads` is none, and .* holds value_head.pt"):
        read_heads(tmp_path, contract(ar={"heads": "none"}))


def test_heads_by_layer_where_one_is_expected_are_named_and_the_other_way_round(tmp_path):
    write(tmp_path / "value_heads.safetensors", {"3": WEIGHT})
    with pytest.raises(MissingFileError, match="It holds value_heads.safetensors: say `ar.heads: per_layer`"):
        read_heads(tmp_path, contract())
    (tmp_path / "value_heads.safetensors").unlink()
    with pytest.raises(MissingFileError, match="holds no heads by layer; expected one of value_heads.safetensors"):
        read_heads(tmp_path, contract(ar={"heads": "per_layer"}))


def test_half_the_rows_nan_is_refused_by_name(tmp_path):
    corrupt = WEIGHT.clone()
    corrupt[::2] = torch.nan
    write(tmp_path / "value_head.safetensors", {"weight": corrupt})
    with pytest.raises(NonFiniteWeightsError, match="weight holds NaN or infinity in 32 of 64 numbers"):
        read_heads(tmp_path, contract())
    write(tmp_path / "value_heads.safetensors", {"3": WEIGHT, "4": corrupt})
    with pytest.raises(NonFiniteWeightsError, match="weight for layer 4 holds NaN"):
        read_heads(tmp_path, contract(ar={"heads": "per_layer"}))


@pytest.mark.parametrize("large", [3e38, 1e20])
def test_finite_numbers_whose_product_has_no_length_in_float32_are_refused(tmp_path, large):
    corrupt = WEIGHT.clone()
    corrupt[3, 5] = large
    write(tmp_path / "value_head.safetensors", {"weight": corrupt})
    assert not torch.nn.functional.linear(torch.ones(D), corrupt).norm().isfinite()
    with pytest.raises(HeadError, match=r"weight reaches .*, in 1 of 8 rows \(first: 3\) so large that what it gives"):
        load_head(tmp_path, D)


def test_large_numbers_that_do_no_harm_are_read(tmp_path):
    write(tmp_path / "value_head.safetensors", {"weight": 1e10 * WEIGHT})
    assert load_head(tmp_path, D).weight.equal(1e10 * WEIGHT)


def test_packed_numbers_are_no_head(tmp_path):
    write(tmp_path / "value_head.pt", {"weight": torch.ones(D, D, dtype=torch.int8)})
    with pytest.raises(HeadError, match=r"weight is of torch.int8; expected floating-point numbers"):
        load_head(tmp_path, D)
