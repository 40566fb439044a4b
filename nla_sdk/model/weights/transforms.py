"""What is done to vectors before they are injected, and undone to what an AR gives: a mean, a whitening, a linear map.

All three are files beside the contract. A vector v of the source becomes M·W·(v − μ) + b, whatever of these there is;
the norm for the injection comes after it. Back, an AR's output y becomes W⁺·(R·y + r), and where the AR predicts what
is left over a mean, μ plus that direction at `centred_norm`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from torch.nn import functional

from ...contract import Contract
from ...errors import ContractError, TransformError, UnseenValueError, ZeroActivationError
from .files import by_layer, read_tensors, tensors_by_name
from .finite import refuse_non_finite


@dataclass(frozen=True)
class LinearMap:
    """x → weight·x + bias.

    Attributes:
        weight: float32 [out, in].
        bias: float32 [out], or None.
    """

    weight: torch.Tensor
    bias: torch.Tensor | None = None

    def __call__(self, vectors: torch.Tensor) -> torch.Tensor:
        """[..., in] → [..., out]."""
        bias = None if self.bias is None else self.bias.to(vectors.device)
        return functional.linear(vectors, self.weight.to(vectors.device), bias)


@dataclass(frozen=True)
class Transform:
    """What a contract says is done to vectors; false where it is nothing.

    Attributes:
        d_source: width of the vectors that are given and that come back; d_model unless a map says otherwise.
        means: float32 [d_source], by layer; None as the only key: one for every layer.
        whitening: float32 [k, d_source].
        map: to the pair's space, d_model wide.
        back: from there; of an AR.
        centred_norm: norm of what is put on top of the mean on the way back; None: no mean is put back.
        layer: whose mean is meant where no other is said.
        source: the folder, for messages.

    Example:
        >>> transform = Transform.load(folder, contract)  # doctest: +SKIP
        >>> normed(transform.apply(vectors), contract.injection)  # doctest: +SKIP
    """

    d_source: int
    means: Mapping[int | None, torch.Tensor] = field(default_factory=dict)
    whitening: torch.Tensor | None = None
    map: LinearMap | None = None
    back: LinearMap | None = None
    centred_norm: float | None = None
    layer: int | None = None
    source: str = ""

    def __bool__(self) -> bool:
        return bool(self.means) or any(part is not None for part in (self.whitening, self.map, self.back))

    @classmethod
    def load(cls, folder: Path, contract: Contract) -> Transform:
        """Read the files that a contract names.

        `activation_mean`: one tensor [d], or one for each layer, keys with the layer's number. `activation_whitening`:
        one matrix [d, d] or [k, d]. `activation_map`, `reconstruction_map`: a matrix `weight` [out, in] and perhaps a
        `bias` [out]. Each as safetensors, `.npy` (without a bias), or a `.pt` of tensors only.

        Args:
            folder: where the contract lies.
        Raises:
            TransformError: a file is missing, holds something else, or its shape does not fit the others'.
            UnsafeFileError: a pickle that would run code. NonFiniteWeightsError: NaN or infinity.
            ContractError: an AR's contract maps vectors and does not say how its outputs are mapped back.
        """
        d_model = contract.d_model
        assert d_model is not None, "the contract of a checkpoint has a width"
        if contract.role == "ar" and contract.activation_map and not contract.reconstruction_map:
            raise ContractError(
                f"{contract.source}: `activation_map` is {contract.activation_map} and there is no "
                "`reconstruction_map`: what the AR gives is of the mapped space, and nothing says how it is mapped "
                "back. Name the file of the map back."
            )
        mapping = _linear(folder, contract, "activation_map", outputs=d_model)
        back = _linear(folder, contract, "reconstruction_map", inputs=d_model)
        inner = d_model if mapping is None else mapping.weight.shape[1]
        whitening = _whitening(folder, contract, inner)
        d_source = inner if whitening is None else whitening.shape[1]
        if back is not None and back.weight.shape[0] != inner:
            raise TransformError(
                f"{folder / str(contract.reconstruction_map)} holds a weight of {_shape(back.weight)}; expected "
                f"({inner}, {d_model}), from d_model {d_model} to the {inner} numbers before the map."
            )
        return cls(
            d_source=d_source,
            means=_means(folder, contract, d_source),
            whitening=whitening,
            map=mapping,
            back=back,
            centred_norm=contract.centred_norm if contract.ar_target == "centred" else None,
            layer=contract.layer,
            source=str(folder),
        )

    @cached_property
    def unwhitening(self) -> torch.Tensor:
        """The whitening's pseudo-inverse W⁺, float32 [d_source, k]; of a wide model it takes a while, once."""
        assert self.whitening is not None, "there is a whitening"
        return torch.linalg.pinv(self.whitening.double()).float()

    def mean(self, layer: int | None = None) -> torch.Tensor | None:
        """The mean of a layer's vectors, float32 [d_source]; None where there is none at all.

        Raises:
            UnseenValueError: there are means, and none of this layer.
        """
        if not self.means or None in self.means:
            return self.means.get(None)
        wanted = self.layer if layer is None else layer
        if wanted not in self.means:
            known = ", ".join(str(at) for at in sorted(at for at in self.means if at is not None))
            raise UnseenValueError(f"There is no activation mean of layer {wanted} in {self.source}: only of {known}.")
        return self.means[wanted]

    def apply(self, vectors: torch.Tensor, layer: int | Sequence[int] | None = None) -> torch.Tensor:
        """What is injected, but for its norm: M·W·(v − μ) + b.

        Args:
            vectors: float32 [..., d_source], raw.
            layer: the block they were read from, or one for each along the last axis but one; default: the contract's.
        Returns:
            float32 [..., d_model].
        Raises:
            ZeroActivationError: of a vector nothing is left.
            UnseenValueError: there is no mean of that layer.
        """
        if not self:
            return vectors
        if self.means:
            means = [self.mean(at) for at in (layer if isinstance(layer, Sequence) else [layer])]
            mean = torch.stack([mean for mean in means if mean is not None]) if len(means) > 1 else means[0]
            assert mean is not None, "there are means"
            vectors = vectors - mean.to(vectors.device)
            _refuse_zeros(vectors, "equals the pair's activation mean, which is subtracted first")
        made = vectors if self.whitening is None else vectors @ self.whitening.to(vectors.device).T
        made = made if self.map is None else self.map(made)
        if made is not vectors:
            _refuse_zeros(made, "is all zeros once it is whitened and mapped as the contract says")
        return made

    def turn(self, directions: torch.Tensor) -> torch.Tensor:
        """What is injected of directions, but for its norm: M·W·d, what `apply` makes of two vectors that differ by d.

        Neither mean nor bias is in it: (M·W·(v + d − μ) + b) − (M·W·(v − μ) + b) = M·W·d.

        Args:
            directions: float32 [..., d_source].
        Returns:
            float32 [..., d_model].
        Raises:
            ZeroActivationError: of a direction nothing is left.
        """
        made = directions if self.whitening is None else directions @ self.whitening.to(directions.device).T
        made = made if self.map is None else LinearMap(self.map.weight)(made)
        if made is not directions:
            _refuse_zeros(made, "is all zeros once it is whitened and mapped as the contract says")
        return made

    def undo(self, outputs: torch.Tensor, layer: int | None = None) -> torch.Tensor:
        """From what an AR gives to the source's space: the map back, un-whitened, the mean put back.

        Whitening is undone by its Moore–Penrose pseudo-inverse W⁺: what a whitening of fewer dimensions has lost stays
        zero. A centred AR was trained on directions of v − μ, so its output's length means nothing: the median length
        of what is left of an activation (`centred_norm`) stands for it, and μ is put back to be in the units of raw
        activations.

        Args:
            outputs: float32 [n, d_model], none of them zero.
        Returns:
            float32 [n, d_source].
        """
        if self.back is not None:
            outputs = self.back(outputs)
        if self.whitening is not None:
            outputs = outputs @ self.unwhitening.to(outputs.device).T
        if self.centred_norm is None or (mean := self.mean(layer)) is None:
            return outputs
        return mean.to(outputs.device) + self.centred_norm * outputs / outputs.norm(dim=-1, keepdim=True)


