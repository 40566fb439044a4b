"""Tiny ARs of every make that releases have, on four kinds of base, and what each gives, computed plainly."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, Gemma3TextConfig, Qwen2Config

from tests import tiny

D, LAYER, RANK, ALPHA = tiny.D_MODEL, 2, 4, 6
BLOCKS = 6  # of every base
TEMPLATE, MARKED = tiny.AR_TEMPLATE, tiny.AR_TEMPLATE + tiny.MARKER
WITH_DEPTH = "Summary from depth {depth}%: <text>{explanation}</text> <summary>" + tiny.MARKER
TEXTS = [("a cat sat. " * (row % 5) + chr(97 + row % 26) * (1 + row % 3))[: 4 + row] for row in range(8)]

CONFIGS: dict[str, Callable[[], Any]] = {
    "llama": lambda: tiny.llama_config(BLOCKS),
    "qwen": lambda: Qwen2Config(**{**tiny.SIZES, "num_hidden_layers": BLOCKS, "max_position_embeddings": 1024}),
    "gemma3": lambda: Gemma3TextConfig(
        **{**tiny.SIZES, "num_hidden_layers": BLOCKS, "max_position_embeddings": 1024, "num_key_value_heads": 1},
        head_dim=32,
        sliding_window=8,
        layer_types=["sliding_attention", "full_attention"] * (BLOCKS // 2),
    ),
    "gemma4": tiny.gemma_config,
}


@dataclass(frozen=True)
class Base:
    """A tiny base on disk, and the same as transformers has it."""

    family: str
    folder: Path
    model: torch.nn.Module
    tokenizer: Any

    @classmethod
    def make(cls, family: str, folder: Path) -> Base:
        tokens = tiny.tokenizer(bos=family != "qwen", chat=True)
        if family == "qwen":
            tokens.chat_template = tiny.CHAT_TEMPLATE.replace("{{ bos_token }}", "")
        tiny.save_model(folder, CONFIGS[family](), tokens, seed=40)
        return cls(family, folder, tiny.plain_model(folder), tokens)

    @property
    def bos(self) -> list[int]:
        return [2] if self.family != "qwen" else []


@dataclass(frozen=True)
class Plain:
    """How an AR works, for a computation with plain transformers."""

    blocks: int = LAYER + 1
    norm: bool = False
    sqrt_d: bool = False
    weight: torch.Tensor | None = None
    bias: torch.Tensor | None = None
    prompt: Callable[[str], str] = lambda text: TEMPLATE.replace("{explanation}", text)
    bos: bool = True
    at: Callable[[list[int]], int] = lambda ids: len(ids) - 1
    model: torch.nn.Module = field(default_factory=torch.nn.Identity)

    def __call__(self, base: Base, text: str) -> torch.Tensor:
        """The head's output [d] for one text."""
        encoded = base.tokenizer(self.prompt(text), add_special_tokens=False).input_ids
        ids = (base.bos if self.bos else []) + list(encoded)
        decoder = getattr(self.model.model, "language_model", self.model.model)
        states: list[torch.Tensor] = []
        handle = decoder.layers[self.blocks - 1].register_forward_hook(
            lambda module, args, output: states.append(output[0] if isinstance(output, tuple) else output)
        )
        with torch.no_grad():
            hidden = self.model(input_ids=torch.tensor([ids]), use_cache=False, output_hidden_states=True).hidden_states
            handle.remove()
            if self.blocks < len(decoder.layers):  # after the last one transformers gives what the norm makes of it
                torch.testing.assert_close(states[0].reshape(hidden[0].shape), hidden[self.blocks])
            state = states[0].reshape(hidden[0].shape)[0, self.at(ids)]
            state = decoder.norm(state) if self.norm else state
            if self.sqrt_d:
                state = state / state.norm() * math.sqrt(D)
            made = state if self.weight is None else self.weight.float() @ state
            return made if self.bias is None else made + self.bias


