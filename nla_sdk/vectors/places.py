"""Where the files of a reference lie: a file, a folder, or a folder of a Hub repository, all read alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

import numpy as np

from ..errors import first_line
from ..io.parsing import parse_json
from .faults import VectorFileError

SMALL = 1 << 20  # bytes that a JSON of settings is never above
SETTINGS_BESIDE = {
    "sae_weights.safetensors": "cfg.json",
    "sae.safetensors": "cfg.json",
    "params.safetensors": "config.json",
    "ae.pt": "config.json",
}
"""A dictionary's file → what lies beside it and tells how it is read: who names the file means the folder."""
DICTIONARIES = (*SETTINGS_BESIDE, "params.npz")

FLOATS = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
"""What a safetensors header calls the numbers that are read → numpy's name for their bytes."""


class Rows(Protocol):
    """A matrix of a safetensors file, of which some rows are read."""

    shape: tuple[int, ...]

    def __call__(self, rows: Any) -> np.ndarray:
        """int sequence [k] → float32 [k, d]."""
        ...


@dataclass(frozen=True)
class Place:
    """Files of one reference.

    Attributes:
        name: for messages.
        path: what stands before the files' names: folders whose names tell layer and site.
        file: the file that the reference names; None: a folder.
        names: all files in the folder and below, as relative POSIX paths.
        open: a file's local path; of the Hub it is downloaded now.
        matrix: some rows of a safetensors file's tensor, without the rest where that can be.
        outer: a small file (`config.json`) of the nearest of the two folders above that holds one, or None.
    """

    name: str
    path: PurePosixPath
    names: tuple[str, ...]
    open: Callable[[str], Path]
    matrix: Callable[[str, str], Rows]
    file: str | None = None
    outer: Callable[[str], Path | None] = field(default=lambda name: None)

    def has(self, name: str) -> bool:
        """Whether the folder itself holds a file."""
        return self.file in (None, name) and name in self.names

    @property
    def dictionaries(self) -> list[str]:
        """Folders below, by their paths, that hold a dictionary's file."""
        files = (PurePosixPath(name) for name in self.names)
        return sorted({str(file.parent) for file in files if file.name in DICTIONARIES and len(file.parts) > 1})

    def json(self, name: str) -> Mapping[str, Any]:
        """A small JSON object of the folder.

        Raises:
            VectorFileError: it is none.
        """
        return json_object(self.open(name))


def json_object(path: Path) -> Mapping[str, Any]:
    """What a small file of JSON holds.

    Raises:
        VectorFileError: it is no JSON, no object, or too large to be settings.
    """
    if path.stat().st_size > SMALL:
        raise VectorFileError(f"{path} has {path.stat().st_size:,} bytes; expected a small JSON of settings.")
    try:
        found = parse_json(path.read_bytes())
    except (ValueError, OSError) as error:
        raise VectorFileError(f"{path} is no JSON: {first_line(error)}.") from error
    if not isinstance(found, dict):
        raise VectorFileError(f"{path} holds a {type(found).__name__}; expected an object of settings.")
    return found