def _refuse_zeros(vectors: torch.Tensor, why: str) -> None:
    if (nothing := (vectors == 0).all(dim=-1)).any():
        row = int(nothing.nonzero()[0, 0]) if nothing.ndim else 0
        raise ZeroActivationError(f"The activation in row {row} {why}: no direction is left to explain.")


def _tensors(folder: Path, contract: Contract, name: str) -> tuple[Path, dict[object, torch.Tensor]] | None:
    """The file that `name` names and its tensors; a bare one under "". None: the contract names none."""
    if (file := getattr(contract, name)) is None:
        return None
    path = folder / file
    if not path.is_file():
        raise TransformError(f"The contract names {name} {path}, which cannot be read: there is no such file.")
    found = read_tensors(path, TransformError)
    if isinstance(found, torch.Tensor):
        found = {"": found}
    if not tensors_by_name(found):
        raise TransformError(f"{path} holds {_described(found)}; expected one tensor, or tensors by name.")
    tensors = {key: tensor.float() for key, tensor in found.items()}
    refuse_non_finite(((str(key) or "the array", tensor) for key, tensor in tensors.items()), path)
    return path, tensors


def _means(folder: Path, contract: Contract, width: int) -> dict[int | None, torch.Tensor]:
    if (read := _tensors(folder, contract, "activation_mean")) is None:
        return {}
    path, tensors = read
    layers: dict[int | None, torch.Tensor] | None = None
    if len(tensors) == 1:
        key, mean = next(iter(tensors.items()))
        layers = {None: mean[0] if mean.shape == (1, width) else mean}
        if (of := by_layer({key: mean})) is not None:
            layers = {**of}
    elif (several := by_layer(tensors)) is not None:
        layers = {**several}
    if layers is None or any(tuple(mean.shape) != (width,) for mean in layers.values()):
        raise TransformError(
            f"{path} holds {_shapes(tensors)}; expected one tensor of shape ({width},), or one for each layer under "
            "its number."
        )
    return layers


