"""Files as the census's releases have them: whole and truncated checkpoints, adapters, heads, sidecars of each dialect.

Nothing here imports nla_sdk.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from tests import tiny

from . import templates
from .bases import D, save_checkpoint, tokens_of

LAYER = 2  # of five blocks
PATTERN = r".*\.layers\.\d+\.(self_attn|mlp)\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
EVERY = [*ATTENTION, "gate_proj", "up_proj", "down_proj"]


# --- adapters ---------------------------------------------------------------------------------------------------
def lora(folder: Path, base: Path, seed: int, *, targets: list[str] | None = None, r: int = 8, **config: Any) -> Path:
    """A PEFT folder on a base, with tensors for all its blocks."""
    targets = targets or EVERY
    model = AutoModelForCausalLM.from_pretrained(base)
    pattern = rf".*\.layers\.\d+\.(self_attn|mlp)\.({'|'.join(targets)})"
    tensors = tiny.lora_tensors(model, pattern, seed, rank=r)
    named = {"target_modules": targets, "r": r, "lora_alpha": 2 * r, "base_model_name_or_path": str(base)}
    return tiny.write_adapter(folder, tensors, pattern, **(named | config))


def with_embedding(folder: Path, base: Path, seed: int) -> Path:
    """The same with a trained copy of the input embedding (`modules_to_save`): the base's own is out of the path."""
    model = AutoModelForCausalLM.from_pretrained(base)
    (name,) = [name for name, module in model.named_modules() if module is model.get_input_embeddings()]
    weight = model.get_input_embeddings().weight.detach()
    file = folder / "adapter_model.safetensors"
    changed = weight + tiny.random(*weight.shape, seed=seed, scale=0.05)
    save_file({**load_file(file), f"base_model.model.{name}.weight": changed}, file, metadata={"format": "pt"})
    config = json.loads((folder / "adapter_config.json").read_text())
    config["modules_to_save"] = [name.rpartition(".")[2]]
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def lora_and_head(
    folder: Path, base: Path, seed: int, *, blocks: int, r: int = 8, alpha: int = 16, **meta: Any
) -> Path:
    """An AR of EasyNLA's trainer: one file with LoRA and head, named as in its critic, and `ar_meta.json`."""
    model = AutoModelForCausalLM.from_pretrained(base)
    pattern = rf".*\.layers\.[0-{blocks - 1}]\.self_attn\.({'|'.join(ATTENTION)})"
    tensors = {
        name.replace("base_model.model.", "backbone.").replace(".weight", ".default.weight"): tensor
        for name, tensor in tiny.lora_tensors(model, pattern, seed, rank=r).items()
    }
    tensors["value_head.weight"] = tiny.random(D, D, seed=seed + 1, scale=1 / 8)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "ar_lora_value_head.safetensors")
    facts = {"ar_num_layers": blocks, "lora_r": r, "lora_alpha": alpha, "quant": "none", "target_modules": ATTENTION}
    (folder / "ar_meta.json").write_text(json.dumps(facts | meta))
    return folder


# --- checkpoints ------------------------------------------------------------------------------------------------
def cut_checkpoint(folder: Path, kind: str, seed: int, *, blocks: int, norm: bool) -> Path:
    """A whole AR: the first blocks, no lm_head, with or without the final norm; its head lies beside it."""
    save_checkpoint(folder, kind, seed, blocks)
    file = folder / "model.safetensors"
    dropped = {"lm_head.weight"} | (set() if norm else {"model.norm.weight"})
    kept = {key: tensor for key, tensor in load_file(file).items() if key not in dropped}
    save_file(kept, file, metadata={"format": "pt"})
    value_head(folder, seed + 1)
    return folder


def value_head(folder: Path, seed: int) -> torch.Tensor:
    """`value_head.safetensors`: one tensor `weight` [d, d], no bias."""
    weight = tiny.random(D, D, seed=seed, scale=1 / 8)
    save_file({"weight": weight}, folder / "value_head.safetensors")
    return weight


# --- sidecars ---------------------------------------------------------------------------------------------------
def marker_tokens(kind: str, marker: str, before: str = "<concept>", after: str = "</concept>") -> dict[str, Any]:
    """A marker with its id and those of its neighbours, as a tokenizer of this kind reads them."""
    tokens = tokens_of(kind)
    ids = tokens(before + marker + after, add_special_tokens=False).input_ids
    at = ids.index(tokens.convert_tokens_to_ids(marker))
    return {
        "injection_char": marker,
        "injection_token_id": ids[at],
        "injection_left_neighbor_id": ids[at - 1],
        "injection_right_neighbor_id": ids[at + 1],
    }


def reference_sidecar(folder: Path, role: str, kind: str, base: Path, *, scale: float, marker: str, av: str) -> Path:
    """`nla_model` with nested keys, as the reference implementation writes it: nothing about style, BOS or norm."""
    tokens = tokens_of(kind)
    facts: dict[str, Any] = {
        "kind": "nla_model",
        "role": role,
        "base_model": str(base),
        "d_model": D,
        "extraction": {
            "layer_index": LAYER,
            "injection_scale": scale if role == "av" else None,
            "mse_scale": math.sqrt(D),
        },
        "tokens": {
            **marker_tokens(kind, marker),
            "critic_suffix_ids": tokens("</text> <summary>", add_special_tokens=False).input_ids[-3:],
        },
        "prompt_templates": {"av": av, "ar": templates.AR},
    }
    if role == "ar":
        facts["ar"] = {"num_hidden_layers": LAYER}
    return tiny.write_sidecar(folder, **facts)


def dataset_sidecar(
    folder: Path, kind: str, base: Path, *, marker: str, extraction: Mapping[str, Any] | None = None, **changes: Any
) -> Path:
    """`nla_dataset`, copied beside a checkpoint by its trainer: nothing about role, site, scale, style or BOS."""
    facts = {
        "kind": "nla_dataset",
        "base_model": str(base),
        "d_model": D,
        "extraction": {"layer_index": LAYER, "norm": "none", "mse_scale": math.sqrt(D), **(extraction or {})},
        "tokens": marker_tokens(kind, marker),
        "prompt_templates": {"actor": templates.KITFT, "critic": templates.AR},
    }
    return tiny.write_sidecar(folder, **(facts | changes))
