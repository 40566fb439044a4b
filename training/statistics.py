"""What `build` found out about the activations, and the contract that follows from it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import torch

from nla_sdk.backbone import Backbone
from nla_sdk.contract import Contract
from nla_sdk.errors import InputError

from .config import Config

MEAN_FILE = "activation_mean.safetensors"


@dataclass(frozen=True)
class Statistics:
    """Attributes:
    mean: float32 [d], the mean raw training activation.
    centred_norm: median ‖v − mean‖ of the training activations.
    baseline_mse: of predicting the mean direction on the held-out activations (mean-norm).
    pair_id: the same for all halves trained on these activations, so that they know each other without repositories.
    """

    mean: torch.Tensor
    centred_norm: float
    baseline_mse: float
    pair_id: str

    @classmethod
    def load(cls, folder: Path) -> Statistics:
        """Read what `build` wrote. InputError: it hasn't."""
        from safetensors.torch import load_file

        try:
            found = json.loads((folder / "statistics.json").read_text(encoding="utf-8"))
            mean = load_file(folder / MEAN_FILE)["mean"]
        except OSError as error:
            raise InputError(
                f"{folder} lacks statistics.json or {MEAN_FILE}: run `python -m training.build` first."
            ) from error
        pair_id = hashlib.sha256(mean.numpy().tobytes()).hexdigest()[:16]
        return cls(mean, found["centred_norm"], found["baseline_mse"], pair_id)

    def contract(self, config: Config, backbone: Backbone, role: str) -> Contract:
        """The verified contract of the half `role` that `config` describes."""
        values = {
            "kind": "nla_model",
            "role": role,
            "base_model": config.base_id,
            "d_model": backbone.d_model,
            "layer": config.layer,
            "injection_scale": "sqrt_d_model" if role == "av" else None,
            "mse_scale": "sqrt_d_model",
            "prompt_style": "raw",
            "compute_dtype": "float32",
            "extraction_precision": "float32",
            "baseline_mse": self.baseline_mse,
            "provenance": {"pair_id": self.pair_id},
        }
        if role == "av":
            values |= {
                "injection_char": config.marker,
                "av_template": config.av.template,
                "max_new_tokens": config.av.max_new_tokens,
            }
        else:
            values |= {
                "ar_template": config.ar.template,
                "ar_num_blocks": config.layer + 1,
                "head_bias": True,
                "max_length": config.ar.max_length,
            }
        if config.centred if role == "av" else config.ar.centred:
            values |= {"activation_mean": MEAN_FILE, "centred_norm": self.centred_norm}
        return Contract.from_dict(values, source="the training config").verify(backbone.tokenizer)
