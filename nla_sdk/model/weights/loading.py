"""A model folder → a language model in memory: its precision, no towers, every tensor where it belongs."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from ...errors import DeviceError, LoadError, MissingFileError, OutOfMemoryError, QuantizationError, first_line
from ...imports import put_off, uncollected
from ..quiet import quiet
from .damage import damaged_file, memory_ended
from .leftovers import refuse_unplaced, refuse_unscaled, tensor_names
from .quantized import hold_to, keep_compute_dtype
from .tokenizers import load_tokenizer

if TYPE_CHECKING:
    from transformers import BitsAndBytesConfig, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

TOWERS = ("vision_tower", "audio_tower", "vision_model", "embed_vision", "embed_audio", "multi_modal_projector")
TOWER_CONFIGS = ("vision_config", "audio_config")
TEXT_ONLY = {
    r"^(model\.)?language_model\.(model\.)?(?=\w+\.)(?!lm_head\.)": "model.",
    r"^(model\.)?language_model\.lm_head\.": "lm_head.",
}
"""What a multimodal wrapper calls its language model's tensors → what the text-only class calls them."""
NO_MODEL = (OSError, ValueError, RuntimeError, ImportError, LookupError, TypeError, AttributeError)
"""What transformers raises for a folder that holds no model it can load."""
PER_LAYER_TABLE = "embed_tokens_per_layer"


def pick_device(device: str | int | torch.device = "auto") -> torch.device:
    """`"auto"` → the current CUDA device, else Apple's MPS, else the CPU; anything else as torch reads it.

    Raises:
        DeviceError: there is no such device here, or it is no device's name.
    """
    if device != "auto":
        return _checked_device(device)
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def _checked_device(device: str | int | torch.device) -> torch.device:
    """A device by its name, if this machine has it and models can be run on it."""
    instead = "pass 'auto' or 'cpu' (nla: --device cpu), or see nla doctor"
    try:
        chosen = torch.device(device)
    except (RuntimeError, TypeError, ValueError):
        raise DeviceError(
            f"device={device!r} is no device: expected auto, cpu, cuda, cuda:1 or mps; {instead}."
        ) from None
    if chosen.type == "cuda":
        if not torch.cuda.is_available():
            built = "this torch is built without CUDA" if torch.version.cuda is None else "torch finds no CUDA GPU"
            built = built if getattr(torch.version, "hip", None) is None else "torch finds no GPU"
            raise DeviceError(f"device={str(device)!r}: {built} on this machine; {instead}.")
        count = torch.cuda.device_count()
        if chosen.index is not None and chosen.index >= count:
            raise DeviceError(f"device={str(device)!r}: this machine has cuda:0 to cuda:{count - 1}; {instead}.")
        # An index, not a bare "cuda": accelerate's device maps read the two differently.
        return torch.device("cuda", torch.cuda.current_device() if chosen.index is None else chosen.index)
    if chosen.type == "mps" and not torch.backends.mps.is_available():
        raise DeviceError(f"device={str(device)!r}: torch finds no Apple GPU on this machine; {instead}.")
    if chosen.type not in ("cpu", "mps", "xpu"):
        raise DeviceError(f"device={str(device)!r}: models are run on cpu, cuda, mps or xpu only; {instead}.")
    if chosen.type == "xpu" and not torch.xpu.is_available():
        raise DeviceError(f"device={str(device)!r}: torch finds no Intel GPU on this machine; {instead}.")
    if chosen.type == "cpu" and chosen.index:
        raise DeviceError(f"device={str(device)!r}: there is one cpu; {instead}.")
    return chosen


def pick_dtype(dtype: str | torch.dtype, device: torch.device, preferred: str | None = None) -> torch.dtype:
    """`"auto"` → the contract's `compute_dtype`, else bfloat16 on a GPU that has it, float32 on a CPU.

    float16 is not offered to a CPU by "auto": its matrix products are emulated there, slow and less exact.
    """
    if dtype != "auto":
        resolved = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
        if not isinstance(resolved, torch.dtype) or not resolved.is_floating_point:
            raise LoadError(
                f"dtype={dtype!r} is not a floating-point dtype; use 'auto', 'float32', 'bfloat16', 'float16'."
            )
        return resolved
    if device.type == "cpu":
        return torch.float32
    if preferred is not None:
        return pick_dtype(preferred, device)
    if device.type == "cuda" and torch.cuda.is_bf16_supported():
        return torch.bfloat16
    return torch.float16


