"""Why a model folder could not be loaded, where libraries do not say it: a damaged file, or no memory left."""

from __future__ import annotations

import errno
from pathlib import Path

import torch

from ...errors import DamagedFileError, first_line
from ...io.parsing import parse_json
from .files import damage


def damaged_file(folder: Path) -> DamagedFileError | None:
    """The first of a model folder's files that cannot be what its name says, and why; None if all can.

    Example:
        >>> raise damaged_file(Path("gemma"))  # doctest: +SKIP
        DamagedFileError: gemma/config.json is a Git LFS pointer, not the file itself: …
    """
    for file in sorted([*folder.glob("*.json"), *folder.glob("*.safetensors")]):
        try:
            if wrong := damage(file):
                return wrong
            if file.suffix == ".json" and not isinstance(found := parse_json(file.read_bytes()), dict):
                return DamagedFileError(
                    f"{file} holds a {type(found).__name__}; expected an object. Download it again."
                )
        except OSError as error:
            return DamagedFileError(f"{file} cannot be read: {error.strerror or first_line(error)}.")
        except ValueError as error:
            return DamagedFileError(f"{file} is damaged ({first_line(error)}). Download it again.")
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
