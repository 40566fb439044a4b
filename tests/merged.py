"""A plain transformers model with LoRA updates added to its weights by hand: W + Σᵢ sᵢ·Bᵢ·Aᵢ. Imports no nla_sdk."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file

from tests import tiny


def scale(folder: Path) -> float:
    """s of an adapter, from its config: alpha/r, or alpha/√r where it is rank-stabilised."""
    config = json.loads((folder / "adapter_config.json").read_text())
    return config["lora_alpha"] / config["r"] ** (0.5 if config.get("use_rslora") else 1.0)


@torch.no_grad()
def merged(base: Path, *adapters: Path, scales: list[float] | None = None):
    """The model in fp32, its own weights changed."""
    model = tiny.plain_model(base)
    for at, folder in enumerate(adapters):
        s = scale(folder) if scales is None else scales[at]
        file = next(
            folder / n
            for n in ("adapter_model.safetensors", "ar_lora_value_head.safetensors")
            if (folder / n).is_file()
        )
        tensors = load_file(file)
        for key, a in tensors.items():
            if ".lora_A." in key:
                path = key.partition(".lora_A.")[0].removeprefix("base_model.model.")
                model.get_submodule(path).weight += s * (tensors[key.replace(".lora_A.", ".lora_B.")] @ a)
    return model
