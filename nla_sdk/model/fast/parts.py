"""A linear layer as numbers: its weight, its bias, and the low-rank parts that adapters which are on add to it.

Rows come as columns, xᵀ [in, n]: `weight @ xᵀ` is up to a third faster than `x @ weightᵀ` in MKL where there are few
rows, and what several layers make of the same xᵀ can be written into one tensor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional
from torch.nn.modules import module as every

FEW = 128  # rows up to which MKL multiplies weight · xᵀ faster than x · weightᵀ


@dataclass(frozen=True, eq=False)
class Part:
    """y = W x + b + Σ Bᵢ (Aᵢ x), of one linear layer.

    Attributes:
        weight: float32 [out, in], the base's own tensor.
        bias: [out] or None.
        down: [rank, in], all Aᵢ one under another; None: no adapter is on.
        up: [out, rank], all sᵢ·Bᵢ beside one another.
    """

    weight: torch.Tensor
    bias: torch.Tensor | None = None
    down: torch.Tensor | None = None
    up: torch.Tensor | None = None

    def of(self, outputs: torch.Tensor | slice) -> Part:
        """Some of its outputs, int64 [k] or a slice."""
        bias, up = (None if one is None else one[outputs] for one in (self.bias, self.up))
        return Part(self.weight[outputs], bias, self.down, up)


def read_part(module: nn.Module) -> Part | None:
    """A linear layer, plain or with PEFT's LoRA on it, as it computes at this moment; None: it is something else.

    Something else is what only its own call knows all of: quantised or half-precision weights, DoRA, a merged adapter,
    dropout that is at work, a hook; and any layer while autocast chooses what is computed in.
    """
    if torch.is_autocast_enabled("cpu"):
        return None
    if type(module) is nn.Linear:
        plain = module.weight.dtype == torch.float32 and module.weight.device.type == "cpu" and not hooked(module)
        return Part(module.weight, module.bias) if plain else None
    from peft.tuners.lora.layer import Linear as LoraLinear

    if type(module) is not LoraLinear or hooked(module) or type(module.base_layer) is not nn.Linear:
        return None
    base = read_part(module.base_layer)
    if base is None or module.merged:
        return None
    names = [] if module.disable_adapters else [name for name in module.active_adapters if name in module.lora_A]
    downs, ups = [], []
    for name in names:
        down, up, dropout = module.lora_A[name], module.lora_B[name], module.lora_dropout[name]
        dropping = isinstance(dropout, nn.Dropout) and dropout.training and dropout.p > 0
        if name in module.lora_variant or dropping or any(type(one) is not nn.Linear for one in (down, up)):
            return None
        if down.bias is not None or up.bias is not None or hooked(down) or hooked(up) or hooked(dropout):
            return None
        downs.append(down.weight.detach().float())
        ups.append(up.weight.detach().float() * module.scaling[name])
    if not downs:
        return base
    return Part(base.weight, base.bias, torch.cat(downs), torch.cat(ups, dim=1))


def hooked(module: nn.Module) -> bool:
    """Whether somebody watches or changes what a module does when it is called."""
    of_all = every._global_forward_hooks or every._global_forward_pre_hooks
    return bool(of_all or module._forward_hooks or module._forward_pre_hooks) or "forward" in vars(module)


class Stacked:
    """Several linear layers that read the same rows, as few calls as can be.

    Of few rows, xᵀ: the outputs one under another in one tensor, and the low-rank parts one product: the Aᵢ stand one
    under another, the Bᵢ on a diagonal of blocks, whose zeros cost less than further calls.
    """

    def __init__(self, parts: Sequence[Part]) -> None:
        self.parts = list(parts)
        ends = torch.tensor([len(part.weight) for part in parts]).cumsum(0).tolist()
        self.bounds = list(zip([0, *ends[:-1]], ends, strict=True))
        self.size: int = ends[-1]
        downs = [part.down for part in parts if part.down is not None]
        self.down = torch.cat(downs) if downs else None
        self._up: torch.Tensor | None = None

    def __call__(self, x: torch.Tensor) -> list[torch.Tensor]:
        """x float32 [n, in] → each layer's output, [n, out]."""
        return self.by_rows(x) if len(x) > FEW else self.by_columns(x)

    def by_columns(self, x: torch.Tensor) -> list[torch.Tensor]:
        """The same, as weight · xᵀ: what comes back are views of one tensor [Σ out, n]."""
        columns = x.T
        out = columns.new_empty(self.size, columns.shape[1])
        for part, (first, last) in zip(self.parts, self.bounds, strict=True):
            torch.mm(part.weight, columns, out=out[first:last])
            if part.bias is not None:
                out[first:last] += part.bias[:, None]
        if self.down is not None:
            out.addmm_(self._diagonal(self.down), self.down @ columns)
        return [out[first:last].T for first, last in self.bounds]

    def _diagonal(self, down: torch.Tensor) -> torch.Tensor:
        if self._up is None:
            ups = [down.new_empty(len(part.weight), 0) if part.up is None else part.up for part in self.parts]
            self._up = ups[0] if len(ups) == 1 else torch.block_diag(*ups)
        return self._up

    def by_rows(self, x: torch.Tensor) -> list[torch.Tensor]:
        """The same, as x · weightᵀ."""
        outs = [functional.linear(x, part.weight, part.bias) for part in self.parts]
        if self.down is not None:
            low = functional.linear(x, self.down)
            first = 0
            for part, out in zip(self.parts, outs, strict=True):
                if part.up is not None:
                    out.addmm_(low[:, first : first + part.up.shape[1]], part.up.T)
                    first += part.up.shape[1]
        return outs
