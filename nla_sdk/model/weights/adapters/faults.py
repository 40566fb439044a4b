"""An adapter's tensors that cannot be taken: each fault with its cause and its remedy."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from ....errors import AdapterConfigError, AdapterMismatchError, DamagedFileError, LoadError
from ..files import adapter_files
from ..loading import innermost
from .config import NAME, read_json
from .plan import AdapterPlan, kind_of, module_name

if TYPE_CHECKING:
    from peft import LoraConfig

_GATHER = (
    "Its author must gather the weights before saving (DeepSpeed: GatheredParameters, or zero_to_fp32.py; FSDP: a full "
    "state dict)."
)


def refuse_shares(
    folder: Path, plan: AdapterPlan, shapes: Mapping[str, tuple[int, ...]], config: LoraConfig, model: nn.Module
) -> None:
    """Sharded training writes nothing, or one process's share, where the weights were not gathered first."""
    if not shapes:
        raise DamagedFileError(f"{adapter_files(folder)[0]} holds no tensors. Ask its author for the trained adapter.")
    if empty := [key for key, shape in shapes.items() if 0 in shape]:
        raise DamagedFileError(
            f"{len(empty)} of {len(shapes)} adapter tensors in {folder} are empty (first: {empty[0]}): DeepSpeed "
            f"ZeRO-3 leaves that behind where it split the weights over its processes.\n{_GATHER}"
        )
    matrices = {
        k: s for k, s in shapes.items() if k not in plan.inert and re.search(r"\.lora_[AB](\.[^.]+)?\.weight$", k)
    }
    if flat := [key for key, shape in matrices.items() if len(shape) < 2]:
        raise DamagedFileError(
            f"{len(flat)} of {len(shapes)} adapter tensors in {folder} are flat lists of numbers (first: {flat[0]} "
            f"{shapes[flat[0]]}): one process's share of sharded training.\n{_GATHER}"
        )
    if parts := _processes(plan, matrices, config, model):
        raise DamagedFileError(
            f"The adapter in {folder} holds one slice of {parts} of every LoRA matrix: what one process of FSDP or "
            f"tensor-parallel training held.\n{_GATHER}"
        )


def _processes(
    plan: AdapterPlan, matrices: Mapping[str, tuple[int, ...]], config: LoraConfig, model: nn.Module
) -> int | None:
    """Over how many processes the matrices were split along their rows, if every one of them looks so."""
    from peft.utils.other import get_pattern_key

    if not any(cause in ("shape", "rows") for cause in plan.causes.values()):
        return None
    whole = {}
    live = dict(model.named_modules())
    for key in matrices:
        path = next((path for path in _suffixes(module_name(key), live)), None)
        if path is None:
            continue
        module = live[path]
        rank = config.rank_pattern.get(get_pattern_key(config.rank_pattern, path), config.r)
        a = ".lora_A" in key
        whole[key] = (rank, getattr(module, "in_features", 0)) if a else (getattr(module, "out_features", 0), rank)
    for parts in (2, 3, 4, 5, 6, 7, 8, 16, 32, 64):
        if whole and all(
            shape[1] == whole[key][1] and shape[0] in {-(-whole[key][0] // parts), whole[key][0] // parts}
            for key, shape in matrices.items()
            if key in whole
        ):
            return parts
    return None


def _suffixes(name: str, live: Mapping[str, nn.Module]) -> list[str]:
    if name in live:
        return [name]
    block = re.search(r"(?:layers|h|blocks)\.\d+\..+$", name)
    return [path for path in live if block and path.endswith(f".{block[0]}")][:1]


def refuse_misfits(folder: Path, plan: AdapterPlan, model: nn.Module, ref: str) -> None:
    if plan.misfits:
        causes = set(plan.causes.values())
        if causes & {"shape", "block"}:
            advice = "The adapter was made for another base model: check the contract's base_model, or pass base=."
        elif causes == {"twice"}:
            advice = (
                "Two files were merged into one, or one was saved under two nestings: ask its author which is meant."
            )
        elif "rows" in causes:
            advice = (
                "Its author added tokens to the vocabulary: pass base= a folder with the model resized alike "
                "(model.resize_token_embeddings), or ask for the adapter without them."
            )
        else:
            advice = (
                "These names are of another architecture, or of another kind of adapter than LoRA: check the "
                "contract's base_model, or pass base=; else ask its author what wrote the file."
            )
        total = len(plan.misfits) + len(plan.slots) + len(plan.inert) + len(plan.copies)
        raise AdapterMismatchError(
            f"{len(plan.misfits)} of {total} adapter tensors in {folder} fit nowhere in {ref} "
            f"({type(model).__name__}), so the adapter is not loaded:"
            f"{listed([f'{key}: {why}' for key, why in plan.misfits.items()])}\n{advice}"
        )
    if not plan.slots:
        raise AdapterMismatchError(f"No tensor of {adapter_files(folder)[0]} has any effect on {ref}.")


def refuse_biases(folder: Path, plan: AdapterPlan) -> None:
    if (bias := read_json(folder).get("bias")) in (None, "none"):
        return
    keys = [key for key, (_, leaf) in {**plan.slots, **plan.copies}.items() if leaf == "bias"]
    if keys:
        raise AdapterConfigError(
            f"{folder / NAME} says bias: {bias!r}: {len(keys)} biases of the base itself were trained (first: "
            f"{keys[0]}), and the base is shared by all roles. Ask its author for lora_bias: true in its place."
        )


def check_copy(folder: Path, key: str, tensor: torch.Tensor, model: nn.Module, path: str, leaf: str) -> None:
    """PEFT saves an embedding with a LoRA on it along; the LoRA belongs to that embedding."""
    own = getattr(innermost(model.get_submodule(path)), leaf)
    if own.is_meta or getattr(own, "quant_state", None) is not None:
        return
    # In the coarser of the two precisions, each rounded once.
    coarse = min((tensor.dtype, own.dtype), key=lambda dtype: torch.finfo(dtype).bits)
    if not torch.equal(tensor.to(coarse), own.detach().cpu().to(coarse)):
        raise AdapterMismatchError(
            f"{folder} holds {key}, the base's own {leaf} of {path!r} as it was in training, and this base has other "
            "numbers there: its author changed the base. Pass that base as base=."
        )


def check_ties(folder: Path, config: LoraConfig, plan: AdapterPlan, tensors: Mapping[str, torch.Tensor]) -> None:
    """With tied weights the head is the saved embedding; a file that holds both must hold one matrix twice."""
    kept = set(config.modules_to_save or ())
    for key, (live, leaf) in plan.slots.items():
        if kind_of(leaf) == "saved" and live not in kept:
            twin = [k for k, slot in plan.slots.items() if slot[0] in kept and tensors[k].shape == tensors[key].shape]
            if not any(torch.equal(tensors[k], tensors[key]) for k in twin):
                raise LoadError(
                    f"{folder} says ensure_weight_tying, and {key} is not the saved embedding: which of the two is "
                    "meant is not known. Ask its author."
                )


def listed(lines: list[str], limit: int = 8) -> str:
    more = [f"… and {len(lines) - limit} more"] if len(lines) > limit else []
    return "".join(f"\n  {line}" for line in [*lines[:limit], *more])
