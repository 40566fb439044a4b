"""A model in memory, adapters on it → its plain weights: what a checkpoint without adapters has to hold.

Every weight is made in float32 and from full numbers: a 4-bit weight is unpacked first. Merging into the 4-bit weights
themselves would round the sum to their 16 levels again, and most of an adapter's update is smaller than one step.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from ..errors import ExportError
from ..model.quiet import quiet


def merged(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Name and float32 value, on the CPU, of every weight of `model` with the adapters that are on merged in.

    The names are those of the bare model. The model is not changed; the caller holds it (`Backbone.using`).

    Raises:
        ExportError: something of an adapter is no weight of a plain model.
    """
    with quiet():
        from peft.tuners.lora import LoraLayer
        from peft.utils.other import ModulesToSaveWrapper, TrainableTokensWrapper

    def walk(module: nn.Module, path: str) -> Iterator[tuple[str, torch.Tensor]]:
        if isinstance(module, LoraLayer):
            yield from _lora(module, path)
        elif isinstance(module, TrainableTokensWrapper):
            yield from _token_rows(module.token_adapter, path)
        elif isinstance(module, ModulesToSaveWrapper):
            active = [name for name in _active(module) if name in module.modules_to_save]
            yield from walk(module.modules_to_save[active[0]] if active else module.original_module, path)
        elif type(module).__module__.startswith("peft."):
            raise ExportError(f"{path} is a {type(module).__name__} of PEFT's, which is not merged into plain weights.")
        else:
            for name, tensor in _own(module):
                yield f"{path}.{name}".removeprefix("."), full(tensor)
            for name, child in module.named_children():
                yield from walk(child, f"{path}.{name}".removeprefix("."))

    yield from walk(model, "")


def full(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor's numbers, unpacked if they are stored in 4 bits: float32 on the CPU; whole numbers stay such."""
    if (state := getattr(tensor, "quant_state", None)) is not None:
        from bitsandbytes.functional import dequantize_4bit

        tensor = dequantize_4bit(tensor.data, state)
    return tensor.detach().to("cpu", torch.float32 if tensor.is_floating_point() else tensor.dtype)


def _own(module: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """What a checkpoint holds of a module itself: parameters, and buffers that are no caches."""
    yield from ((name, parameter) for name, parameter in module._parameters.items() if parameter is not None)
    for name, buffer in module._buffers.items():
        if buffer is not None and name not in module._non_persistent_buffers_set:
            yield name, buffer


def _active(layer: Any) -> list[str]:
    return [] if layer.disable_adapters else list(layer.active_adapters)


def _lora(layer: Any, path: str) -> Iterator[tuple[str, torch.Tensor]]:
    """A linear layer or an embedding with LoRA on it; DoRA gives each row (or column) its trained norm."""
    base, is_table = layer.get_base_layer(), bool(len(layer.lora_embedding_A))
    weight = full(base.weight)
    bias = None if getattr(base, "bias", None) is None else full(base.bias)
    held = layer.lora_embedding_A if is_table else layer.lora_A
    for name in (active := [name for name in _active(layer) if name in held]):
        scaling = layer.scaling[name]
        if is_table:
            update = (full(layer.lora_embedding_B[name]) @ full(layer.lora_embedding_A[name])).T * scaling
        else:
            update = full(layer.lora_B[name].weight) @ full(layer.lora_A[name].weight) * scaling
            if (shift := layer.lora_B[name].bias) is not None:
                if bias is None:
                    raise ExportError(
                        f"{path}: the adapter adds a bias there (lora_bias) and the base model's layer has none, so a "
                        "plain checkpoint of it has no place for one."
                    )
                bias = bias + full(shift) * scaling
        if name in layer.lora_variant:
            if name not in layer.lora_magnitude_vector or len(active) > 1:
                what = "DoRA beside another adapter" if len(active) > 1 else type(layer.lora_variant[name]).__name__
                raise ExportError(f"{path}: {what} is not merged into plain weights.")
            magnitude = full(layer.lora_magnitude_vector[name].weight)
            weight = weight + update
            norms = weight.norm(dim=0) if is_table else weight.norm(dim=1, keepdim=True)
            weight = weight * (magnitude if is_table else magnitude[:, None]) / norms
        else:
            weight = weight + update
    yield f"{path}.weight", weight
    if bias is not None:
        yield f"{path}.bias", bias


def _token_rows(layer: Any, path: str) -> Iterator[tuple[str, torch.Tensor]]:
    """An embedding, or a head, some of whose rows were trained; a tied one takes its rows from the other."""
    weight = full(layer.base_layer.weight).clone()
    for name in _active(layer):
        if name in layer.token_indices:
            weight[torch.as_tensor(layer.token_indices[name])] = full(layer.trainable_tokens_delta[name])
    yield f"{path}.weight", weight
    if getattr(layer.base_layer, "bias", None) is not None:
        yield f"{path}.bias", full(layer.base_layer.bias)
