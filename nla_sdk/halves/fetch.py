"""A repository id, a folder or "demo" → files on disk.

Downloads go through huggingface_hub into that client's own cache, restricted to what is needed: no code, no pickles but
the head that is read as bare tensors, and of a repository with one checkpoint per subfolder only the one asked for.
What is cached works offline. Every failure is one of this package's exceptions, whose message says what to do.
"""

from __future__ import annotations

import glob
import logging
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from itertools import islice
from pathlib import Path, PurePosixPath

from ..errors import InputError, MissingFileError, MissingRepositoryError, OfflineError, WrongRoleError
from .demo_base import DEMO_BASE_ID, cache_root, demo_base
from .hub_errors import clean_token, hub_errors

__all__ = ["DEMO_BASE_ID", "Files", "cache_root", "demo_base", "fetch_base", "fetch_file", "fetch_half"]

_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
)
_HALF_FILES = (
    "nla_meta.yaml",
    "adapter_config.json",
    "config.json",
    "generation_config.json",
    "*.safetensors",  # adapter, heads, mean, full weights
    "*.safetensors.index.json",
    "linear_head.pt",
    *_TOKENIZER_FILES,
)
_BASE_FILES = ("config.json", "generation_config.json", "*.safetensors", "*.safetensors.index.json", *_TOKENIZER_FILES)
_NOT_A_MODEL = re.compile(r"(linear_head|value_head|activation_mean|adapter_model)\.safetensors")


@dataclass(frozen=True)
class Files:
    """Where a reference was found.

    Attributes:
        ref: what was asked for, as given.
        path: the folder that holds the files, the subfolder included.
        commit: the Hub commit they are from; None for a folder or the bundled files.
        subfolder: the subfolder of the repository or folder, if one was asked for.
    """

    ref: str
    path: Path
    commit: str | None = None
    subfolder: str | None = None


def fetch_half(
    ref: str | os.PathLike,
    *,
    role: str | None = None,
    revision: str | None = None,
    subfolder: str | None = None,
    cache_dir: str | os.PathLike | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
) -> Files:
    """The files of one half of a pair: an adapter with its head, or a whole checkpoint.

    Args:
        ref: "demo", a folder, `owner/name` on the Hub, or `owner/name/sub/folder`. A folder of that name wins.
        role: "av" or "ar"; needed for "demo" only.
        revision: branch, tag or commit; the default branch if None.
        subfolder: for repositories and folders that keep one checkpoint per subfolder.
        cache_dir: the Hub client's cache folder, if not the usual one.
        token: access token; None means the one of `hf auth login` or HF_TOKEN, False none.
        local_files_only: use what is cached and ask nobody.
    Raises:
        MissingRepositoryError, GatedRepositoryError, MissingFileError, OfflineError: see the message.
        InputError: the subfolder leads out of the repository.
    Example:
        >>> fetch_half("Solshine/gemma-4-e2b-nla-L23-ar-v0_0_1").path                           # doctest: +SKIP
    """
    name = os.fspath(ref)
    if name == "demo":
        return Files(name, _bundled(role))
    subfolder = _clean_subfolder(subfolder)
    if folder := _local_folder(ref):
        found = Files(name, _inside(folder, subfolder), None, subfolder)
        if not _holds_checkpoint(_names(found.path)):
            raise _no_checkpoint(f"The folder {found.path}", subfolder, _tree(folder))
        return found
    repo, subfolder = _split(name, subfolder)
    snapshot = _snapshot(repo, _HALF_FILES, revision, subfolder, cache_dir, token, local_files_only)
    found = Files(name, snapshot / (subfolder or ""), snapshot.name, subfolder)
    if not _holds_checkpoint(_names(found.path)):
        names = _repository_names(repo, snapshot, cache_dir)
        raise _no_checkpoint(_place(repo, subfolder, snapshot), subfolder, names)
    return found


