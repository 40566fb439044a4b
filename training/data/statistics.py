"""What `build` found out about the activations, and the contract that follows from it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from nla_sdk.contract import Contract
from nla_sdk.errors import InputError, first_line
from nla_sdk.io.files import atomic, hash64, write_json
from nla_sdk.io.parsing import parse_json
from nla_sdk.io.progress import say
from nla_sdk.metrics import mean_baselines, norm_limit
from nla_sdk.model.backbone import Backbone
from nla_sdk.model.output import OPEN_TAG
from nla_sdk.model.statistics.states import STATISTICS_FILE as STATES_FILE

from ..configs.config import Config
from .moments import moments

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MEAN_FILE = "activation_mean.safetensors"
STATISTICS_FILE = "statistics.json"


def contract_of(
    config: Config,
    role: str,
    tokenizer: PreTrainedTokenizerBase,
    d_model: int,
    /,
    vocabulary: int | None = None,
    **measured: Any,
) -> Contract:
    """The contract of the half `role` ("av" or "ar") that `config` describes, held against the tokenizer.

    Args:
        vocabulary: how many embeddings the base has, see `Contract.verify`.
        measured: contract attributes that only finished tables tell (baseline_mse, …).
    Raises:
        ContractError, ContractMismatchError: the config's templates or marker do not work with this tokenizer.
    """
    values: dict[str, Any] = {
        "kind": "nla_model",
        "role": role,
        "base_model": config.base_id,
        "d_model": d_model,
        "layer": config.layer,
        "mse_scale": "sqrt_d_model",
        "prompt_style": "raw",
        "weights_kind": "lora",
    }
    if role == "av":
        values |= config.av.injection.facts() | {
            "injection_char": config.marker,
            "av_template": config.av.template,
            "bos": getattr(tokenizer, "bos_token_id", None) is not None,
            "output_form": "opened" if config.av.template.endswith(OPEN_TAG) else "tagged",
            "output_stop": "closing_tag",
            "max_new_tokens": config.av.max_new_tokens,
        }
        if config.av.no_repeats:
            values["output_no_repeats"] = True
    else:
        values |= {
            "ar_template": config.ar.template,
            "ar_num_blocks": config.ar.num_blocks or config.layer + 1,
            "ar_bos": getattr(tokenizer, "bos_token_id", None) is not None,
            "ar_final_norm": "dropped",
            "head_bias": True,
            "max_length": config.ar.max_length,
        }
    return Contract.from_dict(values | measured, source="the training config").verify(tokenizer, vocabulary)


@dataclass(frozen=True)
class Statistics:
    """What trainers need to know of the activations they train on.

    Attributes:
        mean: float32 [d], the mean raw training activation, rows of outlying norm left out (see `moments`).
        centred_norm: median ‖v − mean‖ of the training activations.
        baseline_mse: of predicting the mean direction on the held-out activations (mean-norm).
        pair_id: the same for all halves trained on these activations, so that they know each other without
            repositories.
        extraction_precision: what the source model ran at.
        states: the file that tells right activations from wrong ones, which `extract` wrote; None: it didn't run here.
    """

    mean: torch.Tensor
    centred_norm: float
    baseline_mse: float
    pair_id: str
    extraction_precision: str = "float32"
    states: Path | None = None

    @classmethod
    def load(cls, folder: Path) -> Statistics:
        """Read what `build` wrote. InputError: it hasn't."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        at = STATISTICS_FILE
        try:
            found = parse_json((folder / STATISTICS_FILE).read_bytes())
            centred_norm, baseline_mse = float(found["centred_norm"]), float(found["baseline_mse"])
            at = MEAN_FILE
            mean = load_file(folder / MEAN_FILE)["mean"]
        except FileNotFoundError as error:
            raise InputError(
                f"{folder} lacks {STATISTICS_FILE} or {MEAN_FILE}: run `python -m training.data.build` first."
            ) from error
        except (OSError, ValueError, LookupError, TypeError, SafetensorError) as error:
            raise InputError(
                f"{folder / at} is not what `python -m training.data.build` wrote ({first_line(error)}): run it again, "
                "with --overwrite."
            ) from error
        # Before pair_id was recorded, it was the hash of the mean.
        pair_id = found.get("pair_id") or hashlib.sha256(mean.numpy().tobytes()).hexdigest()[:16]
        precision = found.get("extraction_precision") or "float32"
        states = folder / STATES_FILE
        return cls(
            *(mean, centred_norm, baseline_mse, pair_id, precision),
            states=states if states.is_file() else None,
        )

    def contract(self, config: Config, backbone: Backbone, role: str) -> Contract:
        """The verified contract of the half `role` that `config` describes, trained on `backbone`."""
        measured: dict[str, Any] = {
            "baseline_mse": self.baseline_mse,
            "extraction_precision": self.extraction_precision,
            "quantization": backbone.quantization,
            "tokenizer": backbone.tokenizer_used,
            "compute_dtype": str(backbone.dtype).removeprefix("torch."),
            "provenance": {"pair_id": self.pair_id},
        }
        if self.states is not None:
            measured["activation_statistics"] = STATES_FILE
        if config.centred if role == "av" else config.ar.centred:
            measured |= {"activation_mean": MEAN_FILE, "centred_norm": self.centred_norm}
        return contract_of(config, role, backbone.tokenizer, backbone.d_model, backbone.vocabulary, **measured)


