"""Tensors of a full checkpoint or a base that its model has no place for: known and harmless, or another model's."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from ...errors import LoadError, UnplacedTensorsError
from ...io.parsing import parse_json
from ...io.text import ENCODING
from .files import read_header

_LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks)\.(\d+)\.")
_TOWER = re.compile(
    r"(^|\.)(vision_tower|vision_model|visual|vision_encoder|vit|audio_tower|audio_model|audio_encoder|embed_vision|"
    r"embed_audio|vision_embed\w*|multi_modal_projector|mm_projector|image_newline|vision_embedder|audio_embedder)(\.|$)"
)
# What may be left over without changing what the model computes.
_KNOWN = (
    (_TOWER, "of a vision or audio tower, which is not kept"),
    (re.compile(r"(^|\.)rotary_emb\.\w*inv_freq$"), "computed from the config"),
    (re.compile(r"(^|\.)(position_ids|attn\.(masked_)?bias)$"), "a mask or a count, made anew"),
    (re.compile(r"(^|\.)mtp(_\w+)?\."), "of the layers that predict further tokens, which do not run"),
)
FINAL_NORMS = ("norm", "final_layernorm", "final_layer_norm", "ln_f", "final_norm", "norm_f")
"""What the norm behind the last block is called, beside the blocks."""
_FINAL_NORM = re.compile(rf"(^|\.)({'|'.join(FINAL_NORMS)})\.(weight|bias)$")
_ENDS = re.compile(rf"(^|\.)({'|'.join(FINAL_NORMS)}|lm_head|score)\.(weight|bias)$")
_HEAD = re.compile(r"^(linear_head|value_head)\.")
# What the rest probably is, by name, and what to do about it.
_GUESSES = (
    (
        re.compile(r"\.lora_|\.modules_to_save\.|lora_magnitude_vector|\.base_layer\."),
        "an adapter that was never merged",
        "Merge it with what wrote it (PEFT: merge_and_unload, then save_pretrained), or publish the adapter by itself.",
    ),
    (
        re.compile(
            r"(scale|scales|scale_inv|zero_point|qweight|qzeros|g_idx|weight_packed|weight_shape|absmax|SCB|quant_map|"
            r"quant_state\.[\w.]+|weight_format|amax|codebooks)(_\d+)?$"
        ),
        "the state of quantised weights, without which their numbers mean nothing",
        "Its config.json lacks quantization_config: ask its author for it, or for weights that are not quantised.",
    ),
    (
        re.compile(r"(^|\.)(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|module)\."),
        "named as FSDP or torch.compile wraps modules",
        "Ask its author to save the model itself, unwrapped.",
    ),
    (
        re.compile(r"\.bias$"),
        "biases",
        "Its config.json says that there are none (attention_bias, mlp_bias, …) or names another architecture: ask its "
        "author for the right one.",
    ),
)


def why_left_out(key: str, num_blocks: int | None = None, *, truncated: bool = False) -> str | None:
    """Why a tensor without a place may stay out; None: it may not.

    Args:
        num_blocks: how many blocks the model has.
        truncated: the model is an AR that stops before the checkpoint's last blocks, norm and lm_head.
    """
    if reason := next((reason for pattern, reason in _KNOWN if pattern.search(key)), None):
        return reason
    if truncated:
        layer = _LAYER.search(key)
        if layer and num_blocks is not None and int(layer[1]) >= num_blocks:
            return "of a block after the last that runs"
        if _ENDS.search(key):
            return "after the last block that runs"
        if _HEAD.match(key):
            return "the AR's head, which is read from its own file"
    return None


def unplaced(keys: Iterable[str], num_blocks: int | None = None, *, truncated: bool = False) -> list[str]:
    """Those of `keys`, which a model has no place for, that change what it computes."""
    return sorted(key for key in keys if why_left_out(key, num_blocks, truncated=truncated) is None)


def refuse_unplaced(
    keys: Iterable[str],
    path: Path,
    num_blocks: int | None = None,
    *,
    truncated: bool = False,
    missing: Iterable[str] = (),
) -> None:
    """Account for what a checkpoint holds and its model does not take.

    Args:
        missing: what the model calls for and the checkpoint lacks, to be named too.

    Raises:
        UnplacedTensorsError: some of it is not known to be without effect; the message says what it probably is.
    """
    if not (left := unplaced(keys, num_blocks, truncated=truncated)):
        return
    what, remedy = guess(left)
    lacking = sorted(missing)
    also = f", and it lacks {len(lacking)} that its config calls for (first: {lacking[0]})" if lacking else ""
    raise UnplacedTensorsError(
        f"{path} holds {len(left)} tensors that its model has no place for (first: {', '.join(left[:3])}): {what}"
        f"{also}. Without them it would be another model, so it is not loaded.\n{remedy}"
    )


def guess(left: Iterable[str]) -> tuple[str, str]:
    """What tensors without a place probably are, and what to do about them."""
    left = list(left)
    for pattern, what, remedy in _GUESSES:
        if any(pattern.search(key) for key in left):
            return f"probably {what}", remedy
    return (
        "what they are is not known here",
        "Its config.json may name another architecture, or one whose own code is needed (trust_remote_code): ask its "
        "author.",
    )


def headers(folder: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Name → (safetensors dtype, shape) of a model's weights in a folder, from the headers of its files alone.

    Raises:
        ValueError, OSError, KeyError: they cannot be read.
    """
    index = folder / "model.safetensors.index.json"
    files = {"model.safetensors"}
    if not (folder / "model.safetensors").is_file() and index.is_file():
        files = set(parse_json(index.read_text(encoding=ENCODING))["weight_map"].values())
    found = {}
    for name in sorted(files):
        for key, entry in read_header(folder / name).items():
            if key != "__metadata__":
                found[key] = (str(entry["dtype"]), tuple(entry["shape"]))
    return found


