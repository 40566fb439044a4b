"""What stands in memory all through a training run, counted by walking a model's modules on the meta device."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from nla_sdk.model.backbone import Backbone
from nla_sdk.model.weights.loading import PER_LAYER_TABLE

from .dry_run import FourBit


@dataclass(frozen=True)
class Counts:
    """What `count` found."""

    packed: int
    """Bytes of 4-bit weights."""
    scales: int
    """Bytes of their quantisation state."""
    plain: int
    """Bytes of all other parameters and buffers on the device."""
    table: int
    """Bytes of the per-layer embedding table, if it stays in CPU RAM."""
    largest: int
    """Bytes of the largest tensor as it is read, that table aside."""
    four_bit: int
    """How many weights are in 4 bits."""
    adapters: tuple[int, ...]
    """Numbers in each adapter tensor."""
    head: int
    """Numbers in the AR's head."""


def count(backbone: Backbone, adapters: list[nn.Parameter], head: nn.Linear | None, *, off_loaded: bool) -> Counts:
    """Walk the modules of a base that `training.fit.plan.dry_run.build` has built; tied weights count once.

    Args:
        backbone: the base, with the adapter on it.
        adapters: the adapter's parameters.
        head: the AR's.
        off_loaded: a per-layer embedding table stays in CPU RAM.
    """
    packed = scales = plain = table = largest = four_bit = 0
    seen = {id(parameter) for parameter in adapters}
    for name, module in backbone.model.named_modules():
        for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
            if id(tensor) in seen:
                continue
            seen.add(id(tensor))
            if off_loaded and name.endswith(PER_LAYER_TABLE):
                table += tensor.nbytes
                continue
            largest = max(largest, tensor.nbytes)
            if isinstance(module, FourBit) and tensor is module.weight:
                packed, scales = packed + module.packed_bytes, scales + module.state_bytes
                four_bit += tensor.numel()
            else:
                plain += tensor.nbytes
    sizes = tuple(parameter.numel() for parameter in adapters)
    in_head = sum(parameter.numel() for parameter in head.parameters()) if head is not None else 0
    return Counts(packed, scales, plain, table, largest, four_bit, sizes, in_head)


def optimizer_bytes(sizes: tuple[int, ...], optimizer: str) -> int:
    """Two states for each number: fp32, or 8 bits with an fp32 scale for 256 of them.

    bitsandbytes keeps tensors of fewer than 4096 numbers in fp32 (its `min_8bit_size`).
    """
    if optimizer == "adamw":
        return sum(8 * size for size in sizes)
    tables = 2 * 4 * 256  # the two code tables, shared by all
    return tables + sum(8 * size if size < 4096 else 2 * (size + 4 * -(-size // 256)) for size in sizes)
