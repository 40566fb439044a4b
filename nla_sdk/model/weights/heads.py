"""The AR's linear head, or one for each layer: whatever file holds it, under whatever key."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from ...contract import Contract
from ...errors import HeadError, MissingFileError
from .files import AR_ADAPTER, BESIDE_A_LORA, HEAD_FILES, LAYER_HEAD_FILES, by_layer, read_tensors, tensors_by_name
from .finite import refuse_non_finite

# The largest float32 whose square is one too: what is longer has no length that could be divided by.
_LONGEST = math.sqrt(torch.finfo(torch.float32).max)


def read_heads(folder: Path, contract: Contract) -> nn.Linear | dict[int, nn.Linear] | None:
    """What an AR's contract calls its heads: one, one for each layer (by layer), or none.

    Args:
        folder: the AR's folder.
    Raises:
        MissingFileError: there is no head. HeadError: it is of another shape or make, or there is one and the contract
            says none. UnsafeFileError, NonFiniteWeightsError.
    """
    d_model = contract.d_model
    assert d_model is not None, "the contract of a checkpoint has a width"
    if contract.ar_heads == "one":
        return load_head(folder, d_model, bias=contract.head_bias, file=contract.ar_head_file, key=contract.ar_head_key)
    if contract.ar_heads == "per_layer":
        return _load_layer_heads(folder, contract, d_model)
    if found := [name for name in (*HEAD_FILES, *LAYER_HEAD_FILES) if (folder / name).is_file()]:
        raise HeadError(
            f"{contract.source}: `ar.heads` is none, and {folder} holds {found[0]}. Say one or per_layer, or take the "
            "file away if the AR was trained without it."
        )
    return None


def load_head(
    folder: Path, d_model: int, *, bias: bool | None = None, file: str | None = None, key: str | None = None
) -> nn.Linear:
    """Read the AR's head: a `weight` [d_model, d_model] and perhaps a `bias` [d_model], of any float dtype.

    Args:
        folder: the AR's folder.
        d_model: both sides of the head.
        bias: what the contract's `head_bias` says; None: as found.
        file: its name; None: the one of `HEAD_FILES` that is there.
        key: of the weight in it; the bias goes by the same with `bias` in place of `weight`. None: they are all that
            is there; beside an AR's LoRA they begin with `value_head` or `linear_head`.
    Returns:
        A float32 Linear(d_model, d_model).
    Raises:
        MissingFileError, HeadError, UnsafeFileError, NonFiniteWeightsError.
    """
    names = HEAD_FILES if file is None else (file,)
    found = [folder / name for name in names if (folder / name).is_file()]
    if not found:
        several = next((name for name in LAYER_HEAD_FILES if (folder / name).is_file()), None)
        hint = f" It holds {several}: say `ar.heads: per_layer`." if several else ""
        raise MissingFileError(f"{folder} holds no AR head; expected one of {', '.join(names)}.{hint}")
    path = found[0]
    state = _parts(path, key)
    head = _linear(state, path, d_model, bias)
    for other in found[1:]:  # of two heads nobody says which was trained
        if not _same(state, _parts(other, key)):
            raise HeadError(
                f"{folder} holds two heads that differ, {path.name} and {other.name}. Keep the one that was trained "
                "with this AR, or ask its author which it is."
            )
    return head


def same_head(one: Path, other: Path) -> bool:
    """Whether two files hold the same tensors: one head in two formats is one head.

    Raises:
        HeadError, UnsafeFileError: one of them cannot be read.
    """
    return _same(_parts(one, None), _parts(other, None))


def _load_layer_heads(folder: Path, contract: Contract, d_model: int) -> dict[int, nn.Linear]:
    names = LAYER_HEAD_FILES if contract.ar_head_file is None else (contract.ar_head_file,)
    path = next((folder / name for name in names if (folder / name).is_file()), None)
    if path is None:
        raise MissingFileError(f"{folder} holds no heads by layer; expected one of {', '.join(names)}.")
    tensors = {str(key): tensor for key, tensor in _read(path).items()}
    if contract.ar_head_key is None:
        biases = {key: tensor for key, tensor in tensors.items() if key.rpartition(".")[2] == "bias"}
        weights = {key: tensor for key, tensor in tensors.items() if key not in biases}
        parts = {"weight": by_layer(weights), **({"bias": by_layer(biases)} if biases else {})}
    else:
        parts = {part: _of_key(tensors, contract, part) for part in ("weight", "bias")}
        parts = {part: found for part, found in parts.items() if found}
    by_part = {part: found for part, found in parts.items() if found is not None}
    if "weight" not in by_part or sum(map(len, by_part.values())) < len(tensors):
        expected = contract.ar_head_key or "one weight for each layer, its number in the key (23, heads.23.weight)"
        raise HeadError(f"{path} holds tensors {_few(tensors)}; expected {expected}.")
    layers = sorted({layer for found in by_part.values() for layer in found})
    heads = {}
    for layer in layers:
        state = {part: found[layer] for part, found in by_part.items() if layer in found}
        heads[layer] = _linear(state, path, d_model, contract.head_bias, of=f" for layer {layer}")
    return heads


def _of_key(tensors: Mapping[str, torch.Tensor], contract: Contract, part: str) -> dict[int, torch.Tensor]:
    """Of tensors by name those of a part ("weight", "bias") under the contract's key, by layer."""
    key = str(contract.ar_head_key)
    if key.count("{layer}") != 1:
        raise HeadError(
            f"{contract.source}: `ar.head_key` is {key!r}; of one head per layer it needs {{layer}} in the place of "
            "the layer's number."
        )
    pattern = re.compile(re.escape(_named(key, part)).replace(re.escape("{layer}"), r"(\d+)"))
    matches = {name: pattern.fullmatch(name) for name in tensors}
    return {int(match[1]): tensors[name] for name, match in matches.items() if match}


