"""Why a model folder could not be loaded, where libraries do not say it: a damaged file, or no memory left."""

from __future__ import annotations

import errno
from pathlib import Path

import torch

from ...errors import first_line
from ...io.parsing import parse_json

POINTER = b"version https://git-lfs.github.com/spec/"


def damaged_file(folder: Path) -> str | None:
    """The first of a model folder's files that cannot be what its name says, and why; None if all can.

    Example:
        >>> damaged_file(Path("gemma"))  # doctest: +SKIP
        'model-00002-of-00002.safetensors is a Git LFS pointer, not the file itself: git lfs pull.'
    """
    for file in sorted([*folder.glob("*.json"), *folder.glob("*.safetensors")]):
        if why := _why_damaged(file):
            return f"{file.name} {why}"
    if not (folder / "tokenizer.json").is_file() and not any(folder.glob("*.model")):
        return "it has no tokenizer.json."
    return None


def _why_damaged(file: Path) -> str | None:
    from safetensors import SafetensorError, safe_open

    try:
        with file.open("rb") as opened:
            start = opened.read(len(POINTER))
        if start == POINTER:
            return "is a Git LFS pointer, not the file itself: git lfs pull."
        if not start:
            return "is empty. Download it again."
        if file.suffix == ".json":
            if not isinstance(found := parse_json(file.read_bytes()), dict):
                return f"holds a {type(found).__name__}; expected an object. Download it again."
        else:
            with safe_open(file, framework="pt"):
                pass
    except OSError as error:
        return f"cannot be read: {error.strerror or first_line(error)}."
    except (ValueError, SafetensorError) as error:
        return f"is damaged ({first_line(error)}). Download it again."
    return None


def memory_ended(error: BaseException) -> bool:
    """Whether an error of loading means that the device, or RAM, has no room.

    torch's CPU allocator raises a plain RuntimeError, and mapping a file an OSError. What goes wrong while transformers
    converts a weight (5.23) it only notes, and raises a RuntimeError without a cause; the notes are in its frames.
    """
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or getattr(error, "errno", None) == errno.ENOMEM:
        return True
    return any(_says_so(text) for text in [str(error), *_noted(error)])


def _says_so(text: str) -> bool:
    return "can't allocate memory" in text or "OutOfMemoryError" in text or "MemoryError" in text


def _noted(error: BaseException) -> list[str]:
    """What transformers noted of weights that it could not convert."""
    notes, at = [], error.__traceback__
    while at is not None:
        found = getattr(at.tb_frame.f_locals.get("loading_info"), "conversion_errors", None) or {}
        notes += map(str, found.values())
        at = at.tb_next
    return notes
