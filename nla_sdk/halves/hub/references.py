"""What a reference names: the bundled pair, a folder, or a repository and a folder inside it."""

from __future__ import annotations

import os
from importlib import resources
from pathlib import Path, PurePosixPath

from ...errors import InputError, MissingFileError, MissingRepositoryError, WrongRoleError
from .listing import file_names, holds_checkpoint, subfolder_hint, tree


def bundled(role: str | None) -> Path:
    """The folder of the bundled pair's AV or AR.

    Raises:
        WrongRoleError: `role` is neither.
        MissingFileError: this installation lacks it.
    """
    if role not in ("av", "ar"):
        raise WrongRoleError(f'"demo" is a pair: say which half, role="av" or role="ar" (got {role!r}).')
    folder = Path(str(resources.files("nla_sdk").joinpath("demo", role)))
    if not holds_checkpoint(file_names(folder)):
        raise MissingFileError(f"The bundled pair's {role} is not in this installation ({folder}). Reinstall nla-sdk.")
    return folder


def local_folder(ref: str | os.PathLike) -> Path | None:
    """The folder that `ref` names, None for what must be a Hub id.

    Raises:
        MissingRepositoryError: `ref` can only be a folder, and there is none; or it is empty.
    """
    text = os.fspath(ref)
    if not text.strip():
        raise MissingRepositoryError('An empty string was given where a repository id, a folder or "demo" is expected.')
    try:
        path = Path(text).expanduser()
        if path.is_dir():
            return path
        is_file = path.is_file()
    except (OSError, ValueError, RuntimeError):  # a name too long, a null byte, an unknown ~user: no path anyway
        return None
    if isinstance(ref, os.PathLike) or path.is_absolute() or text.startswith((".", "~")) or "\\" in text:
        problem = "is a file; pass the folder it lies in" if is_file else "does not exist"
        raise MissingRepositoryError(f"The folder {text} {problem}.")
    return None


def split_repo(name: str, subfolder: str | None) -> tuple[str, str | None]:
    """`owner/name/sub/folder` → `owner/name`, `sub/folder`.

    Args:
        subfolder: a folder below the one that the name holds.
    Example:
        >>> split_repo("ada/cat-av/steps", "50")
        ('ada/cat-av', 'steps/50')
    """
    parts = name.strip("/").split("/")
    inner = "/".join([*parts[2:], *([subfolder] if subfolder else [])])
    return "/".join(parts[:2]), clean_subfolder(inner)


def clean_subfolder(subfolder: str | None) -> str | None:
    """The subfolder with forward slashes; None for the top.

    Raises:
        InputError: it leads out of the repository.
    """
    if not subfolder:
        return None
    path = PurePosixPath(subfolder.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or ":" in path.parts[0]:
        raise InputError(f"The subfolder {subfolder!r} leads out of the repository; give a path inside it.")
    return None if str(path) == "." else str(path)


def inside(folder: Path, subfolder: str | None) -> Path:
    """The subfolder of a folder, links followed.

    Raises:
        InputError: it leads out of the folder.
        MissingFileError: there is none.
    """
    if not subfolder:
        return folder
    inner = folder / subfolder
    if not inner.resolve().is_relative_to(folder.resolve()):
        raise InputError(f"The subfolder {subfolder!r} leads out of {folder}; give a path inside it.")
    if not inner.is_dir():
        raise MissingFileError(f"{folder} has no subfolder {subfolder!r}.{subfolder_hint(tree(folder))}")
    return inner
