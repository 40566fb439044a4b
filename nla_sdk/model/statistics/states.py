"""The states a vector may be read from by mistake, and how far a vector is from each.

A vector is described by its direction and the logarithm of its norm. Of every state of the base (the output of each
block, the embeddings, the state after the final norm, the pair's block without BOS, …) the mean description is known,
and the covariance around it that all states share: linear discriminant analysis. What is kept is its projection, so a
file is small whatever the model's size.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from ...errors import DamagedFileError, MismatchedHalvesError, first_line
from .means import ActivationMean

STATISTICS_FILE = "activation_statistics.safetensors"
FORMAT = "1"
NORM_WEIGHT = 0.05  # of log ‖v‖ beside the unit vector; the covariance takes care of units, this of the shrinkage
FREEDOM = 10.0  # of Student's t, in whose likelihood a few odd rows do not outvote the others
SIZES = (1, 2, 4, 8, 16)
"""Rows of a batch that the thresholds are of."""


def block_state(block: int) -> str:
    """The name of the state after a block."""
    return f"block {block}"


@dataclass(frozen=True, eq=False)
class ActivationStatistics:
    """What activations of one layer of one base look like beside those of its other states.

    Attributes:
        base_model, layer, precision: what they were measured on.
        states: S names: "embedding", "block 0", …, "final norm", "no BOS", "BOS", "left padding", …
        projection: float32 [d_model + 1, k], of descriptions onto the directions that tell states apart.
        centres: float32 [S, k], the states there.
        mean: float32 [d_model], the mean raw activation.
        log_norm: float32 [3], log ‖v‖ of the layer's own rows: 1st, 50th and 99th percentile.
        thresholds: float32 [5], the margin of another state (nats a row) that right batches of SIZES rows stay below in
            99 of 100 cases, measured on texts that the projection had not seen.
        certain: the margin that no single right row came near.
        far: the squared distance to the nearest state that no right row came near.
    """

    base_model: str
    layer: int
    precision: str
    states: tuple[str, ...]
    projection: torch.Tensor
    centres: torch.Tensor
    mean: torch.Tensor
    log_norm: torch.Tensor
    thresholds: torch.Tensor
    certain: float
    far: float

    @property
    def d_model(self) -> int:
        """The length of an activation."""
        return len(self.mean)

    @property
    def mean_direction(self) -> torch.Tensor:
        """float32 [d_model], of norm 1."""
        return self.mean / self.mean.norm()

    def as_mean(self) -> ActivationMean:
        """The mean, with what is known of the distance to it.

        No median ‖v − μ‖ is kept: √(n² − ‖μ‖²) stands for it, n the median ‖v‖, as E‖v‖² = ‖μ‖² + E‖v − μ‖².
        """
        left = float(self.log_norm[1].double().exp()) ** 2 - float(self.mean.double().norm()) ** 2
        norm = math.sqrt(left) if left > 0 else None
        what = f"the mean measured on {self.base_model}"
        return ActivationMean(self.mean, norm, self.layer, self.base_model, self.precision, origin=what)

    @property
    def own(self) -> int:
        """Which of the states is the layer's own."""
        return self.states.index(block_state(self.layer))

    def threshold(self, rows: int) -> float:
        """The margin that another state must have over the layer's own in a batch of so many rows."""
        return float(self.thresholds[sum(size <= rows for size in SIZES) - 1])

    def distances(self, vectors: torch.Tensor) -> torch.Tensor:
        """Squared distances of raw vectors [n, d_model] to every state, [n, S]."""
        found = describe(vectors).float() @ self.projection
        return ((found[:, None] - self.centres) ** 2).sum(-1)

    def scores(self, vectors: torch.Tensor) -> torch.Tensor:
        """Log-likelihoods of raw vectors [n, d_model] under every state, up to a constant, [n, S]."""
        return likelihood(self.distances(vectors), self.centres.shape[1])

    def save(self, file: Path) -> None:
        """Write it as safetensors; the facts go into the header."""
        from safetensors.torch import save_file

        facts = {
            "format": FORMAT,
            "base_model": self.base_model,
            "layer": str(self.layer),
            "precision": self.precision,
            "states": json.dumps(self.states),
        }
        tensors = {name: getattr(self, name).float().contiguous() for name in _TENSORS}
        tensors["limits"] = torch.tensor([self.certain, self.far])
        save_file(tensors, file, metadata=facts)

    @classmethod
    def load(cls, file: Path) -> ActivationStatistics:
        """Read what `save` wrote.

        Raises:
            DamagedFileError: it is not there, or not readable as such.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(file, framework="pt") as opened:
                facts: Mapping[str, str] = opened.metadata() or {}
                tensors = {name: opened.get_tensor(name) for name in (*_TENSORS, "limits")}
            found = cls(
                base_model=facts["base_model"],
                layer=int(facts["layer"]),
                precision=facts["precision"],
                states=tuple(json.loads(facts["states"])),
                certain=float(tensors["limits"][0]),
                far=float(tensors["limits"][1]),
                **{name: tensors[name] for name in _TENSORS},
            )
            found._check(facts["format"])
        except (OSError, SafetensorError, KeyError, ValueError, TypeError, IndexError) as error:
            raise DamagedFileError(
                f"{file} is no file of activation statistics that can be read ({type(error).__name__}: "
                f"{first_line(error)}). Download it again, or take `activation_statistics` out of the contract: they "
                "are measured anew on the base then."
            ) from error
        return found

    def _check(self, form: str) -> None:
        rank = self.projection.shape[1]
        expected = {
            "projection": (self.d_model + 1, rank),
            "centres": (len(self.states), rank),
            "log_norm": (3,),
            "thresholds": (len(SIZES),),
        }
        for name, shape in expected.items():
            if tuple(getattr(self, name).shape) != shape or not torch.isfinite(getattr(self, name)).all():
                raise ValueError(f"{name} is not finite or not of shape {shape}")
        if form != FORMAT or block_state(self.layer) not in self.states or not torch.isfinite(self.mean).all():
            raise ValueError(f"format {form}, layer {self.layer}")

    def belongs(self, base_model: str | None, layer: int, d_model: int, what: str) -> None:
        """Hold it against the contract that names it.

        Raises:
            MismatchedHalvesError: it is of another layer or width.
        """
        if (self.layer, self.d_model) != (layer, d_model):
            raise MismatchedHalvesError(
                f"{what} is of layer {self.layer} and d_model {self.d_model} ({self.base_model}); the contract beside "
                f"it is of layer {layer} and d_model {d_model} ({base_model}). Put the right file there."
            )


_TENSORS = ("projection", "centres", "mean", "log_norm", "thresholds")


def describe(vectors: torch.Tensor) -> torch.Tensor:
    """Raw vectors [n, d] → float64 [n, d + 1]: the direction and the weighted logarithm of the norm."""
    wide = vectors.detach().cpu().double()
    largest = wide.abs().amax(dim=-1, keepdim=True)  # squares of very large or small numbers overflow
    unit = wide / largest
    norm = unit.norm(dim=-1, keepdim=True)
    return torch.cat([unit / norm, NORM_WEIGHT * (norm.log() + largest.log())], dim=-1)


def likelihood(distances: torch.Tensor, rank: int) -> torch.Tensor:
    """Student's t in `rank` dimensions, up to a constant: squared distances → log-likelihoods."""
    return -(FREEDOM + rank) / 2 * torch.log1p(distances / FREEDOM)


def margins(scores: torch.Tensor, own: int) -> torch.Tensor:
    """By how much every state beats the layer's own, row by row: [n, S], −inf for itself."""
    beaten = scores - scores[:, own : own + 1]
    beaten[:, own] = -torch.inf
    return beaten
