"""What a half's weights consist of and sit on: its adapters in their order, and the checkpoint they were trained on."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from ..contract import Contract
from ..contract.refusals import unstated
from ..errors import (
    ContractMismatchError,
    MissingFileError,
    MissingParentError,
    NLAError,
    RepositoryError,
    first_line,
)
from ..io.parsing import parse_json
from ..io.text import ENCODING
from ..model.weights.adapters.config import NAME as CONFIG
from ..model.weights.files import ADAPTER_PICKLE, ADAPTER_WEIGHTS, AR_ADAPTER
from .fetch import Files, fetch_half
from .hub.naming import same_repository
from .hub.references import local_folder, split_repo

ADAPTER_FILES = (CONFIG, ADAPTER_WEIGHTS)
"""What PEFT writes; others that hold an adapter's tensors are:"""
OTHER_FILES = (ADAPTER_PICKLE, AR_ADAPTER)
BASE = "base"
"""What `weights.parent` says of an adapter that sits directly on the base, whatever its own config says."""
# Copies of a model in another format or at another precision go by its name with such an ending.
_COPY = re.compile(r"-(unsloth|bnb|4bit|8bit|nf4|int4|int8|fp8|bf16|fp16|awq|gptq|hf|nvfp4)$")
_REPOSITORY = re.compile(r"\w[\w.-]*/\w[\w.-]*")
_OF_TRAINING = re.compile(
    r"(checkpoint|iter|step|epoch)s?[-_]?\d*|outputs?|models?|ckpts?|runs?|results?|saves?|tmp|data"
)


def is_adapter(folder: Path) -> bool:
    """Whether a LoRA adapter lies in a folder."""
    return any((folder / name).is_file() for name in (*ADAPTER_FILES, *OTHER_FILES)) or any(
        folder.glob("adapter_model-*.safetensors")
    )


def find_adapters(contract: Contract, files: Files, **where: Any) -> tuple[Path, ...]:
    """The folders of a half's adapters, in the order they are put on; none of a full checkpoint.

    Args:
        files: the half's own.
        where: cache_dir, token, local_files_only, as for `fetch_half`.
    Raises:
        RepositoryError: an adapter that the contract names could not be had.
        ContractMismatchError: the contract calls a full checkpoint what is an adapter, or the other way round; or it
            names adapters and leaves out the one that lies beside it.
        UnstatedFactError: an adapter has no config, and alpha or rsLoRA is not stated.
    """
    own = is_adapter(files.path)
    if contract.weights_adapters is None:
        if contract.weights_kind == "full" and (files.path / "config.json").is_file():
            own = False
        elif contract.weights_kind is not None and own != (contract.weights_kind == "lora"):
            there = "a LoRA adapter" if own else "no LoRA adapter"
            raise ContractMismatchError(
                f"{contract.source}: `weights.kind` is {contract.weights_kind}, and {files.path} holds {there}. "
                "Correct the contract, or pass the folder that it is of."
            )
        folders = [files.path] if own else []
    else:
        if not own and (files.path / "config.json").is_file() and any(files.path.glob("*.safetensors")):
            raise ContractMismatchError(
                f"{contract.source}: `weights.adapters` is {contract.weights_adapters}, and {files.path} holds a full "
                "checkpoint, which would not be used. If it is what they sit on, it is `weights.parent`; if they are "
                "the other half's, state them in that half's own file, or load the halves one by one."
            )
        folders = [find_part(entry, files, **where).path for entry in contract.weights_adapters]
        for entry, folder in zip(contract.weights_adapters, folders, strict=True):
            if not is_adapter(folder):
                raise ContractMismatchError(
                    f"{contract.source}: `weights.adapters` names {entry}, and {folder} holds no LoRA adapter. A full "
                    "checkpoint that the others were trained on is `weights.parent`."
                )
        if own and files.path.resolve() not in [folder.resolve() for folder in folders]:
            raise ContractMismatchError(
                f"{contract.source}: `weights.adapters` is {contract.weights_adapters}, without the adapter that lies "
                f"in {files.path} itself. Name it too, if it is active together with them."
            )
    for folder in folders:
        if not (folder / CONFIG).is_file():
            for name in ("weights_alpha", "weights_rslora"):
                if getattr(contract, name) is None:
                    raise unstated(contract, name)
    return tuple(folders)


