"""What an adapter is on a model in memory, it is in plain weights: every kind of adapter, tied tables, 4 bits."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM

from nla_sdk.errors import ExportError
from nla_sdk.exporting.checkpoint import truncated, whole
from nla_sdk.model.backbone import Backbone
from tests import tiny

LINEAR = tiny.EVERY_LINEAR
KINDS = {
    "lora": {"target_modules": LINEAR},
    "rslora": {"target_modules": LINEAR, "use_rslora": True},
    "dora": {"target_modules": LINEAR, "use_dora": True},
    "ranks": {"target_modules": LINEAR, "rank_pattern": {"q_proj": 4}, "alpha_pattern": {"o_proj": 24}},
    "embedding": {"target_modules": ["embed_tokens", "q_proj"]},
    "embedding dora": {"target_modules": ["embed_tokens"], "use_dora": True},
    "head": {"target_modules": ["lm_head", "v_proj"]},
    "norms whole": {"target_modules": ["q_proj"], "modules_to_save": ["input_layernorm"]},
    "tables whole": {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]},
    "token rows": {"target_modules": ["q_proj"], "trainable_token_indices": {"embed_tokens": [5, 9, 40]}},
}


def backbone_with(folder, kind: str) -> Backbone:
    """A base with a random adapter of a kind, and another that is off."""
    from peft import LoraConfig

    backbone = Backbone.load(folder, device="cpu", dtype="float32")
    options = KINDS[kind]
    backbone.add_lora("av", LoraConfig(r=8, lora_alpha=16, task_type="CAUSAL_LM", **options))
    backbone.add_lora("ar", LoraConfig(r=4, task_type="CAUSAL_LM", target_modules=LINEAR))
    for seed, name in enumerate(("av", "ar")):
        for at, parameter in enumerate(backbone.adapter_parameters(name).values()):
            parameter.data += 0.1 * tiny.random(*parameter.shape, seed=100 * seed + at)
    return backbone


def saved(model, folder):
    model.save_pretrained(folder)
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


@torch.no_grad()
def logits(model) -> torch.Tensor:
    return model(input_ids=torch.tensor([[2, 5, 9, 40, 41, 77, 100]])).logits


@pytest.mark.parametrize("base", ["llama", "gemma3"])
@pytest.mark.parametrize("kind", KINDS)
def test_merged_weights_compute_what_the_adapter_does(bases, tmp_path, base, kind):
    backbone = backbone_with(bases[base], kind)
    with backbone.using("av") as model:
        expected = logits(model)
    with backbone.using(None) as model:
        bare = logits(model)
    before = {name: tensor.clone() for name, tensor in backbone.model.state_dict().items()}
    found = logits(saved(whole(backbone, "av", torch.float32), tmp_path))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert (found - bare).abs().max() > 0.1
    assert all(torch.equal(tensor, before[name]) for name, tensor in backbone.model.state_dict().items())


def test_a_bias_that_only_the_adapter_has_is_refused_by_name(bases):
    from peft import LoraConfig

    backbone = Backbone.load(bases["llama"], device="cpu", dtype="float32")
    backbone.add_lora("av", LoraConfig(r=8, task_type="CAUSAL_LM", target_modules=["q_proj"], lora_bias=True))
    with pytest.raises(ExportError, match=r"layers\.0\.self_attn\.q_proj: the adapter adds a bias there \(lora_bias\)"):
        whole(backbone, "av", torch.float32)


def test_four_bits_are_unpacked_before_an_adapter_is_merged(bases, tmp_path):
    pytest.importorskip("bitsandbytes")
    backbone = Backbone.load(bases["llama"], device="cpu", dtype="float32", quantization="nf4")
    tensors = tiny.lora_tensors(tiny.plain_model(bases["llama"]), LINEAR, seed=100)
    adapter = tiny.write_adapter(tmp_path / "adapter", tensors, LINEAR)
    backbone.load_adapter("av", adapter)
    with backbone.using("av") as model:
        expected = logits(model)
    torch.testing.assert_close(
        logits(saved(whole(backbone, "av", torch.float32), tmp_path / "out")), expected, rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("blocks", [2, 6])  # those that end in a block of full attention
def test_gemma_4_is_cut_with_its_shared_keys_and_per_layer_embeddings(gemma_base, tmp_path, blocks):
    backbone = Backbone.load(gemma_base, device="cpu", dtype="float32")
    ids = torch.tensor([[2, 5, 9, 40, 41, 77, 100]])
    with torch.no_grad(), backbone.using(None):
        expected = backbone.run_to_block(ids, blocks - 1)
    model = saved(truncated(backbone, None, torch.float32, blocks), tmp_path)
    model.model.norm = torch.nn.Identity()
    with torch.no_grad():
        found = model.model(input_ids=ids).last_hidden_state
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("blocks", [1, 3, 4, 5])
def test_blocks_that_a_config_makes_others_of_are_refused_by_name(gemma_base, blocks):
    backbone = Backbone.load(gemma_base, device="cpu", dtype="float32")
    with pytest.raises(ExportError, match=f"does not take {blocks} blocks by themselves: of `layer_types` it makes"):
        truncated(backbone, None, torch.float32, blocks)


@pytest.mark.parametrize("base", ["llama", "qwen3", "gemma3"])
@pytest.mark.parametrize("size", [0.0, 1e-3, 1.0, 30.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_constant_is_added_to_every_state_and_nothing_else(bases, tmp_path, base, size, dtype):
    backbone = Backbone.load(bases[base], device="cpu", dtype="float32")
    offset = tiny.random(tiny.D_MODEL, seed=5, scale=size)
    ids = torch.tensor([[2, 5, 9, 40, 41, 77, 100]])
    states = []
    for folder, added in (("without", None), ("with", offset)):
        model = saved(truncated(backbone, None, dtype, 3, added), tmp_path / folder)
        model.model.norm = torch.nn.Identity()
        with torch.no_grad():
            states.append(model.model(input_ids=ids).last_hidden_state[0])
    found = states[1] - states[0]
    tolerance = 1e-5 if dtype == torch.float32 else 5e-3
    largest = float(offset.abs().max()) + 0.02 * float(states[0].abs().max())
    assert (found - offset).abs().max() < tolerance * largest