def measure(
    folder: Path, training: Callable[[], Iterator[np.ndarray]], held_out: np.ndarray, facts: Mapping[str, Any]
) -> Path:
    """Write `statistics.json` and the mean; the training vectors are streamed, never held.

    Rows of outlying norm count neither for the mean nor for the baseline; how many, and what the mean would have been
    with them, stands in `statistics.json` under `mean`, and is said.

    Args:
        folder: where both go.
        training: gives the raw training activations, each once, as float32 [n, d] blocks; called two or three times.
        held_out: float32 [n, d], the eval activations, each once.
        facts: recorded too: pair_id, extraction_precision, identity.
    Returns:
        The path of `statistics.json`.
    """
    from safetensors.numpy import save_file

    try:
        found = moments(training)
    except ValueError:
        raise InputError("There is no training activation: the splits av_sft, ar_sft and rl are empty.") from None
    if line := found.said():
        say(f"{MEAN_FILE}: {line}")
    norms = np.linalg.norm(held_out.astype(np.float64), axis=1)
    outlying = norms > norm_limit(norms)
    baselines = mean_baselines(held_out[~outlying] if outlying.any() else held_out)
    with atomic(folder / MEAN_FILE) as sibling:
        save_file({"mean": found.mean}, sibling)
    path = folder / STATISTICS_FILE
    write_json(
        path,
        {
            "centred_norm": found.centred_norm,
            "median_norm": found.median_norm,
            "baseline_mse": baselines.mean_norm,
            "baseline_mse_raw_variance": baselines.raw_variance,
            "training_rows": found.rows,
            "eval_activations": len(held_out),
            "eval_rows_left_out": int(outlying.sum()),
            "mean": found.facts(),
            **facts,
        },
    )
    return path


def pair_id_of(row_ids: Iterable[str], base: str, layer: int) -> str:
    """The name of a pair's training activations, from what defines them.

    Not from the numbers themselves: another CPU rounds them differently, and the halves of one run were strangers.

    Args:
        row_ids: of all training activations, in any order.
    """
    keys = [hash64(row_id) for row_id in row_ids]
    digest = hashlib.sha256(np.sort(np.array(keys, dtype=np.uint64)).astype(">u8").tobytes())
    return hashlib.sha256(f"{base}|{layer}|{digest.hexdigest()}".encode()).hexdigest()[:16]
