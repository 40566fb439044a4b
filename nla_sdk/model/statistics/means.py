"""The mean of a layer's activations, and how far they lie from it: what turns directions into activations and back."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...errors import DamagedFileError, InputError, MissingMeanError, first_line
from ...metrics import norm_limit
from ..injection import rescale

FORMAT = "nla_mean 1"


@dataclass(frozen=True, eq=False)
class ActivationMean:
    """Where a layer's activations lie.

    Attributes:
        vector: float32 [d], μ, the mean of raw activations.
        centred_norm: median ‖v − μ‖; None: not known.
        layer: the block whose output they are; model, precision: what they were read from; None: nobody says.
        rows: how many it is of.
        origin: where it comes from, for messages.

    Example:
        >>> mean = ActivationMean.load("mean.safetensors")  # doctest: +SKIP
        >>> pair.explain(direction, kind="direction", mean=mean)  # doctest: +SKIP
    """

    vector: torch.Tensor
    centred_norm: float | None = None
    layer: int | None = None
    model: str | None = None
    precision: str | None = None
    rows: int | None = None
    origin: str = "the mean that was passed"

    def __post_init__(self) -> None:
        vector, norm = self.vector, self.centred_norm
        if vector.ndim != 1 or not len(vector) or not vector.isfinite().all():
            raise InputError(f"{self.origin} has shape {tuple(vector.shape)}; expected [d_model] finite numbers.")
        if norm is not None and not (math.isfinite(norm) and norm > 0):
            raise InputError(f"{self.origin} has centred_norm {norm}; expected a number > 0.")
        object.__setattr__(self, "vector", vector.detach().float().cpu())

    @classmethod
    def of(cls, rows: torch.Tensor, **facts: Any) -> ActivationMean:
        """The mean of raw activations [n, d], and the median of ‖v − μ‖.

        Rows of a norm far above the others' (attention sinks) are left out, see `metrics.norm_limit`.

        Args:
            facts: layer, model, …
        Raises:
            InputError: there are fewer than two rows.
        """
        rows = rows.double()
        norms = rows.norm(dim=-1)
        rows = rows[norms <= norm_limit(norms.numpy())]
        if len(rows) < 2:
            raise InputError(f"{len(rows)} activations have no mean that says anything; expected many.")
        mean = rows.mean(0)
        return cls(mean.float(), float(np.median((rows - mean).norm(dim=-1).numpy())), rows=len(rows), **facts)

    @property
    def norm(self) -> float:
        """√(‖μ‖² + centred_norm²), about the length of an activation.

        Raises:
            MissingMeanError: as `spread`.
        """
        return math.hypot(float(self.vector.double().norm()), self.spread)

    @property
    def spread(self) -> float:
        """centred_norm.

        Raises:
            MissingMeanError: it is not known.
        """
        if self.centred_norm is None:
            raise MissingMeanError(
                f"{self.origin} does not say how far activations lie from it (the median of ‖v − mean‖). Measure both: "
                "nla mean REF -o mean.safetensors, and mean='mean.safetensors' (--mean); or state "
                "contract={'centred_norm': …}."
            )
        return self.centred_norm

    def point(self, directions: torch.Tensor) -> torch.Tensor:
        """μ + centred_norm · û of directions [..., d]: as far from the mean as an activation, in that direction."""
        return self.vector.to(directions.device) + rescale(directions.float(), self.spread)

    def rest(self, outputs: torch.Tensor) -> torch.Tensor:
        """n · ŷ − μ of an AR's outputs [..., d] whose length means nothing, n the length of an activation (`norm`)."""
        return rescale(outputs.float(), self.norm) - self.vector.to(outputs.device)

    def save(self, file: str | os.PathLike) -> None:
        """Write it as safetensors; all but the mean goes into the header."""
        from safetensors.torch import save_file

        facts = {"centred_norm": self.centred_norm, "layer": self.layer, "model": self.model}
        facts |= {"precision": self.precision, "rows": self.rows}
        said = {name: str(value) for name, value in facts.items() if value is not None}
        save_file({"mean": self.vector.contiguous()}, file, metadata={"format": FORMAT, **said})

    @classmethod
    def load(cls, file: str | os.PathLike) -> ActivationMean:
        """Read what `save` wrote.

        Raises:
            InputError: there is no such file, or `nla mean` did not write it. DamagedFileError: it cannot be read.
        """
        from safetensors import SafetensorError, safe_open

        if not Path(file).is_file():
            raise InputError(f"{file} does not exist; expected a file that `nla mean REF -o mean.safetensors` writes.")
        try:
            with safe_open(file, framework="pt") as opened:
                facts: Mapping[str, str] = opened.metadata() or {}
                if facts.get("format") != FORMAT or "mean" not in opened.keys():  # noqa: SIM118 (no mapping)
                    raise InputError(
                        f"{file} was not written by `nla mean`, so it does not say how far activations lie from the "
                        "mean. Of a mean that you have: ActivationMean(vector, centred_norm=…, layer=…, model=…)."
                    )
                vector = opened.get_tensor("mean")
            return cls(
                vector,
                float(facts["centred_norm"]) if "centred_norm" in facts else None,
                int(facts["layer"]) if "layer" in facts else None,
                facts.get("model"),
                facts.get("precision"),
                int(facts["rows"]) if "rows" in facts else None,
                str(file),
            )
        except (OSError, SafetensorError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            raise DamagedFileError(f"{file} cannot be read ({first_line(error)}); measure it again.") from error
