"""What a reference names: the bundled pair, a folder, or a repository and a folder inside it."""

from __future__ import annotations

import os
from contextlib import suppress
from difflib import get_close_matches
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
        if is_file:
            raise MissingRepositoryError(f"The folder {text} is a file; pass the folder it lies in.")
        raise MissingRepositoryError(f"The folder {text} does not exist.{meant(text)}")
    return None


def refuse_one_word(text: str) -> None:
    """A half is "demo", a folder or `owner/name`: a word that is none of them is nothing the Hub could be asked for.

    Raises:
        MissingRepositoryError: it is such a word; the message says what may have been meant.
    """
    if "/" not in text.strip("/"):
        raise MissingRepositoryError(no_reference(text))


def no_reference(text: str) -> str:
    """What to say of a reference that can name nothing."""
    return (
        f'{text!r} is neither a folder here nor a valid repository id. Expected "owner/name", "owner/name/subfolder" '
        f'or "demo".{meant(text)}'
    )


def meant(text: str) -> str:
    """What may have been meant by a reference that leads nowhere, as a sentence; nothing where nothing is like it."""
    path = Path(text)
    near: dict[str, str] = {} if "/" in text.strip("/") else {"demo": "demo"}
    with suppress(OSError, ValueError):  # the folder before it is not there either
        near |= {folder.name.lower(): str(folder) for folder in path.parent.iterdir() if folder.is_dir()}
    found = get_close_matches(path.name.lower(), near, n=1, cutoff=0.75)
    return f' Did you mean "{near[found[0]]}"?' if found else ""


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


def refuse_ref_name(name: str, what: str) -> None:
    """A branch, tag or revision has a name that git takes; asked before anything is sent.

    Args:
        what: what it names, for the message.
    Raises:
        InputError: git would refuse it.
    """
    if problem := ref_name_problem(name):
        raise InputError(f"{what} {name!r} is no name that git takes: {problem}. Use one like v0.1.0.")


def ref_name_problem(name: str) -> str | None:
    """Why git takes no tag or branch of this name (`git check-ref-format`, and `git tag` itself); None if it does.

    Example:
        >>> ref_name_problem("v 0.1")
        'it holds a space'
    """
    parts = name.split("/")
    if not name:
        return "it is empty"
    if name in ("@", "HEAD"):
        return "git means the current commit by it"
    if name.startswith("-"):
        return "it begins with -, as options do"
    if "" in parts:
        return "it begins or ends with /, or holds //"
    if " " in name:
        return "it holds a space"
    if unfit := next((letter for letter in name if ord(letter) < 32 or ord(letter) == 127), None):
        return f"it holds the control character {unfit!r}"
    if any(0xD800 <= ord(letter) <= 0xDFFF for letter in name):
        return "it holds half a surrogate pair, which is no text"
    if unfit := next((letter for letter in name if letter in "~^:?*[\\"), None):
        return f"it holds {unfit}"
    if unfit := next((pair for pair in ("..", "@{") if pair in name), None):
        return f"it holds {unfit}"
    if any(part.startswith(".") for part in parts):
        return "it, or a part of it, begins with a dot"
    if any(part.endswith(".lock") for part in parts):
        return "it, or a part of it, ends with .lock"
    return "it ends with a dot" if name.endswith(".") else None