def find_part(entry: str, files: Files, **where: Any) -> Files:
    """What a contract names: a folder of the half's own repository, else `owner/name[/sub]`, else a folder here.

    Raises:
        RepositoryError: there is none.
    """
    if files.commit is None:
        root = files.path.joinpath(*[".."] * len(Path(files.subfolder or "").parts))
        for folder in (files.path / entry, root / entry, root.parent / entry):
            if folder.is_dir():
                return fetch_half(folder)
        if local_folder(entry) is None and entry.count("/") == 0:
            raise MissingFileError(f"{root} has no folder {entry}, nor has the folder above it.")
        return fetch_half(entry, **where)
    try:
        return fetch_half(split_repo(files.ref, None)[0], subfolder=entry, revision=files.commit, **where)
    except RepositoryError:
        if local_folder(entry) is None and entry.count("/") == 0:
            raise
        return fetch_half(entry, **where)


def find_parent(contract: Contract, files: Files, ref: str, **where: Any) -> Files | None:
    """The full checkpoint that a half's adapters sit on; None: the base.

    Raises:
        MissingParentError: it could not be had, or is an adapter itself.
    """
    stated = contract.weights_parent
    if stated is None or stated == BASE:
        return None
    how = "State where it lies: contract={'weights.parent': 'owner/name'} (or a folder)"
    try:
        found = find_part(stated, files, **where)
    except NLAError as error:
        raise MissingParentError(
            f"{ref} was trained on top of {stated}, and that could not be had: {first_line(error)} Without it it would "
            f"run on another model. {how}."
        ) from error
    if is_adapter(found.path) and not (found.path / "config.json").is_file():
        raise MissingParentError(
            f"{ref} was trained on top of {stated}, which is a LoRA adapter and no full checkpoint. If both are active "
            "together on the base, state them in order: contract={'weights.adapters': [first, second]}; else merge it, "
            f"and pass that. {how}."
        )
    return found


def refuse_unstated_parent(
    folder: Path, ref: str, base: str, parent: str | None, *, instead: str | None = None, **where: Any
) -> None:
    """Hold what an adapter says it was trained on against the base.

    Args:
        folder: the adapter's.
        ref: what messages call it.
        base: the model it would be put on, as its contract calls it.
        parent: what is stated in place of it; `BASE` puts the adapter on the base whatever its config says.
        instead: what to do, if that is not a statement in the contract.
    Raises:
        MissingParentError: it was trained on a repository that is neither, nor another name or copy of one.
    """
    if parent == BASE or (said := trained_on(folder)) is None:
        return
    for known in filter(None, (parent, base)):
        # A folder's name says nothing of a Hub id.
        if not _REPOSITORY.match(known) or local_folder(known) or known.startswith(f"{said}/"):
            return
        if same_model(said, known) or same_repository(said, known, **where):
            return
    on = f"stated to sit on {parent}" if parent else f"of the base {base}, without another one being stated"
    raise MissingParentError(
        f"{ref}: its adapter_config.json says it was trained on {said}, and it is {on}. On another model it would be "
        "weaker, or nonsense, without an error. "
        + (
            instead
            or f"State it: contract={{'weights.parent': '{said}'}}, or 'base' if it does sit on the base itself "
            "(nla: --contract weights.parent=base)."
        )
    )


def trained_on(folder: Path) -> str | None:
    """The repository that an adapter's config names as its base; None where it names none, or a folder of training."""
    file = folder / CONFIG
    try:
        said = parse_json(file.read_text(encoding=ENCODING)).get("base_model_name_or_path") if file.is_file() else None
    except (ValueError, OSError, AttributeError):  # what is wrong with it is said where it is read
        return None
    if not isinstance(said, str) or not re.fullmatch(_REPOSITORY, said):
        return None
    owner, _, name = said.partition("/")
    return None if _OF_TRAINING.fullmatch(owner.lower()) or _OF_TRAINING.fullmatch(name.lower()) else said


def same_model(said: str, known: str) -> bool:
    """Whether a repository goes by the name of a model, whoever keeps it: a mirror, another precision of it.

    Example:
        >>> same_model("unsloth/Meta-Llama-3.1-8B-Instruct-bnb-4bit", "meta-llama/Llama-3.1-8B-Instruct")
        True
    """
    return _plain(said) == _plain(known)


def _plain(name: str) -> str:
    name = re.split(r"[/\\]", name.rstrip("/\\"))[-1].lower().removeprefix("meta-")
    while (shorter := _COPY.sub("", name)) != name:
        name = shorter
    return name
