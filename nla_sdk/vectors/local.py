"""Files here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from ..errors import first_line
from ..halves.hub.references import local_folder
from ..model.weights.files import damage
from .faults import VectorFileError
from .places import FLOATS, SETTINGS_BESIDE, Place, Rows

MOST_FILES = 10_000  # of a folder: whoever names the root of a disk does not wait for all of it


def local_place(ref: str) -> Place | None:
    """The file or folder of a reference; None: it must be a Hub id.

    Raises:
        MissingRepositoryError: it can only be a path, and there is none.
    """
    path = Path(ref).expanduser()
    if path.is_file():
        settings = SETTINGS_BESIDE.get(path.name)
        whole = settings is not None and (path.parent / settings).is_file()
        return _place(path.parent, None if whole else path.name, str(path))
    folder = local_folder(ref)
    return None if folder is None else _place(folder, None, str(folder))


def _place(folder: Path, file: str | None, name: str) -> Place:
    names = [file] if file is not None else []
    if file is None:
        for at, found in enumerate(sorted(folder.rglob("*"))):
            if at >= MOST_FILES:
                raise VectorFileError(f"{folder} holds more than {MOST_FILES:,} files; name the one that is meant.")
            if found.is_file():
                names.append(found.relative_to(folder).as_posix())

    def outer(wanted: str) -> Path | None:
        above = folder.resolve().parents[:2]
        return next((path / wanted for path in above if (path / wanted).is_file()), None)

    return Place(
        name,
        PurePosixPath(folder.resolve().as_posix()),
        tuple(names),
        folder.__truediv__,
        lambda wanted, tensor: open_matrix(folder / wanted, tensor),
        file,
        outer,
    )


def open_matrix(path: Path, tensor: str) -> Rows:
    """Rows of a tensor of a safetensors file here, memory-mapped.

    Raises:
        DamagedFileError, VectorFileError: the file, or what it holds, cannot be read.
    """
    import torch
    from safetensors import SafetensorError, safe_open

    if wrong := damage(path):
        raise wrong

    class Mapped:
        def __init__(self) -> None:
            try:
                with safe_open(path, "pt") as file:
                    part = file.get_slice(tensor)
                    self.shape, dtype = tuple(part.get_shape()), part.get_dtype()
            except SafetensorError as error:
                raise VectorFileError(f"{path}: {first_line(error)}.") from error
            if dtype not in FLOATS:
                raise VectorFileError(f"{path}: {tensor} has dtype {dtype}; {', '.join(FLOATS)} are read.")

        def __call__(self, rows: Sequence[int]) -> np.ndarray:
            with safe_open(path, "pt") as file:
                part = file.get_slice(tensor)
                runs = [part[row : row + 1] for row in rows] if len(rows) < len(range(self.shape[0])) // 8 else None
                whole = torch.cat(runs) if runs else part[:][list(rows)]
                return whole.float().numpy()

    return Mapped()
