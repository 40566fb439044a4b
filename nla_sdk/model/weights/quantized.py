"""Checkpoints that are stored quantised ("…-bnb-4bit"): recognised by their config, refused or held to what was asked.

transformers (5.23) ignores `dtype=` for them: what they compute in, and what of them is not quantised, is what their
author saved. What is promised of every other model must hold of these as well: a row's result does not depend on the
rows beside it, and the precision on record is the one that ran.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ...errors import QuantizationError, SlowWarning
from ...io.parsing import parse_json
from ...io.text import ENCODING

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_said = False
KEPT = ("nf4", "fp4")
_REASONS = {
    "int8": "which columns keep 16 bits is decided for a whole batch, so a row's result depends on the rows beside it",
}


def stored_quantization(folder: Path) -> str | None:
    """What a checkpoint is stored in, by its config.json: "nf4", "fp4", "int8", "gptq", …; None: full precision.

    Raises:
        QuantizationError: quantization_config is something else than a mapping.
    Example:
        >>> stored_quantization(Path("llama-3-8b-bnb-4bit"))                                    # doctest: +SKIP
        'nf4'
    """
    try:
        config = parse_json((folder / "config.json").read_text(encoding=ENCODING))
    except (OSError, ValueError):  # said where the config is read in earnest
        return None
    if not isinstance(config, Mapping):
        return None
    inner = config.get("text_config")
    for holder in (config, inner if isinstance(inner, Mapping) else {}):
        if isinstance(found := holder.get("quantization_config"), Mapping):
            return _kind(found)
        if found is not None:
            raise QuantizationError(
                f"{folder / 'config.json'}: quantization_config is {json.dumps(found)[:80]}; expected a mapping, or no "
                "such key where the weights are not quantised. Ask its author which of the two it is."
            )
    return None


def _kind(stored: Mapping[str, Any]) -> str:
    method = str(stored.get("quant_method") or "").lower()
    if stored.get("load_in_4bit") or stored.get("_load_in_4bit"):  # old files name no method
        return str(stored.get("bnb_4bit_quant_type") or "fp4").lower()
    if stored.get("load_in_8bit") or stored.get("_load_in_8bit"):
        return "int8"
    return method or "an unnamed quantisation"


def agreed(asked: str | None, stored: str | None, ref: str) -> str | None:
    """The quantisation a checkpoint runs in, for what was asked and what it is stored in.

    Args:
        asked: "auto" (as it is stored), "nf4" or None (none).
    Raises:
        QuantizationError: it is stored in another one than was asked for, or in one that is not run here.
    """
    if stored is None:
        return None if asked == "auto" else asked
    if stored not in KEPT:
        why = _REASONS.get(stored, "what it computes in, and whether a row depends on its batch, is not known here")
        raise QuantizationError(
            f"{ref} is stored quantised ({stored}), which is not run here: {why}. Pass base= the same model in full "
            "precision (quantization='nf4' makes it small), or one stored in bitsandbytes' nf4 or fp4."
        )
    if asked not in ("auto", stored):
        config = " (a training config: `quantization: nf4`)" if stored == "nf4" else ""
        wanted = "without quantisation (None)" if asked is None else f"in {asked}"
        raise QuantizationError(
            f"{ref} is stored in {stored} and was asked for {wanted}: its full-precision weights are not there. Pass "
            f"quantization='auto' or '{stored}'{config}, or base= the same model in full precision."
        )
    return stored


def say_slow(quantization: str | None, device: torch.device) -> None:
    """Warn, once a process, that 4 bits on a CPU are for fitting, not for speed."""
    global _said
    if quantization is None or device.type != "cpu" or _said:
        return
    _said = True
    warnings.warn(
        f"{quantization} on a CPU is slow: every product unpacks its weights first. It is for models that do not fit "
        "into memory otherwise, and for what a GPU would compute; else take quantization=None (--quantization none).",
        SlowWarning,
        stacklevel=4,
    )


def hold_to(model: PreTrainedModel, dtype: torch.dtype) -> None:
    """Have a model that was stored in 4 bits compute in `dtype`, and keep in it what of the model is not quantised.

    The 4-bit weights stay as they are stored. They are then what quantising the full-precision model at `dtype` gives.

    Raises:
        QuantizationError: its config says 4 bits and its file holds plain weights.
    """
    from bitsandbytes.nn import Linear4bit, Params4bit

    for name, module in model.named_modules():
        if isinstance(module, Linear4bit):
            module.compute_dtype, module.compute_type_is_set = dtype, True
            if (state := getattr(module.weight, "quant_state", None)) is None:
                raise QuantizationError(
                    f"{model.name_or_path}: config.json says that the weights are stored in 4 bits, and "
                    f"{name}.weight is not. Take quantization_config out of config.json if none is quantised, or ask "
                    "its author for the quantised weights."
                )
            state.dtype = dtype  # else weights are rounded to the stored dtype when they are unpacked
    for parameter in model.parameters():
        if parameter.is_floating_point() and not isinstance(parameter, Params4bit):
            parameter.data = parameter.data.to(dtype)
    for module in model.modules():
        for key, buffer in module._buffers.items():
            if buffer is not None and buffer.dtype in (torch.float16, torch.bfloat16):
                module._buffers[key] = buffer.to(dtype)
    model.config.dtype = dtype
    keep_compute_dtype(model)


def keep_compute_dtype(model: nn.Module) -> None:
    """Have 4-bit layers on a CPU compute in the dtype they were told to.

    Where the CPU has AVX512-BF16, bitsandbytes (0.50) repacks them at their first use for a kernel that rounds to
    bfloat16 whatever the compute dtype says: results were off by 2e-3, and a row's depended on its batch.
    """
    for module in model.modules():
        if getattr(module, "support_avx512bf16_for_cpu", False):
            module.support_avx512bf16_for_cpu = False


def holds_4bit(model: nn.Module) -> bool:
    """Whether any of a model's layers are bitsandbytes' 4-bit ones."""
    return any(type(parameter).__name__ == "Params4bit" for parameter in model.parameters())
