"""What a pair keeps beside its language model: the AR's linear head and the activation mean of a centred pair."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from ...contract import Contract
from ...errors import HeadError, MissingFileError
from .files import read_tensors
from .finite import refuse_non_finite
from .transforms import Transform

HEAD_FILES = ("linear_head.safetensors", "linear_head.pt", "value_head.safetensors")


def load_head(folder: Path, d_model: int, *, bias: bool | None = None) -> nn.Linear:
    """Read the AR's head from `linear_head.safetensors`, `linear_head.pt` or `value_head.safetensors`.

    Args:
        folder: the AR's folder.
        d_model: both sides of the head.
        bias: what the contract's `head_bias` says; None: as found.
    Returns:
        A float32 Linear(d_model, d_model).
    Raises:
        MissingFileError, HeadError, UnsafeFileError, NonFiniteWeightsError.
    """
    found = [folder / name for name in HEAD_FILES if (folder / name).is_file()]
    if not found:
        raise MissingFileError(f"{folder} holds no AR head; expected one of {', '.join(HEAD_FILES)}.")
    path = found[0]
    tensors = _read_tensors(path)
    state = _by_part(tensors)
    if "weight" not in state or set(state) - {"weight", "bias"} or len(state) < len(tensors):
        names = sorted(map(str, tensors))
        raise HeadError(f"{path} holds tensors {names}; expected 'weight' and, with a bias, 'bias'.")
    has_bias = "bias" in state
    if bias is not None and bias != has_bias:
        raise HeadError(
            f"{path} has {'a' if has_bias else 'no'} bias, the contract says head_bias: {str(bias).lower()}."
        )
    shapes = {key: tuple(tensor.shape) for key, tensor in state.items()}
    expected = {"weight": (d_model, d_model)} | ({"bias": (d_model,)} if has_bias else {})
    if shapes != expected:
        raise HeadError(f"{path} holds {shapes}; expected {expected} for d_model {d_model}.")
    refuse_non_finite(state.items(), path)
    for other in found[1:]:  # of two heads nobody says which was trained
        if not _same(state, _by_part(_read_tensors(other))):
            raise HeadError(
                f"{folder} holds two heads that differ, {path.name} and {other.name}. Keep the one that was trained "
                "with this AR, or ask its author which it is."
            )
    head = nn.Linear(d_model, d_model, bias=has_bias)
    head.load_state_dict({key: tensor.float() for key, tensor in state.items()})
    return head.eval().requires_grad_(False)


def same_head(one: Path, other: Path) -> bool:
    """Whether two files hold the same tensors: one head in two formats is one head.

    Raises:
        HeadError, UnsafeFileError: one of them cannot be read.
    """
    return _same(_by_part(_read_tensors(one)), _by_part(_read_tensors(other)))


def _by_part(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {str(key).rpartition(".")[2]: tensor for key, tensor in tensors.items()}


def _same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        part.shape == other[name].shape and torch.equal(part.float(), other[name].float()) for name, part in one.items()
    )


def _read_tensors(path: Path) -> dict[str, torch.Tensor]:
    state = read_tensors(path, HeadError)
    if not isinstance(state, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in state.values()):
        raise HeadError(f"{path} holds a {type(state).__name__}; expected a state dict of a Linear layer.")
    return state


def load_mean(folder: Path, contract: Contract) -> torch.Tensor | None:
    """The activation mean of a centred pair at its layer, float32 [d_model]; None for a pair without centring.

    Raises:
        TransformError, NonFiniteWeightsError: see `Transform.load`.
    """
    return Transform.load(folder, contract).mean()
