"""An lm_head's 8-bit copy in a file beside the model, so that it is rounded once and memory-mapped ever after."""

from __future__ import annotations

from pathlib import Path

import torch

from .shortlist import Rounded

NAME = "lm_head_int8.safetensors"
FIELDS = ("weight", "scale", "error", "norm")


def save_rounded(model: Path, tensor: str, target: Path) -> None:
    """Round a tensor of a safetensors file, a few megabytes at a time, and write the copy.

    Args:
        model: the file.
        tensor: name of the lm_head's weight in it, float32 [vocabulary, d].
        target: the file to be written.
    """
    from safetensors import safe_open
    from safetensors.torch import save_file

    with safe_open(model, "pt") as file:
        rounded = Rounded.of(file.get_slice(tensor))
    save_file({name: getattr(rounded, name) for name in FIELDS}, target, {"made_from": _as_it_is(model)})


def _as_it_is(model: Path) -> str:
    """A file's name, size and second of its last change: to look at its numbers would be to read all of it."""
    if not model.is_file():
        return "nothing"
    found = model.stat()
    return f"{model.name} {found.st_size} {int(found.st_mtime)}"


def load_rounded(file: Path, weight: torch.Tensor) -> Rounded | None:
    """The copy of `weight` in a file, memory-mapped; None: there is no file, or it is of another weight.

    Of another weight is what was made from another file than lies beside it, or as that was before; and some rows are
    rounded again.
    """
    from safetensors import SafetensorError, safe_open

    if not file.is_file():
        return None
    try:
        with safe_open(file, "pt") as tensors:
            made_from = (tensors.metadata() or {}).get("made_from", "")
            if made_from != _as_it_is(file.with_name(made_from.partition(" ")[0] or file.name)):
                return None
            rounded = Rounded(*(tensors.get_tensor(name) for name in FIELDS))
    except (SafetensorError, OSError):
        return None  # it saves time and nothing else
    return rounded if rounded.is_of(weight) else None