def tensor_names(folder: Path) -> list[str]:
    """Names of a model's weights in a folder; none where they cannot be read, as loading says what is wrong there."""
    try:
        return list(headers(folder))
    except (ValueError, OSError, KeyError, TypeError, AttributeError):
        return []


def blocks_without_final_norm(folder: Path) -> int | None:
    """How many blocks lie in a folder's weights, if no final norm does: those of an AR that was cut off before it."""
    keys = [key for key in tensor_names(folder) if not _TOWER.search(key)]
    blocks = {int(found[1]) for key in keys if (found := _LAYER.search(key))}
    has_norm = any(_FINAL_NORM.search(key) and not _LAYER.search(key) for key in keys)
    return max(blocks) + 1 if blocks and not has_norm else None


def refuse_unscaled(folder: Path, config: object) -> None:
    """Eight-bit weights without a word on how they were quantised are no weights.

    Args:
        config: the model's; with a quantization_config it is for transformers to read them.
    Raises:
        UnplacedTensorsError: the folder holds such weights.
    """
    if getattr(config, "quantization_config", None) is not None:
        return
    try:
        dtypes = {key: dtype for key, (dtype, _) in headers(folder).items()}
    except (ValueError, OSError, KeyError, TypeError, AttributeError):
        return  # loading says what is wrong with them
    coarse = sorted(k for k, dtype in dtypes.items() if _is_packed(k, dtype) and not why_left_out(k))
    if coarse:
        scales = unplaced(key for key in dtypes if _GUESSES[1][0].search(key))
        raise UnplacedTensorsError(
            f"{folder} holds {len(coarse)} weights in {dtypes[coarse[0]]} (first: {coarse[0]}) and {len(scales)} "
            "scales, and its config.json says nothing of quantisation, so their numbers mean nothing.\n"
            "Ask its author for the config with quantization_config, or for weights that are not quantised."
        )


def _is_packed(key: str, dtype: str) -> bool:
    integer = dtype in ("I8", "U8", "I16", "U16", "I32", "U32")
    return dtype.startswith(("F8_", "F4")) or (integer and key.endswith((".weight", "_proj")))


def refuse_lost_norm(folder: Path) -> None:
    """Refuse a checkpoint cut off before its final norm, for an AR that keeps it.

    Raises:
        LoadError: transformers would make a new norm in its place.
    """
    if (blocks := blocks_without_final_norm(folder)) is not None:
        raise LoadError(
            f"{folder} holds {blocks} blocks and no final norm, and its contract says `ar.final_norm: kept`: fresh "
            "numbers would stand in for it. Say dropped if it was trained without, or ask its author for the norm."
        )
