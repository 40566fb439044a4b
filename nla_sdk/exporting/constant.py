"""A decoder block that adds one and the same vector to every state, made of weights that blocks have.

A head with a bias, W·h + b, is a head without one on h + c where W·c = b. The blocks of these models have no biases,
but after an RMSNorm the squares of a state's d numbers add up to d, whatever the state: with the rows of `gate_proj`
±eᵢ and those of `up_proj` eᵢ, two units give act(xᵢ)·xᵢ − act(−xᵢ)·xᵢ = xᵢ², as act(x) − act(−x) = x for SiLU, GELU
and ReLU alike, and `down_proj` sums them into the direction of c. Attention writes through an `o_proj` of zeros. This
is exact but for the norm's ε, which is to the mean square of the state as the error is to c.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import nn

from ..errors import ExportError

if TYPE_CHECKING:
    from transformers import PretrainedConfig

_NORMS = ("input_layernorm", "post_attention_layernorm")
_AROUND = ("pre_feedforward_layernorm", "post_feedforward_layernorm")
_HEAD_NORMS = ("self_attn.q_norm", "self_attn.k_norm")
_ATTENTION = tuple(f"self_attn.{name}_proj" for name in "qkvo")
_MLP = ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")


def offset_of(weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """c with W·c = b: float64 [d].

    Raises:
        ExportError: there is none.
    """
    weight, bias = weight.double(), bias.double()
    offset = torch.linalg.lstsq(weight, bias[:, None], driver="gelsd").solution[:, 0]
    if not (weight @ offset - bias).norm() <= 1e-6 * bias.norm():
        raise ExportError(
            "The reference layout has no place for the bias of the AR's head, and it is not folded into the weights: "
            "no state is mapped to it, as the head's matrix is not invertible. Nothing has been written."
        )
    return offset


def constant_block(like: nn.Module, offset: torch.Tensor, config: PretrainedConfig) -> dict[str, torch.Tensor]:
    """Weights of a block, built as `like` is, whose output is its input plus `offset`: float64, by name in the block.

    Raises:
        ExportError: blocks of this kind are not known to add a constant so.
    """
    shapes = {name: tensor.shape for name, tensor in like.state_dict().items()}
    modules = {name.rpartition(".")[0] for name in shapes}
    sandwich = set(_AROUND) <= modules
    units, d = config.intermediate_size, config.hidden_size
    known = {*_NORMS, *_ATTENTION, *_MLP, *_HEAD_NORMS, *(_AROUND if sandwich else ())}
    if not {*_NORMS, *_ATTENTION, *_MLP} <= modules <= known or units < 2 * d:
        raise ExportError(
            "The reference layout has no place for the bias of the AR's head. It is folded in by one more block that "
            f"adds a constant, which {type(like).__name__} (intermediate_size {units}, hidden_size {d}) is not known "
            "to do: that takes a gated MLP between RMSNorms and an intermediate_size of twice hidden_size. Nothing has "
            "been written."
        )
    block = {name: torch.zeros(shape, dtype=torch.float64) for name, shape in shapes.items()}
    from_one = type(like.get_submodule(_NORMS[0])).__name__.startswith("Gemma")  # its norms multiply by 1 + weight
    for name in modules & {*_NORMS, *_AROUND, *_HEAD_NORMS}:
        block[f"{name}.weight"].fill_(0.0 if from_one else 1.0)
    unit = torch.eye(d, dtype=torch.float64)
    block["mlp.gate_proj.weight"][: 2 * d] = torch.cat([unit, -unit])
    block["mlp.up_proj.weight"][: 2 * d] = torch.cat([unit, unit])
    written = offset.double().cpu()
    if sandwich:
        written, factor = _before_norm(written, config.rms_norm_eps)
        block[f"{_AROUND[1]}.weight"].fill_(factor - 1 if from_one else factor)
    block["mlp.down_proj.weight"][:, :d] = written[:, None] / d
    block["mlp.down_proj.weight"][:, d : 2 * d] = -written[:, None] / d
    return block


def _before_norm(offset: torch.Tensor, eps: float) -> tuple[torch.Tensor, float]:
    """A vector y and a factor t of an RMSNorm after it with t·y / √(mean(y²) + ε) = offset.

    t is a power of two, which every dtype holds exactly; y is small enough for ε to bring its length down to what is
    asked for.
    """
    size = float(offset.square().mean().sqrt())
    factor = 2.0 ** max(0, math.ceil(math.log2(size * 1.25))) if size > 0 else 1.0
    share = size / factor  # what the norm is to give: below 1, which it gives at length √ε·share/√(1 − share²)
    length = math.sqrt(eps) / math.sqrt(1 - share**2)
    return offset / factor * length, factor
