"""Which models' blocks are read, and which run as transformers has them."""

from __future__ import annotations

import pytest
import torch
from transformers import MistralConfig, Olmo2Config

from nla_sdk.model.fast.blocks import read_blocks, read_norm
from tests import tiny

from .backbones import KINDS, SIZES, add_lora, backbone, holding


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lora", [False, True], ids=["plain", "LoRA"])
def test_known_kinds_are_read(kind, lora):
    made = backbone(kind, lora=lora)
    with made.using("av" if lora else None):
        blocks = read_blocks(made)
        assert len(blocks.blocks) == made.num_blocks
        assert len(read_blocks(made, 2).blocks) == 2
        assert (blocks.blocks[0].qkv.down is not None) == lora
    with made.using(None):
        assert read_blocks(made).blocks[0].qkv.down is None


@pytest.mark.parametrize(
    ("kind", "config", "window"),
    [
        ("llama", {}, None),
        ("mistral", {}, None),
        ("mistral", {"sliding_window": 6}, 6),
        ("gemma3", {"sliding_window": 9}, 9),
        ("gemma3", {"sliding_window": 9, "layer_types": ["full_attention"] * 4}, None),
        ("qwen2", {"sliding_window": 5}, None),
        ("qwen2", {"sliding_window": 5, "use_sliding_window": True, "max_window_layers": 2}, 5),
        ("qwen3", {"sliding_window": 5, "use_sliding_window": True, "max_window_layers": 2}, 5),
    ],
)
def test_the_narrowest_window_is_told(kind, config, window):
    assert read_blocks(backbone(kind, **config)).window == window


def test_only_the_windows_of_the_blocks_that_run_count():
    made = backbone("qwen2", sliding_window=5, use_sliding_window=True, max_window_layers=2)
    assert read_blocks(made, 2).window is None and read_blocks(made, 3).window == 5


NOT_KNOWN = {
    "gemma 4": lambda: holding(tiny.gemma_config()),
    "another family": lambda: holding(Olmo2Config(**{k: v for k, v in SIZES.items() if k != "head_dim"})),
    "dynamic rope": lambda: backbone(
        "llama", rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0}
    ),
    "long rope": lambda: backbone(
        "llama",
        rope_parameters={
            "rope_type": "longrope",
            "rope_theta": 1e4,
            "factor": 4.0,
            "short_factor": [1.0] * 12,
            "long_factor": [2.0] * 12,
            "original_max_position_embeddings": 64,
        },
    ),
    "a soft cap on attention": lambda: backbone("gemma3", attn_logit_softcapping=20.0),
    "attention both ways": lambda: backbone("gemma3", use_bidirectional_attention=True),
    "bfloat16": lambda: changed(lambda made: made.model.to(torch.bfloat16)),
    "a norm in bfloat16": lambda: changed(lambda made: made.blocks[1].input_layernorm.to(torch.bfloat16)),
    "4 bits": lambda: changed(lambda made: setattr(made, "quantization", "nf4")),
    "a hook on a block": lambda: changed(lambda made: watched(made.blocks[2])),
    "a pre-hook on a block": lambda: changed(lambda made: watched(made.blocks[2], pre=True)),
    "a hook on the attention": lambda: changed(lambda made: watched(made.blocks[1].self_attn)),
    "a hook on the MLP": lambda: changed(lambda made: watched(made.blocks[1].mlp)),
    "a hook on a projection": lambda: changed(lambda made: watched(made.blocks[1].self_attn.q_proj)),
    "a hook on a norm": lambda: changed(lambda made: watched(made.blocks[1].input_layernorm)),
    "a hook on the norm of heads": lambda: changed(lambda made: watched(made.blocks[1].self_attn.k_norm), "qwen3"),
    "a hook on the final norm": lambda: changed(lambda made: watched(made.final_norm)),
    "a hook on the embedding": lambda: changed(lambda made: watched(made.embedding)),
    "a hook on the rotary embedding": lambda: changed(lambda made: watched(made.model.model.rotary_emb)),
    "a hook on the decoder": lambda: changed(lambda made: watched(made.model.model)),
    "a hook on the model": lambda: changed(lambda made: watched(made.model)),
    "another forward of a block": lambda: changed(lambda made: replace_forward(made.blocks[0])),
    "another forward of the attention": lambda: changed(lambda made: replace_forward(made.blocks[3].self_attn)),
    "another forward of the final norm": lambda: changed(lambda made: replace_forward(made.final_norm)),
    "another attention": lambda: changed(lambda made: subclass(made.blocks[2].self_attn)),
    "another MLP": lambda: changed(lambda made: subclass(made.blocks[2].mlp)),
    "another block": lambda: changed(lambda made: subclass(made.blocks[2])),
    "another norm": lambda: changed(lambda made: subclass(made.blocks[2].input_layernorm)),
    "flex attention": lambda: changed(
        lambda made: setattr(made.model.config, "_attn_implementation", "flex_attention")
    ),
    "dropout at work": lambda: changed(lambda made: made.model.train(), "llama", attention_dropout=0.1),
}


def changed(change, kind: str = "llama", **config):
    made = backbone(kind, **config)
    change(made)
    return made


def watched(module, pre: bool = False) -> None:
    (module.register_forward_pre_hook if pre else module.register_forward_hook)(lambda *seen: None)


def replace_forward(module) -> None:
    module.forward = module.forward


def subclass(module) -> None:
    module.__class__ = type(f"My{type(module).__name__}", (type(module),), {})


@pytest.mark.parametrize("name", NOT_KNOWN)
def test_what_is_not_known_is_not_read(name):
    assert read_blocks(NOT_KNOWN[name]()) is None


def test_adapters_that_do_more_than_add_are_not_read():
    for targets, options in (
        (["q_proj"], {"use_dora": True}),
        (["q_proj"], {"modules_to_save": ["input_layernorm"]}),
    ):
        made = backbone("llama")
        add_lora(made, "av", 3, targets, **options)
        with made.using("av"):
            assert read_blocks(made) is None


def test_a_hook_on_a_block_that_does_not_run_disturbs_nothing():
    made = backbone("llama")
    watched(made.blocks[3])
    assert read_blocks(made, 4) is None and len(read_blocks(made, 3).blocks) == 3


@pytest.mark.parametrize("kind", ["llama", "gemma3", "qwen3"])
@pytest.mark.parametrize("size", [0.0, 1e-6, 1.0, 1e4])
@torch.no_grad()
def test_norms_are_transformers_own(kind, size):
    for module in (made := backbone(kind)).blocks[0].input_layernorm, made.final_norm:
        x = tiny.random(5, 3, tiny.D_MODEL, seed=1) * size
        before = x.clone()
        torch.testing.assert_close(read_norm(module)(x), module(x), rtol=1e-5, atol=1e-7)
        assert torch.equal(x, before)


def test_a_config_without_a_window_has_none():
    assert read_blocks(holding(MistralConfig(**{**SIZES, "sliding_window": None}))).window is None