def load_model(
    path: Path,
    *,
    quantization: str | None,
    device: torch.device,
    dtype: torch.dtype,
    tokenizer_path: str | os.PathLike | None = None,
    trust_remote_code: bool = False,
    truncated: bool = False,
    stored: bool = False,
    reads: str | None = None,
    probes: Iterable[str] = (),
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model in a folder and its tokenizer: without towers, quantised if asked, on `device`. See `Backbone.load`.

    Args:
        stored: it is stored in `quantization`.
        reads, probes: `choice` and `probes` of `load_tokenizer`.
    Raises:
        LoadError, OutOfMemoryError, QuantizationError, MissingFileError.
    """
    from safetensors import SafetensorError

    # modeling_utils brings most of what loading imports, and scipy for the losses of object detection.
    with uncollected(), put_off("scipy.optimize", "linear_sum_assignment"):
        from transformers import AutoConfig, AutoModelForCausalLM, modeling_utils  # noqa: F401

    if not (path / "config.json").is_file():
        raise MissingFileError(f"{path} holds no config.json; expected the folder of a transformers model.")
    try:
        with quiet(), _hint_where_memory_ends(path, device, quantization):
            config = AutoConfig.from_pretrained(path, trust_remote_code=trust_remote_code)
            refuse_unscaled(path, config)
            leave_out_towers(config)
            options = {"config": config, "dtype": dtype, "trust_remote_code": trust_remote_code}
            has_ple = bool(getattr(text_config(config), "hidden_size_per_layer_input", 0))
            if quantization is not None:
                four_bits = _nf4_config(quantization, dtype, device, stored=stored)
                if not stored:
                    options["quantization_config"] = four_bits
            # A PLE table belongs in CPU RAM; a device map that says so makes accelerate stream it through the GPU
            # on every call. So such a model is read on the CPU and its other parts are moved.
            if config is text_config(config) and _is_of_a_wrapper(path):
                options["key_mapping"] = TEXT_ONLY
            options["device_map"] = {"": "cpu" if has_ple or device.type != "cuda" else device.index or 0}
            model, info = AutoModelForCausalLM.from_pretrained(path, output_loading_info=True, **options)
    except (*NO_MODEL, SafetensorError) as error:
        if wrong := damaged_file(path):
            raise wrong from error
        # Files of others may break a library anywhere; an AttributeError of a sound folder is a bug, and shown as one.
        if isinstance(error, AttributeError):
            raise
        raise LoadError(f"Could not load the model in {path}: {first_line(error)}") from error
    _check_loading(info, path, text_config(config).num_hidden_layers, truncated=truncated)
    tokenizer = load_tokenizer(tokenizer_path or path, choice=reads, probes=probes, trust_remote_code=trust_remote_code)
    drop_towers(model)
    if stored:
        hold_to(model, dtype)
    elif quantization is not None and dtype != torch.bfloat16:
        keep_compute_dtype(model)
    with _hint_where_memory_ends(path, device, quantization):
        place(model, device)
    return model, tokenizer


def _is_of_a_wrapper(path: Path) -> bool:
    """Whether a folder's tensors are named as a multimodal model names them; its config says text only."""
    return any(re.match(r"(model\.)?language_model\.", name) for name in tensor_names(path))


@contextmanager
def _hint_where_memory_ends(path: Path, device: torch.device, quantization: str | None) -> Iterator[None]:
    try:
        yield
    except (MemoryError, OSError, RuntimeError) as error:
        if not memory_ended(error):
            raise
        smaller = "" if quantization else "quantization='nf4' (nla: --quantization nf4), "
        raise OutOfMemoryError(
            f"Out of memory while loading the model in {path} on {device}. Try {smaller}another device, or a smaller "
            "model; see nla doctor."
        ) from error


def _nf4_config(
    quantization: str, dtype: torch.dtype, device: torch.device, *, stored: bool = False
) -> BitsAndBytesConfig:
    if quantization != "nf4" and not stored:
        raise QuantizationError(f"quantization={quantization!r} is not known; use 'nf4', None or 'auto'.")
    import importlib.util

    instead = "base= the model in full precision" if stored else "quantization=None"
    if importlib.util.find_spec("bitsandbytes") is None:
        raise QuantizationError(
            f"quantization={quantization!r} needs bitsandbytes: pip install 'nla-sdk[nf4]', or pass {instead}."
        )
    if device.type == "mps":
        raise QuantizationError(
            f"quantization={quantization!r} runs on CUDA and on the CPU, not on MPS: pass device='cpu' or {instead}."
        )
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )


