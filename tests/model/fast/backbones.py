"""Tiny random models of every kind whose blocks are known, in memory, with LoRA on every linear layer or without."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from peft import LoraConfig
from transformers import (
    AutoModelForCausalLM,
    DynamicCache,
    Gemma3TextConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
)

from nla_sdk.model.backbone import Backbone
from tests import tiny

BLOCKS = 4
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
SIZES = {
    **tiny.SIZES,
    "num_hidden_layers": BLOCKS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 24,  # not d / heads
    "max_position_embeddings": 1024,
}
KINDS: dict[str, Callable[..., Any]] = {
    "llama": lambda **more: tiny.llama_config(**{**SIZES, "attention_bias": True, "mlp_bias": True, **more}),
    "llama3 rope": lambda **more: tiny.llama_config(
        **{**SIZES, **more},
        rope_parameters={
            "rope_type": "llama3",
            "rope_theta": 1e4,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        },
    ),
    "qwen2": lambda **more: Qwen2Config(**{**SIZES, **more}),
    "qwen3": lambda **more: Qwen3Config(**{**SIZES, **more}),
    "mistral": lambda **more: MistralConfig(**{**SIZES, "sliding_window": None, **more}),
    "gemma3": lambda **more: Gemma3TextConfig(
        **{
            **SIZES,
            "sliding_window": 512,
            "layer_types": ["sliding_attention", "full_attention"] * (BLOCKS // 2),
            "query_pre_attn_scalar": 40,
            **more,
        }
    ),
}


def backbone(kind: str, *, lora: bool = False, seed: int = 7, **config) -> Backbone:
    """A model of its own; with `lora`, an adapter "av" of rank 4 that changes much."""
    return holding(KINDS[kind](**config), lora=lora, seed=seed)


def holding(config, *, lora: bool = False, seed: int = 7) -> Backbone:
    model = tiny.randomize(AutoModelForCausalLM.from_config(config), seed)
    made = Backbone(model, tiny.tokenizer(), ref="tiny")
    if lora:
        add_lora(made, "av", seed + 1)
    return made


def add_lora(made: Backbone, name: str, seed: int, targets=LINEAR, **options) -> None:
    with torch.random.fork_rng():
        made.add_lora(name, LoraConfig(**{"r": 4, "lora_alpha": 6, "target_modules": targets, **options}))
    with torch.no_grad():
        for at, parameter in enumerate(made.adapter_parameters(name).values()):
            parameter.copy_(tiny.random(*parameter.shape, seed=seed * 1000 + at, scale=0.1))


def ids_of(length: int, seed: int) -> list[int]:
    """Token ids, none of them special."""
    return torch.randint(4, tiny.VOCABULARY, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


def cache_of(made: Backbone, rows: list[list[int]]) -> DynamicCache:
    """transformers' own keys and values of rows of one length. The caller has the adapter on."""
    cache = DynamicCache(config=made.model.config)
    with torch.no_grad():
        made.model(input_ids=torch.tensor(rows), past_key_values=cache, use_cache=True)
    return cache


def own_state(made: Backbone, ids: list[int]) -> torch.Tensor:
    """The last token's state after the final norm [d], of a whole forward without a cache."""
    with torch.no_grad():
        return made.model.model(input_ids=torch.tensor([ids]), use_cache=False).last_hidden_state[0, -1]