def lora(base: Base, scale: float, blocks: int | None = None) -> tuple[dict[str, torch.Tensor], torch.nn.Module]:
    """Random LoRA tensors on the attention of the first blocks, and a copy of the model they have been added to."""
    tensors = tiny.lora_tensors(base.model, tiny.ATTENTION, seed=700, rank=RANK)
    if blocks is not None:
        tensors = {key: one for key, one in tensors.items() if int(key.split(".layers.")[1].split(".")[0]) < blocks}
    merged = copy.deepcopy(base.model)
    with torch.no_grad():
        for key, a in tensors.items():
            if key.endswith(".lora_A.weight"):
                module = merged.get_submodule(key.removeprefix("base_model.model.").removesuffix(".lora_A.weight"))
                module.weight += scale * tensors[key.replace("lora_A", "lora_B")] @ a
    return tensors, merged


def write_lora(folder: Path, base: Base, **facts: Any) -> torch.nn.Module:
    """A LoRA AR without its head; returns the plain model with the LoRA in its weights."""
    tensors, merged = lora(base, ALPHA / RANK)
    tiny.write_adapter(folder, tensors, tiny.ATTENTION, r=RANK, lora_alpha=ALPHA)
    sidecar(folder, base, **facts)
    return merged


def sidecar(folder: Path, base: Base, **facts: Any) -> Path:
    common = {
        "kind": "nla_model",
        "role": "ar",
        "base_model": str(base.folder),
        "d_model": D,
        "layer": LAYER,
        "ar_template": TEMPLATE,
        "ar_num_blocks": LAYER + 1,
        "ar": {"bos": True, "final_norm": "dropped"} | facts.pop("ar", {}),
    }
    return tiny.write_sidecar(folder, **(common | facts))


def write_full(folder: Path, base: Base, *, blocks: int, norm: bool) -> torch.nn.Module:
    """A checkpoint of so many blocks, of other weights than the base's, its final norm in the file or not."""
    config = base.model.config
    kinds = getattr(config.get_text_config(), "layer_types", None)
    if base.family == "gemma4":
        config = tiny.gemma_config(num_hidden_layers=blocks, layer_types=kinds[:blocks], num_kv_shared_layers=0)
    else:
        config = CONFIGS[base.family]()
        config.num_hidden_layers = blocks
        if kinds:
            config.layer_types = kinds[:blocks]
    model = tiny.randomize(AutoModelForCausalLM.from_config(config), seed=55).eval()
    left_out = ("lm_head.weight",) if norm else ("lm_head.weight", "model.norm.weight", "language_model.norm.weight")
    kept = {key: tensor for key, tensor in model.state_dict().items() if not key.endswith(left_out)}
    model.save_pretrained(folder, state_dict=kept)
    base.tokenizer.save_pretrained(folder)
    return model


def square(seed: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return tiny.random(D, D, seed=seed, scale=1 / 8).to(dtype)


def easy_lora(
    folder: Path, base: Base, *, blocks: int = LAYER + 1, **meta: Any
) -> tuple[torch.nn.Module, torch.Tensor]:
    """LoRA tensors and head in one file under EasyNLA's names, `ar_meta.json` beside; rank-stabilised, nowhere said."""
    tensors, merged = lora(base, ALPHA / math.sqrt(RANK), blocks)
    named = {
        key.replace("base_model.model.", "backbone.").replace(".weight", ".default.weight"): tensor
        for key, tensor in tensors.items()
    }
    weight = square(61)
    folder.mkdir(parents=True, exist_ok=True)
    save_file({**named, "value_head.weight": weight}, folder / "ar_lora_value_head.safetensors")
    said = {
        "ar_num_layers": blocks,
        "lora_r": RANK,
        "lora_alpha": ALPHA,
        "quant": "none",
        "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"],
    }
    (folder / "ar_meta.json").write_text(json.dumps(said | meta))
    return merged, weight
