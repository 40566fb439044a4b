"""Every tensor of a full checkpoint or a base is taken, known to be without effect, or stops it from loading."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file

from nla_sdk import NLAPair
from nla_sdk.cli.app import main
from nla_sdk.errors import DamagedFileError, LoadError, UnplacedTensorsError
from nla_sdk.halves.inspection import describe
from nla_sdk.model.backbone import Backbone
from nla_sdk.model.weights.leftovers import unplaced, why_left_out
from tests import tiny

Q = "self_attn.q_proj.weight"


@pytest.fixture
def folder(tmp_path):
    return tiny.save_model(tmp_path / "base", tiny.llama_config(), tiny.tokenizer(), seed=4)


def change(folder, new, name="model.safetensors"):
    tensors = {key: tensor.clone().contiguous() for key, tensor in new(load_file(folder / name)).items()}
    save_file(tensors, folder / name, metadata={"format": "pt"})


def fp8(tensors):
    out = {}
    for key, tensor in tensors.items():
        if "proj" in key:
            scale = tensor.abs().max() / 448
            out[key] = (tensor / scale).to(torch.float8_e4m3fn)
            out[key.replace("weight", "weight_scale_inv")] = scale.reshape(1, 1)
        else:
            out[key] = tensor
    return out


def beside(old, new, make):
    return lambda t: t | {key.replace(old, new): make(tensor) for key, tensor in t.items() if key.endswith(Q)}


UNPLACED = {
    "fp8": (fp8, r"28 weights in F8_E4M3 .*28 scales(.|\n)*quantization_config"),
    "fp8 without scales": (
        lambda t: {k: v.to(torch.float8_e4m3fn) if "proj" in k else v for k, v in t.items()}, "28 weights in F8_E4M3"
    ),
    "int8": (lambda t: {k: (v * 9).to(torch.int8) if "proj" in k else v for k, v in t.items()}, "28 weights in I8"),
    "scales alone": (
        beside("weight", "weight_scale", lambda v: v[:1]), "4 tensors .*quantised weights(.|\n)*quantization_config"
    ),
    "bitsandbytes": (
        beside("weight", "weight.quant_state.bitsandbytes__nf4", lambda v: v[0]), "4 tensors .*quantised weights"
    ),
    "lora": (beside("weight", "lora_A.default.weight", lambda v: v[:8]), "never merged(.|\n)*merge_and_unload"),
    "saved copies": (beside("weight", "modules_to_save.default.weight", lambda v: v), "never merged"),
    "biases": (beside("weight", "bias", lambda v: v[:, 0]), r"self_attn\.q_proj\.bias, (.|\n)*attention_bias"),
    "further blocks": (lambda t: t | {"model.layers.4.mlp.up_proj.weight": torch.ones(128, 64)}, "not known here"),
    "another norm": (lambda t: t | {"model.layers.0.self_attn.q_norm.weight": torch.ones(32)}, "not known here"),
    "compiled": (lambda t: {f"_orig_mod.{k}": v for k, v in t.items()}, "torch.compile .*it lacks 3[89] that"),
}  # fmt: skip


@pytest.mark.parametrize("case", UNPLACED)
def test_tensors_without_a_place_stop_a_base_and_are_named_for_what_they_probably_are(folder, case):
    new, message = UNPLACED[case]
    change(folder, new)
    with pytest.raises(UnplacedTensorsError, match=message) as caught:
        Backbone.load(folder, device="cpu")
    assert len(str(caught.value).splitlines()) == 2


HARMLESS = {
    "inv_freq": {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(16)},
    "positions": {"model.position_ids": torch.arange(8)},
    "towers": {"vision_tower.blocks.0.weight": torch.ones(2), "model.visual.merger.bias": torch.ones(2)},
    "projector": {"multi_modal_projector.linear.weight": torch.ones(2)},
    "further tokens": {"mtp.layers.0.weight": torch.ones(2)},
}


@pytest.mark.parametrize("case", HARMLESS)
def test_what_is_known_to_change_nothing_is_left_out(folder, case):
    right = Backbone.load(folder, device="cpu").model.state_dict()
    change(folder, lambda tensors: tensors | HARMLESS[case])
    found = Backbone.load(folder, device="cpu").model.state_dict()
    assert all(torch.equal(found[key], right[key]) for key in right)
    assert all(why_left_out(key) for key in HARMLESS[case])


def test_an_ar_may_bring_the_blocks_that_never_run_and_an_av_may_not():
    keys = ["model.layers.2.mlp.up_proj.weight", "model.norm.weight", "lm_head.weight", "value_head.weight"]
    assert unplaced(keys, 2, truncated=True) == []
    assert unplaced(keys, 3, truncated=True) == ["model.layers.2.mlp.up_proj.weight"]
    assert unplaced(keys, 2) == sorted(keys)


def test_a_full_av_with_unmerged_matrices_is_refused_and_info_says_so(tmp_path, llama_base, capsys):
    pair = tiny.full_pair(tmp_path / "pair", llama_base)
    NLAPair.from_pretrained(pair)
    assert [inspection.tensors["misfits"] for inspection in describe(str(pair))] == [{}, {}]
    change(pair / "av", UNPLACED["lora"][0])
    with pytest.raises(UnplacedTensorsError, match="never merged"):
        NLAPair.from_pretrained(pair)
    av, ar = describe(str(pair))
    assert len(av.tensors["misfits"]) == 4 and ar.tensors["loaded"] == ar.tensors["total"]
    with pytest.raises(SystemExit):
        main(["info", str(pair / "av")])
    out = " ".join(capsys.readouterr().out.split())  # however wide the terminal is
    assert "4 tensors fit nowhere in LlamaForCausalLM, so the checkpoint would be refused" in out


def test_missing_weights_are_missing_as_before(folder):
    change(folder, lambda t: {key: tensor for key, tensor in t.items() if not key.endswith(Q)})
    with pytest.raises(LoadError, match=r"lacks weights that its config calls for \(4 missing"):
        Backbone.load(folder, device="cpu")


def test_a_base_cut_short_is_named_as_damaged(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(
        DamagedFileError, match="model.safetensors is not a readable safetensors file: it was cut short"
    ):
        Backbone.load(folder, device="cpu")