def fetch_base(
    ref: str | os.PathLike,
    *,
    revision: str | None = None,
    cache_dir: str | os.PathLike | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
    progress: bool = True,
) -> Files:
    """The files of a base model: config, tokenizer and safetensors weights, nothing else.

    Args:
        ref: a folder, `owner/name` on the Hub, or "demo" (as well as `DEMO_BASE_ID`) for the demo pair's base.
        revision, cache_dir, token, local_files_only: as in `fetch_half`.
        progress: show a bar on stderr while the demo base is made, which happens once.
    Raises:
        MissingRepositoryError, GatedRepositoryError, MissingFileError, OfflineError, DemoBaseError: see the message.
    Example:
        >>> fetch_base("google/gemma-4-E2B").path                                               # doctest: +SKIP
    """
    name = os.fspath(ref)
    if name in ("demo", DEMO_BASE_ID):
        return Files(name, demo_base(progress=progress))
    if folder := _local_folder(ref):
        found, what = Files(name, folder), f"The folder {folder}"
    else:
        repo, subfolder = _split(name, None)
        snapshot = _snapshot(repo, _BASE_FILES, revision, subfolder, cache_dir, token, local_files_only)
        found, what = Files(name, snapshot / (subfolder or ""), snapshot.name, subfolder), name
    names = _names(found.path)
    if "config.json" not in names or not any(name.endswith(".safetensors") for name in names):
        if found.commit:
            names = _repository_names(repo, snapshot, cache_dir)
        raise MissingFileError(
            f"{what} holds no base model that can be loaded: it takes config.json and *.safetensors (pickled or GGUF "
            f"weights are not read). Found: {_some(names)}."
        )
    return found


def fetch_file(
    ref: str | os.PathLike,
    filename: str,
    *,
    role: str | None = None,
    revision: str | None = None,
    subfolder: str | None = None,
    cache_dir: str | os.PathLike | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
) -> Path:
    """One file of a half, without the weights beside it: `nla info` reads contracts this way.

    Args:
        filename: name of the file inside the repository, folder or subfolder.
        ref, role, revision, subfolder, cache_dir, token, local_files_only: as in `fetch_half`.
    Raises:
        MissingFileError: there is no such file; else as `fetch_half`.
    Example:
        >>> fetch_file("demo", "nla_meta.yaml", role="av")                                      # doctest: +SKIP
    """
    name, subfolder = os.fspath(ref), _clean_subfolder(subfolder)
    folder = _bundled(role) if name == "demo" else _local_folder(ref)
    if folder:
        path = _inside(folder, subfolder) / filename
        if not path.is_file():
            raise MissingFileError(f"{path.parent} holds no {filename}. Found: {_some(_names(path.parent))}.")
        return path
    repo, subfolder = _split(name, subfolder)
    snapshot = _snapshot(repo, [glob.escape(filename)], revision, subfolder, cache_dir, token, local_files_only)
    path = snapshot / (subfolder or "") / filename
    if not path.is_file():
        names = _repository_names(repo, snapshot, cache_dir)
        raise MissingFileError(f"{_place(repo, subfolder, snapshot)} holds no {filename}. Found: {_some(names)}.")
    return path


# --- references -------------------------------------------------------------------------------------------------
def _bundled(role: str | None) -> Path:
    if role not in ("av", "ar"):
        raise WrongRoleError(f'"demo" is a pair: say which half, role="av" or role="ar" (got {role!r}).')
    folder = Path(str(resources.files("nla_sdk").joinpath("demo", role)))
    if not _holds_checkpoint(_names(folder)):
        raise MissingFileError(f"The bundled pair's {role} is not in this installation ({folder}). Reinstall nla-sdk.")
    return folder


def _local_folder(ref: str | os.PathLike) -> Path | None:
    """The folder that `ref` names, None for what must be a Hub id."""
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


def _split(name: str, subfolder: str | None) -> tuple[str, str | None]:
    """`owner/name/sub/folder` → `owner/name`, `sub/folder`."""
    parts = name.strip("/").split("/")
    inner = "/".join([*parts[2:], *([subfolder] if subfolder else [])])
    return "/".join(parts[:2]), _clean_subfolder(inner)