def _check_loading(info: Mapping, path: Path, num_blocks: int, *, truncated: bool) -> None:
    missing = set(info.get("missing_keys", ()))
    if truncated:
        missing = {
            key for key in missing if not re.search(r"(^|\.)(norm|final_layernorm|ln_f|lm_head)\.(weight|bias)$", key)
        }
    refuse_unplaced(info.get("unexpected_keys", ()), path, num_blocks, truncated=truncated, missing=missing)
    mismatched = list(info.get("mismatched_keys", ()))
    if missing or mismatched:
        names = sorted(missing)[:4] or [str(item[0]) for item in mismatched[:4]]
        raise LoadError(
            f"{path} lacks weights that its config calls for ({len(missing)} missing, {len(mismatched)} of another "
            f"shape; first: {', '.join(names)}); random numbers would stand in for them. Download it again, or ask its "
            "author."
        )


def text_config(config: PretrainedConfig) -> PretrainedConfig:
    """The text part of a config (a multimodal model keeps it under `text_config`)."""
    return config.get_text_config()


def find_blocks(model: nn.Module, num_blocks: int) -> tuple[str, nn.ModuleList]:
    """The decoder blocks of `model`: its name and the ModuleList.

    Raises:
        LoadError: no list of `num_blocks` modules outside the towers.
    """
    lists = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList)
        and len(module) == num_blocks
        and not any(tower in name for tower in TOWERS)
    ]
    if not lists:
        raise LoadError(
            f"Found no list of {num_blocks} decoder blocks in {type(model).__name__}; expected a causal language model "
            "as transformers' AutoModelForCausalLM builds it."
        )
    return min(lists, key=lambda item: len(item[0]))


def innermost(module: nn.Module) -> nn.Module:
    """The base's own module, PEFT's wrappers looked through; itself where there are none."""
    names = ("base_layer", "original_module", "token_adapter")
    # Some of PEFT's wrappers register one of them as None.
    while inner := next((part for name in names if (part := module._modules.get(name)) is not None), None):
        module = inner
    return module


def leave_out_towers(config: PretrainedConfig) -> None:
    """Change a config so that no vision or audio tower is built: never allocated, never in memory.

    Gemma 4 takes a config without them. Of other models towers are built and then removed, see `drop_towers`.
    """
    if getattr(config, "model_type", "") == "gemma4":
        for tower in TOWER_CONFIGS:
            setattr(config, tower, None)


def drop_towers(model: nn.Module) -> list[str]:
    """Remove vision and audio towers from memory; returns the names of what was removed."""
    dropped = []
    for name, _ in list(model.named_modules()):
        parent_name, _, leaf = name.rpartition(".")
        if leaf in TOWERS and not any(name.startswith(f"{done}.") for done in dropped):
            setattr(model.get_submodule(parent_name), leaf, None)
            dropped.append(name)
    return dropped


def place(model: nn.Module, device: torch.device) -> None:
    """Move `model` to `device`, leaving a per-layer embedding (PLE) table in CPU RAM if the device is another.

    The table of Gemma-4-E2B is 262144 × 8960 × 2 bytes = 4.7 GB and bitsandbytes does not quantise embeddings, so a
    4 GB card can hold the rest only. A lookup moves [batch, tokens, 8960] numbers across, not the table.
    """
    tables = [] if device.type == "cpu" else [m for n, m in model.named_modules() if n.endswith(PER_LAYER_TABLE)]
    kept = {id(module) for table in tables for module in table.modules()}
    # `model.to(device)` would take the table along, and accelerate's offload hooks would stream it through the GPU on
    # every call; so each tensor is moved by hand, and once: tied weights stay one tensor.
    moved: dict[int, nn.Parameter] = {}
    for module in model.modules():
        if id(module) in kept:
            continue
        for key, parameter in module._parameters.items():
            if parameter is None or parameter.device == device:
                continue
            if id(parameter) not in moved:
                # Quantised parameters carry their state through their own .to(), so that is what is called.
                copy = parameter.to(device)
                moved[id(parameter)] = copy if isinstance(copy, nn.Parameter) else nn.Parameter(copy, False)
            module._parameters[key] = moved[id(parameter)]
        for key, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[key] = buffer.to(device)
    for table in tables:
        table.register_forward_pre_hook(lambda module, args: (args[0].to(module.weight.device), *args[1:]))
        table.register_forward_hook(lambda module, args, output: output.to(device))
