"""Every tensor of an adapter file accounted for: where it goes, why it can have no effect, or that it fits nowhere."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from ...errors import AdapterMismatchError, LoadError, MissingFileError
from ...io.quiet import quiet
from .loading import TOWERS, find_blocks, text_config

if TYPE_CHECKING:
    from peft import LoraConfig

_BLOCK_PATH = re.compile(r"(?:^|\.)(?:layers|h|blocks)\.(\d+)\.(.+)$")
_STACK = re.compile(r"(?P<stack>(?:.*?\.)?(?:layers|h|blocks))\.\d+\.")
_SAVED_KEY = re.compile(
    r"^(?:base_model\.model\.)?(?P<module>.+?)\."
    r"(?:(?P<lora>lora_[AB])(?:\.(?!weight)[^.]+)?|modules_to_save(?:\.(?!weight|bias)[^.]+)?|(?=(?:weight|bias)$))"
    r"\.?(?P<leaf>weight|bias)$"
)
_KV_MODULES = {"self_attn.k_proj", "self_attn.v_proj", "self_attn.k_norm", "self_attn.v_norm"}


@dataclass(frozen=True)
class AdapterReport:
    """What became of every tensor of an adapter file.

    Attributes:
        loaded: tensors copied into the model.
        parameters: how many numbers those tensors hold.
        inert: tensor name → why it can have no effect (a block that never runs, a tower that is not kept, …).
    """

    loaded: int
    parameters: int
    inert: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class AdapterPlan:
    """Where each tensor of an adapter file goes in a given model: see `plan_adapter`."""

    slots: Mapping[str, tuple[str, str]]
    """saved key → (live module path, "lora_A.weight" | "lora_B.weight" | "weight" | "bias")."""
    inert: Mapping[str, str]
    misfits: Mapping[str, str]

    def modules(self, kind: str) -> list[str]:
        """Live module paths that get a LoRA (`kind="lora"`) or a saved copy (`kind="saved"`)."""
        return sorted({module for module, leaf in self.slots.values() if leaf.startswith("lora_") == (kind == "lora")})


def plan_adapter(
    model: nn.Module, shapes: Mapping[str, tuple[int, ...]], *, num_blocks_run: int | None = None
) -> AdapterPlan:
    """Account for every tensor of an adapter file: where it goes, why it can have no effect, or that it fits nowhere.

    Works on the module tree alone (the meta device will do), so nothing is changed before all is known. Another
    transformers version or class nests the text model differently; blocks are therefore matched by number and by the
    path inside the block.

    Args:
        model: the bare base model (no adapters yet, or with some: PEFT's `base_layer` is looked through).
        shapes: saved tensor name → shape.
        num_blocks_run: B, how many blocks ever run; tensors of later blocks are inert. None: all run.
    """
    config = text_config(model.config)
    blocks_name, blocks = find_blocks(model, config.num_hidden_layers)
    modules = dict(model.named_modules())
    first_shared = len(blocks) - (getattr(config, "num_kv_shared_layers", 0) or 0)
    slots: dict[str, tuple[str, str]] = {}
    inert: dict[str, str] = {}
    misfits: dict[str, str] = {}
    for key, shape in shapes.items():
        match = _SAVED_KEY.match(key)
        if match is None:
            misfits[key] = "not the name of a LoRA matrix or of a saved module's weight"
            continue
        path, leaf = match["module"], match["leaf"]
        if any(tower in path for tower in TOWERS):
            inert[key] = "belongs to a vision or audio tower, which is not kept"
            continue
        in_block = _BLOCK_PATH.search(path)
        if in_block:
            number, rest = int(in_block[1]), in_block[2]
            if num_blocks_run is not None and num_blocks_run <= number < len(blocks):
                inert[key] = f"block {number} never runs (the AR stops after block {num_blocks_run - 1})"
                continue
            if number >= len(blocks):
                misfits[key] = f"block {number} of a model with {len(blocks)} blocks"
                continue
            path = f"{blocks_name}.{number}.{rest}"
            if path not in modules and number >= first_shared and rest in _KV_MODULES:
                inert[key] = f"block {number} takes its keys and values from an earlier block"
                continue
        elif path not in modules:  # a part outside the blocks that another version nests elsewhere
            root, parts = blocks_name.rpartition(".")[0], path.split(".")
            ends = (".".join([root, *parts[start:]]).removeprefix(".") for start in range(len(parts)))
            path = next((end for end in ends if end in modules), path)
        module = modules.get(path)
        if module is None:
            misfits[key] = f"no module {path!r} in {type(model).__name__}"
            continue
        for wrapped in ("base_layer", "original_module"):  # what PEFT calls a module that it has wrapped
            module = module._modules.get(wrapped, module)
        if match["lora"] is None:
            parameter = getattr(module, leaf, None)
            if parameter is None:
                if any(True for _ in module.parameters()):
                    misfits[key] = f"{path!r} has no {leaf}"
                else:
                    inert[key] = f"{path!r} has no parameters"
            elif tuple(parameter.shape) != tuple(shape):
                misfits[key] = f"shape {tuple(shape)}, the model's {path!r} has {tuple(parameter.shape)}"
            else:
                slots[key] = (path, leaf)
            continue
        in_features, out_features = getattr(module, "in_features", None), getattr(module, "out_features", None)
        if in_features is None or leaf != "weight":
            misfits[key] = f"{path!r} is a {type(module).__name__}, not a linear layer"
        elif len(shape) != 2 or (shape[1] != in_features if match["lora"] == "lora_A" else shape[0] != out_features):
            misfits[key] = f"shape {tuple(shape)} does not fit {path!r}, which is {in_features} → {out_features}"
        else:
            slots[key] = (path, f"{match['lora']}.{leaf}")
    return AdapterPlan(slots, inert, misfits)


def fit_config(
    config: LoraConfig,
    model: nn.Module,
    plan: AdapterPlan,
    shapes: Mapping[str, tuple[int, ...]],
    num_blocks_run: int | None,
) -> list[str]:
    """Make a saved `LoraConfig` name exactly the live modules of `plan`, once file and config are seen to agree.

    Patterns in the config (targets, ranks, alphas) are read under the names the file uses: the live ones may be nested
    differently, and a pattern that matches nothing is something PEFT says nothing about.

    Returns:
        What does not agree, as messages; if there is anything, the config is not changed.
    """
    from peft.tuners.tuners_utils import check_target_module_exists
    from peft.utils.other import get_pattern_key

    # PEFT picks modules by pattern and fills ranks and alphas by pattern; where one misses, it builds a LoRA of other
    # shape or leaves random weights, and warns at most. So each pattern is resolved here and replaced by full paths.
    held: dict[str, dict[str, tuple[int, ...]]] = {}
    names: dict[str, str] = {}
    for key, (live, leaf) in plan.slots.items():
        held.setdefault(live, {})[leaf] = shapes[key]
        names[live] = _SAVED_KEY.match(key)["module"]
    problems: list[str] = []
    ranks: dict[str, int] = {}
    alphas: dict[str, float] = {}
    for live in plan.modules("lora"):
        leaves, name = held[live], names[live]
        rank = config.rank_pattern.get(get_pattern_key(config.rank_pattern, name), config.r)
        if lacking := {"lora_A.weight", "lora_B.weight"} - leaves.keys():
            problems.append(f"{name}: {lacking.pop()} is missing, half a LoRA is not loaded")
        elif len(leaves) > 2:
            problems.append(f"{name}: both a LoRA and a saved copy of the module")
        elif (ranks_held := (leaves["lora_A.weight"][0], leaves["lora_B.weight"][1])) != (rank, rank):
            shown = " and ".join(map(str, sorted(set(ranks_held))))
            problems.append(f"{name}: rank {shown}, adapter_config.json says {rank}")
        ranks[re.escape(live)] = rank
        alphas[re.escape(live)] = config.alpha_pattern.get(
            get_pattern_key(config.alpha_pattern, name), config.lora_alpha
        )

    blocks_name, blocks = find_blocks(model, text_config(model.config).num_hidden_layers)
    stacks = {match["stack"] for name in names.values() if (match := _STACK.match(name))}
    if config.target_modules and config.target_modules != "all-linear":
        for stack in sorted(stacks)[:1]:
            for number, block in enumerate(blocks[:num_blocks_run]):
                for rest, module in block.named_modules():
                    live, name = f"{blocks_name}.{number}.{rest}", f"{stack}.{number}.{rest}"
                    inner = ".lora_" in live or live.endswith(".base_layer")
                    if live in held or inner or not hasattr(module, "in_features"):
                        continue
                    if check_target_module_exists(config, name):
                        problems.append(f"{name}: adapter_config.json targets it, the file has no tensors for it")
    if not problems:
        config.target_modules = plan.modules("lora")
        config.modules_to_save = plan.modules("saved") or None
        config.layers_to_transform = config.layers_pattern = config.exclude_modules = None
        config.rank_pattern = {live: rank for live, rank in ranks.items() if rank != config.r}
        config.alpha_pattern = {live: alpha for live, alpha in alphas.items() if alpha != config.lora_alpha}
    return problems


def read_adapter(
    folder: Path, model: nn.Module, ref: str, num_blocks_run: int | None = None
) -> tuple[LoraConfig, AdapterPlan, dict[str, torch.Tensor]]:
    """Read an adapter from disk for `model`, which is not changed.

    Args:
        folder: holds `adapter_config.json` and `adapter_model.safetensors`.
        ref: what messages call the model.
        num_blocks_run: see `plan_adapter`.
    Returns:
        A config that names the live modules, where each tensor goes, and the tensors that have an effect.
    Raises:
        MissingFileError: one of the two files is not there.
        AdapterMismatchError: some tensors fit nowhere, or config and tensors do not agree; the message lists them.
        LoadError: a file that cannot be read, or holds something else than a LoRA.
    """
    from safetensors import SafetensorError, safe_open

    for needed in ("adapter_config.json", "adapter_model.safetensors"):
        if not (folder / needed).is_file():
            raise MissingFileError(f"{folder} holds no {needed}; expected a PEFT LoRA adapter.")
    config = _read_config(folder)
    try:
        with safe_open(folder / "adapter_model.safetensors", framework="pt") as file:
            keys = list(file.keys())
            shapes = {key: tuple(file.get_slice(key).get_shape()) for key in keys}
            plan = plan_adapter(model, shapes, num_blocks_run=num_blocks_run)
            _refuse_misfits(folder, plan, model, ref)
            if problems := fit_config(config, model, plan, shapes, num_blocks_run):
                raise AdapterMismatchError(
                    f"{folder} is not loaded, its adapter_config.json and adapter_model.safetensors do not agree:"
                    f"{_listed(problems)}\nDownload it again, or ask its author."
                )
            return config, plan, {key: file.get_tensor(key) for key in plan.slots}
    except SafetensorError as error:
        raise LoadError(
            f"{folder / 'adapter_model.safetensors'} is not a readable safetensors file: {error}"
        ) from error


def _refuse_misfits(folder: Path, plan: AdapterPlan, model: nn.Module, ref: str) -> None:
    if plan.misfits:
        raise AdapterMismatchError(
            f"{len(plan.misfits)} of {len(plan.misfits) + len(plan.slots) + len(plan.inert)} adapter tensors in "
            f"{folder} fit nowhere in {ref} ({type(model).__name__}), so the adapter is not loaded:"
            f"{_listed([f'{key}: {why}' for key, why in plan.misfits.items()])}\n"
            "The adapter was made for another base model: check the contract's base_model, or pass base=."
        )
    if not plan.slots:
        raise AdapterMismatchError(f"No tensor of {folder / 'adapter_model.safetensors'} has any effect on {ref}.")


def _read_config(folder: Path) -> LoraConfig:
    with quiet():  # importing PEFT imports bitsandbytes, which logs
        from peft import LoraConfig

    try:
        raw = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise LoadError(f"{folder / 'adapter_config.json'} is not valid JSON: {error}") from error
    if not isinstance(raw, dict) or raw.get("peft_type") != "LORA":
        kind = raw.get("peft_type") if isinstance(raw, dict) else type(raw).__name__
        raise LoadError(f"{folder / 'adapter_config.json'} describes {kind!r}; expected peft_type 'LORA'.")
    known = {key: value for key, value in raw.items() if key in LoraConfig.__dataclass_fields__}
    known.pop("runtime_config", None)
    with quiet():
        config = LoraConfig(**known)
    config.inference_mode = True
    return config


def _listed(lines: list[str], limit: int = 8) -> str:
    more = [f"… and {len(lines) - limit} more"] if len(lines) > limit else []
    return "".join(f"\n  {line}" for line in [*lines[:limit], *more])