def _whitening(folder: Path, contract: Contract, outputs: int) -> torch.Tensor | None:
    if (read := _tensors(folder, contract, "activation_whitening")) is None:
        return None
    path, tensors = read
    matrix = next(iter(tensors.values()), None)
    if matrix is None or len(tensors) != 1 or matrix.ndim != 2 or len(matrix) != outputs:
        raise TransformError(
            f"{path} holds {_shapes(tensors)}; expected one matrix of shape ({outputs}, d), by which what is left over "
            "the mean is multiplied. Of a mean and components, write the mean to a file of its own (activation_mean) "
            "and the components, each divided by its deviation, to this one."
        )
    return matrix


def _linear(
    folder: Path, contract: Contract, name: str, *, outputs: int | None = None, inputs: int | None = None
) -> LinearMap | None:
    if (read := _tensors(folder, contract, name)) is None:
        return None
    path, tensors = read
    parts = {str(key).rpartition(".")[2] or "weight": tensor for key, tensor in tensors.items()}
    weight, bias = parts.get("weight"), parts.get("bias")
    fits = (
        weight is not None and weight.ndim == 2 and len(parts) == len(tensors) and not set(parts) - {"weight", "bias"}
    )
    if fits and weight is not None:
        rows, columns = weight.shape
        fits = outputs in (None, rows) and inputs in (None, columns) and (bias is None or bias.shape == (rows,))
    if not fits or weight is None:
        wanted = f"({outputs or 'd'}, {inputs or 'd'})"
        raise TransformError(
            f"{path} holds {_shapes(tensors)}; expected `weight` of shape {wanted} and, with a bias, `bias`, for "
            f"d_model {contract.d_model}."
        )
    return LinearMap(weight, bias)


def _shape(tensor: torch.Tensor) -> str:
    return str(tuple(tensor.shape))


def _shapes(tensors: Mapping[object, torch.Tensor]) -> str:
    shown = {str(key) or "array": tuple(tensor.shape) for key, tensor in list(tensors.items())[:6]}
    return f"{shown}" + (f" and {len(tensors) - 6} more" if len(tensors) > 6 else "")


def _described(found: object) -> str:
    if isinstance(found, Mapping):
        inner = next((value for value in found.values() if not isinstance(value, torch.Tensor)), None)
        keys = f", with keys {sorted(map(str, inner))[:6]}" if isinstance(inner, Mapping) else ""
        return f"a {type(inner).__name__} under {str(next(iter(found)))!r}{keys}"
    return f"a {type(found).__name__}"
