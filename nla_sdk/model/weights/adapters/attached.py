"""Adapters on a model in memory: what PEFT calls their parameters, and a model put back after a failed attempt."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ....errors import LoadError
from .plan import MAGNITUDE, TOKEN_ROWS, AdapterPlan

if TYPE_CHECKING:
    from peft import LoraConfig


def live_name(module: str, leaf: str, adapter: str) -> str:
    """The parameter of `adapter` that a slot of an `AdapterPlan` stands for."""
    if leaf == TOKEN_ROWS:
        return f"{module}.token_adapter.{leaf}.{adapter}"
    if leaf == MAGNITUDE:
        return f"{module}.{leaf}.{adapter}.weight"
    matrix, _, part = leaf.rpartition(".")
    if matrix:
        return f"{module}.{matrix}.{adapter}.{part}"
    return f"{module}.{leaf}.{adapter}" if leaf.startswith("lora_") else f"{module}.modules_to_save.{adapter}.{leaf}"


def saved_name(name: str, adapter: str) -> str:
    """The name under which PEFT files a live parameter of `adapter`."""
    name = name.replace(f".modules_to_save.{adapter}.", ".")
    name = name.replace(f".{MAGNITUDE}.{adapter}.weight", f".{MAGNITUDE}")
    name = name.removesuffix(f".{adapter}").replace(f".{adapter}.", ".")
    return f"base_model.model.{name}"


def parameters_of(model: nn.Module, adapter: str, *, every_name: bool = False) -> dict[str, nn.Parameter]:
    """Live parameters of an adapter by name.

    Args:
        every_name: a tied one under each of its names.
    """
    return {
        key: parameter
        for key, parameter in model.named_parameters(remove_duplicate=not every_name)
        if f".{adapter}." in f"{key}."
        and any(part in key for part in (".lora_", ".modules_to_save.", f".{TOKEN_ROWS}."))
    }


def saved_parameters(model: nn.Module, adapter: str) -> dict[str, nn.Parameter]:
    """Live parameters of an adapter as PEFT files them: of a tied module saved whole both names, of all else one."""
    once = parameters_of(model, adapter)
    every = parameters_of(model, adapter, every_name=True)
    return {key: parameter for key, parameter in every.items() if key in once or ".modules_to_save." in key}


def fill(model: nn.Module, adapter: str, plan: AdapterPlan, tensors: Mapping[str, torch.Tensor]) -> None:
    """Copy an adapter's tensors into the parameters that PEFT made for them.

    Raises:
        LoadError: a parameter is of another shape, lacking, or left over.
    """
    live = parameters_of(model, adapter, every_name=True)
    filled = set()
    for key, (module, leaf) in plan.slots.items():
        parameter = live.get(live_name(module, leaf, adapter))
        if parameter is None or parameter.shape != tensors[key].shape:
            there = "no place" if parameter is None else f"one of shape {tuple(parameter.shape)}"
            raise LoadError(f"PEFT made {there} for {key} of shape {tuple(tensors[key].shape)}.")
        parameter.data.copy_(tensors[key])
        filled.add(id(parameter))
    if left := sorted(key for key, parameter in live.items() if id(parameter) not in filled):
        raise LoadError(f"PEFT made {len(left)} tensors that no file fills, first {left[0]}.")


@contextmanager
def put_back(*roots: nn.Module | None) -> Iterator[None]:
    """Undo what an attempt that fails did to the modules: children, parameters, attributes and requires_grad.

    PEFT replaces modules one by one, so an error midway leaves a model with half an adapter. Numbers are not kept: no
    weight of a base is ever written to.
    """
    modules = {id(module): module for root in roots if root is not None for module in root.modules()}
    before = [(module, dict(vars(module))) for module in modules.values()]
    containers: dict[int, tuple[Any, Any]] = {}
    for _, attributes in before:
        for value in attributes.values():
            if isinstance(value, (dict, list, set)):
                containers[id(value)] = (value, value.copy())
    grads = [
        (parameter, parameter.requires_grad) for module in modules.values() for parameter in module.parameters(False)
    ]
    try:
        yield
    except BaseException:
        for module, attributes in before:
            vars(module).clear()
            vars(module).update(attributes)
        for container, content in containers.values():  # in place: some are shared
            container.clear()
            container.extend(content) if isinstance(container, list) else container.update(content)
        for parameter, grad in grads:
            parameter.requires_grad_(grad)
        raise


def write_adapter(folder: Path, config: LoraConfig, state: Mapping[str, torch.Tensor], base: str) -> None:
    """Write an adapter as PEFT's two files into an existing folder.

    Args:
        state: its tensors under PEFT's file names.
        base: what the config calls the base model.
    """
    from safetensors.torch import save_file

    raw = config.to_dict()
    raw.update(base_model_name_or_path=base, inference_mode=True)
    for key in ("target_modules", "modules_to_save", "exclude_modules"):
        if isinstance(raw.get(key), set):
            raw[key] = sorted(raw[key])
    text = json.dumps(raw, indent=2, sort_keys=True, default=str) + "\n"
    (folder / "adapter_config.json").write_text(text, encoding="utf-8")
    save_file(dict(state), folder / "adapter_model.safetensors", metadata={"format": "pt"})
