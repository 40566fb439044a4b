"""A repository id, a folder or "demo" → files on disk.

Downloads go through huggingface_hub into that client's own cache, restricted to what is needed: no code, no pickles but
the head that is read as bare tensors, and of a repository with one checkpoint per subfolder only the one asked for.
What is cached works offline. Every failure is one of this package's exceptions, whose message says what to do.
"""

from __future__ import annotations

import glob
import os
from dataclasses import dataclass
from pathlib import Path

from ..errors import MissingFileError
from .demo_base import DEMO_BASE_ID, demo_base
from .hub.download import download_folder, place, repository_names
from .hub.listing import file_names, holds_checkpoint, listed, no_checkpoint, tree
from .hub.references import bundled, clean_subfolder, inside, local_folder, refuse_one_word, split_repo
from .hub.renames import named_now, present_name

TOKENIZER_FILES = (
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
    "nla_config.json",
    "ar_meta.json",
    "ao_config.json",
    "training_config.yaml",
    "adapter_config.json",
    "adapter_model.bin",
    "config.json",
    "generation_config.json",
    "*.safetensors",  # adapter, heads, mean, full weights
    "*.safetensors.index.json",
    "linear_head.pt",  # these are read as bare tensors
    "value_head.pt",
    "value_heads.pt",
    "layer_means.pt",
    "*.npy",  # a mean or a map that the contract names
    "claims.json",
    *TOKENIZER_FILES,
)
BASE_FILES = ("config.json", "generation_config.json", "*.safetensors", "*.safetensors.index.json", *TOKENIZER_FILES)


@dataclass(frozen=True)
class Files:
    """Where a reference was found.

    Attributes:
        ref: what was asked for, as given; of a renamed repository under its present name.
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
    weights: bool = True,
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
        weights: False: a folder without them will do.
    Raises:
        MissingRepositoryError, GatedRepositoryError, MissingFileError, OfflineError: see the message.
        InputError: the subfolder leads out of the repository.
    Example:
        >>> fetch_half("Solshine/gemma-4-e2b-nla-L23-ar-v0_0_1").path                           # doctest: +SKIP
    """
    name = os.fspath(ref)
    if name == "demo":
        return Files(name, bundled(role))
    subfolder = clean_subfolder(subfolder)
    if folder := local_folder(ref):
        files = Files(name, inside(folder, subfolder), None, subfolder)
        if weights and not holds_checkpoint(file_names(files.path)):
            raise no_checkpoint(f"The folder {files.path}", subfolder, tree(folder))
        return files
    refuse_one_word(name)
    repo, subfolder = split_repo(name, subfolder)
    snapshot = download_folder(repo, _HALF_FILES, revision, subfolder, cache_dir, token, local_files_only)
    files = Files(named_now(name, {repo: present_name(repo)}), snapshot / (subfolder or ""), snapshot.name, subfolder)
    if weights and not holds_checkpoint(file_names(files.path)):
        names = repository_names(repo, snapshot, cache_dir)
        raise no_checkpoint(place(repo, subfolder, snapshot), subfolder, names)
    return files


def fetch_base(
    ref: str | os.PathLike,
    *,
    revision: str | None = None,
    cache_dir: str | os.PathLike | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
    progress: bool = True,
    weights: bool = True,
) -> Files:
    """The files of a base model: config, tokenizer and safetensors weights, nothing else.

    Args:
        ref: a folder, `owner/name` on the Hub, or "demo" (as well as `DEMO_BASE_ID`) for the demo pair's base.
        revision, cache_dir, token, local_files_only: as in `fetch_half`.
        progress: show a bar on stderr while the demo base is made, which happens once.
        weights: False: config and tokenizer will do, and a repository's weights stay where they are.
    Raises:
        MissingRepositoryError, GatedRepositoryError, MissingFileError, OfflineError, DemoBaseError: see the message.
    Example:
        >>> fetch_base("google/gemma-4-E2B").path                                               # doctest: +SKIP
    """
    name = os.fspath(ref)
    if name in ("demo", DEMO_BASE_ID):
        return Files(name, demo_base(progress=progress))
    if folder := local_folder(ref):
        files, what = Files(name, folder), f"The folder {folder}"
    else:
        repo, subfolder = split_repo(name, None)
        wanted = [one for one in BASE_FILES if weights or "safetensors" not in one]
        snapshot = download_folder(repo, wanted, revision, subfolder, cache_dir, token, local_files_only)
        name = named_now(name, {repo: present_name(repo)})
        files, what = Files(name, snapshot / (subfolder or ""), snapshot.name, subfolder), name
    names = file_names(files.path)
    if "config.json" not in names or (weights and not any(name.endswith(".safetensors") for name in names)):
        if files.commit:
            names = repository_names(repo, snapshot, cache_dir)
        raise MissingFileError(
            f"{what} holds no base model that can be loaded: it takes config.json and *.safetensors (pickled or GGUF "
            f"weights are not read). Found: {listed(names)}."
        )
    return files


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
    name, subfolder = os.fspath(ref), clean_subfolder(subfolder)
    folder = bundled(role) if name == "demo" else local_folder(ref)
    if folder:
        path = inside(folder, subfolder) / filename
        if not path.is_file():
            raise MissingFileError(f"{path.parent} holds no {filename}. Found: {listed(file_names(path.parent))}.")
        return path
    repo, subfolder = split_repo(name, subfolder)
    snapshot = download_folder(repo, [glob.escape(filename)], revision, subfolder, cache_dir, token, local_files_only)
    path = snapshot / (subfolder or "") / filename
    if not path.is_file():
        names = repository_names(repo, snapshot, cache_dir)
        raise MissingFileError(f"{place(repo, subfolder, snapshot)} holds no {filename}. Found: {listed(names)}.")
    return path