def _clean_subfolder(subfolder: str | None) -> str | None:
    if not subfolder:
        return None
    path = PurePosixPath(subfolder.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or ":" in path.parts[0]:
        raise InputError(f"The subfolder {subfolder!r} leads out of the repository; give a path inside it.")
    return None if str(path) == "." else str(path)


def _inside(folder: Path, subfolder: str | None) -> Path:
    if not subfolder:
        return folder
    inner = folder / subfolder
    if not inner.resolve().is_relative_to(folder.resolve()):
        raise InputError(f"The subfolder {subfolder!r} leads out of {folder}; give a path inside it.")
    if not inner.is_dir():
        raise MissingFileError(f"{folder} has no subfolder {subfolder!r}.{_hint(_tree(folder))}")
    return inner


# --- what is in a folder ----------------------------------------------------------------------------------------
def _names(folder: Path) -> list[str]:
    """The files in a folder."""
    return sorted(path.name for path in folder.iterdir() if path.is_file()) if folder.is_dir() else []


def _tree(folder: Path) -> list[str]:
    """The files in a folder and two levels of folders inside it, as posix paths relative to it."""
    found = (path for pattern in ("*", "*/*", "*/*/*") for path in folder.glob(pattern) if path.is_file())
    return sorted(path.relative_to(folder).as_posix() for path in islice(found, 10_000))


def _holds_checkpoint(names: Sequence[str]) -> bool:
    adapter = {"adapter_config.json", "adapter_model.safetensors"} <= set(names)
    weights = (n for n in names if n.endswith(".safetensors") and "/" not in n and not _NOT_A_MODEL.fullmatch(n))
    return adapter or ("config.json" in names and any(weights))


def _checkpoint_folders(names: Sequence[str]) -> list[str]:
    """Subfolders that hold a checkpoint, step_50 before step_100."""
    inside: dict[str, list[str]] = {}
    for name in names:
        if "/" in name:
            folder, _, file = name.rpartition("/")
            inside.setdefault(folder, []).append(file)
    found = [folder for folder, files in inside.items() if _holds_checkpoint(files)]
    return sorted(found, key=lambda folder: [int(t) if t.isdigit() else t for t in re.split(r"(\d+)", folder)])


def _no_checkpoint(what: str, subfolder: str | None, names: Sequence[str]) -> MissingFileError:
    """`names` is all there is in the repository or folder, not only in the subfolder."""
    prefix = f"{subfolder}/" if subfolder else ""
    here = [name.removeprefix(prefix) for name in names if name.startswith(prefix)]
    return MissingFileError(
        f"{what} holds no checkpoint: neither an adapter (adapter_config.json and adapter_model.safetensors) nor full "
        f"weights (config.json and *.safetensors). Found: {_some(here)}.{_hint(names)}"
    )


def _hint(names: Sequence[str]) -> str:
    folders = _checkpoint_folders(names)
    return f' There are checkpoints in {_some(folders)}: pass one as subfolder="{folders[-1]}".' if folders else ""


def _some(names: Sequence[str], limit: int = 12) -> str:
    shown = ", ".join(names[:limit]) or "nothing"
    return shown + (f" and {len(names) - limit} more" if len(names) > limit else "")


# --- the Hub ----------------------------------------------------------------------------------------------------
def _snapshot(repo, patterns, revision, subfolder, cache_dir, token, local_files_only) -> Path:
    """Download the files of one folder of a repository (not of folders inside it) that match the patterns."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils import tqdm

    class LateBar(tqdm):
        """No bar for what is cached or comes in a moment."""

        def __init__(self, *args, **kwargs):
            super().__init__(*args, **{"delay": 1.0, **kwargs})

    prefix = f"{glob.escape(subfolder)}/" if subfolder else ""
    with hub_errors(repo, revision), _no_match_is_no_news():
        return Path(
            snapshot_download(
                repo,
                revision=revision,
                allow_patterns=[prefix + pattern for pattern in patterns],
                ignore_patterns=[f"{prefix}*/*", f"{prefix}consolidated*"],  # a pattern's * also matches slashes
                cache_dir=cache_dir,
                token=clean_token(token),
                local_files_only=local_files_only,
                library_name="nla-sdk",
                tqdm_class=LateBar,
            )
        )


def _repository_names(repo: str, snapshot: Path, cache_dir: str | os.PathLike | None) -> list[str]:
    """All files of the repository at the snapshot's commit, downloaded or not, from the listing kept beside it."""
    from huggingface_hub import errors, get_cached_repo_tree

    try:
        return sorted(file.path for file in get_cached_repo_tree(repo, revision=snapshot.name, cache_dir=cache_dir))
    except errors.CachedRepoTreeNotFoundError:  # another program cached some of the files, and the Hub was not asked
        raise OfflineError(
            f"The cached copy of {repo} is not complete (it holds {_some(_tree(snapshot))}), and the network could not "
            "or may not be used. Run this once with the network on."
        ) from None


def _place(repo: str, subfolder: str | None, snapshot: Path) -> str:
    return f"{repo}{f'/{subfolder}' if subfolder else ''} (commit {snapshot.name[:12]})"


@contextmanager
def _no_match_is_no_news() -> Iterator[None]:
    """Drop the client's log line with our twenty patterns in it: what is missing is said by our own error."""
    logger = logging.getLogger("huggingface_hub._snapshot_download")

    def keep(record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith("No files matched")

    logger.addFilter(keep)
    try:
        yield
    finally:
        logger.removeFilter(keep)