def _named(key: str, part: str) -> str:
    """The key of a head's part, from that of its weight."""
    stem, dot, leaf = key.rpartition(".")
    return key if part == "weight" else f"{stem}{dot}bias" if leaf == "weight" else f"{key}.bias"


def _parts(path: Path, key: str | None) -> dict[str, torch.Tensor]:
    """The weight and, if there is one, the bias of the one head in a file."""
    tensors = _read(path)
    named = {str(name): tensor for name, tensor in tensors.items()}
    if key is not None:
        if key not in named:
            raise HeadError(f"{path} holds tensors {_few(named)}; expected {key!r}, as `ar.head_key` says.")
        return {part: named[name] for part in ("weight", "bias") if (name := _named(key, part)) in named}
    if path.name == AR_ADAPTER:
        named = {name: tensor for name, tensor in named.items() if name.startswith(BESIDE_A_LORA)}
    state = {name.rpartition(".")[2]: tensor for name, tensor in named.items()}
    if "weight" not in state or set(state) - {"weight", "bias"} or len(state) < len(named):
        names = sorted(named)
        raise HeadError(f"{path} holds tensors {names}; expected 'weight' and, with a bias, 'bias'.")
    return state


def _linear(state: Mapping[str, torch.Tensor], path: Path, d_model: int, bias: bool | None, of: str = "") -> nn.Linear:
    """A float32 layer of a head's parts, each of them looked at."""
    has_bias = "bias" in state
    if bias is not None and bias != has_bias:
        raise HeadError(
            f"{path} has {'a' if has_bias else 'no'} bias{of}, the contract says head_bias: {str(bias).lower()}."
        )
    shapes = {key: tuple(tensor.shape) for key, tensor in state.items()}
    expected = {"weight": (d_model, d_model)} | ({"bias": (d_model,)} if has_bias else {})
    if shapes != expected:
        raise HeadError(f"{path} holds {shapes}{of}; expected {expected} for d_model {d_model}.")
    if packed := [key for key, tensor in state.items() if not tensor.is_floating_point()]:
        raise HeadError(f"{path}: {packed[0]}{of} is of {state[packed[0]].dtype}; expected floating-point numbers.")
    refuse_non_finite(((f"{key}{of}", tensor) for key, tensor in state.items()), path)
    _refuse_overflow(state["weight"], path, of)
    head = nn.Linear(d_model, d_model, bias=has_bias)
    head.load_state_dict({key: tensor.float() for key, tensor in state.items()})
    return head.eval().requires_grad_(False)


def _refuse_overflow(weight: torch.Tensor, path: Path, of: str) -> None:
    """Refuse a head of numbers, but so large that what it gives has no length in float32, so no direction either.

    Of a state x of length √d (every component about 1) row w gives at most ‖w‖·√d.
    """
    reach = torch.linalg.vector_norm(weight.double(), dim=1) * math.sqrt(weight.shape[1])
    if rows := (reach > _LONGEST).nonzero()[:, 0].tolist():
        largest = weight.double().abs().max().item()
        raise HeadError(
            f"{path}: weight{of} reaches {largest:.3g}, in {len(rows)} of {len(weight)} rows (first: {rows[0]}) so "
            "large that what it gives overflows float32. It is damaged: download it again, or ask its author."
        )


def _same(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        part.shape == other[name].shape and torch.equal(part.float(), other[name].float()) for name, part in one.items()
    )


def _read(path: Path) -> dict[object, torch.Tensor]:
    state = read_tensors(path, HeadError)
    if not tensors_by_name(state):
        raise HeadError(f"{path} holds a {type(state).__name__}; expected a state dict of a Linear layer.")
    return state


def _few(tensors: Mapping[str, torch.Tensor]) -> str:
    names = sorted(tensors)
    return f"{names[:6]}" + (f" and {len(names) - 6} more" if len(names) > 6 else "")
