"""A clean copy of what is published: known files only, contracts without this machine's paths, heads in safetensors."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path, PureWindowsPath
from typing import Any

from cards.evaluation import EVALUATION, ROWS, VARIANTS, Evaluation, load, save
from nla_sdk.contract import Contract
from nla_sdk.half import Half

from ..files import sidecar_of

# What a half consists of, by name; anything else in its folder (optimizer states, logs, notes to self) stays here.
PARTS = (
    "*.safetensors",
    "*.safetensors.index.json",
    "linear_head.pt",
    "adapter_config.json",
    "config.json",
    "generation_config.json",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template*",
    "vocab*",
    "merges.txt",
    "LICENSE*",
    "NOTICE*",
    "*_TERMS.html",
)
LOGS = ("log.jsonl", "training_log.jsonl", "training_log_{role}.jsonl")
LOG = "training_log.jsonl"
PLACES = ("parent", "path", "folder", "continue_from")  # keys that may hold a folder of this machine
LICENCES = ("LICENSE*", "NOTICE*", "*_TERMS.html")


def stage_half(half: Half, folder: Path, *, pair: str | None) -> Contract:
    """Copy a half into `folder` (which is made), with the contract it is published with.

    Args:
        pair: the other half's repository, for the contract's cross-link.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for pattern in PARTS:
        for file in sorted(half.folder.glob(pattern)):
            if file.is_file():
                shutil.copyfile(file, folder / file.name)
    for pattern in LICENCES:  # often they lie beside both halves
        for file in sorted(half.folder.parent.glob(pattern)):
            if file.is_file() and not (folder / file.name).exists():
                shutil.copyfile(file, folder / file.name)
    convert_head(folder)
    role = half.contract.role
    names = [half.folder / name.format(role=role) for name in LOGS]
    names += [half.folder.parent / name.format(role=role) for name in LOGS]
    if log := next((file for file in names if file.is_file()), None):
        shutil.copyfile(log, folder / LOG)
    contract = clean(half.contract, pair)
    contract.save(folder)
    return contract


def convert_head(folder: Path) -> None:
    """Put `linear_head.safetensors` beside a `linear_head.pt`, which stays for old readers."""
    old, new = folder / "linear_head.pt", folder / "linear_head.safetensors"
    if old.is_file() and not new.is_file():
        import torch
        from safetensors.torch import save_file

        state = torch.load(old, map_location="cpu", weights_only=True)
        tensors = {str(key).rpartition(".")[2]: tensor.contiguous() for key, tensor in state.items()}
        save_file(tensors, new, metadata={"format": "pt"})


def clean(contract: Contract, pair: str | None) -> Contract:
    """The contract with its cross-link, and without folders of this machine in `parent` and `path` fields."""
    changes: dict[str, Any] = {"provenance": without_folders(contract.provenance)}
    if pair is not None:
        changes["pair"] = pair
    extras = {key: without_folders(value) for key, value in contract.extras.items()}
    return contract.replace(**changes, **extras)


def without_folders(value: Any, key: Any = "") -> Any:
    """`parent` and `path` fields with the last part of absolute paths only; everything else as it is."""
    if isinstance(value, Mapping):
        return {name: without_folders(one, name) for name, one in value.items()}
    if isinstance(value, list):
        return [without_folders(one, key) for one in value]
    is_place = isinstance(key, str) and any(word in key.lower() for word in PLACES)
    if isinstance(value, str) and is_place:
        if PureWindowsPath(value).is_absolute() and "\\" in value:
            return PureWindowsPath(value).name
        if value.startswith(("/", "~")):
            return Path(value).name
    return value


def stage_evaluation(file: Path, folder: Path) -> Evaluation:
    """Copy an evaluation, its rows and its figures into `folder/evaluation` and `folder/figures`."""
    found = load(file)
    save(found, folder / "evaluation" / EVALUATION)
    for name in (ROWS, VARIANTS, "report.md"):
        if (file.parent / name).is_file():
            shutil.copyfile(file.parent / name, folder / "evaluation" / name)
    for figure in sorted((file.parent / "figures").glob("*.png")):
        (folder / "figures").mkdir(exist_ok=True)
        shutil.copyfile(figure, folder / "figures" / figure.name)
    return found


def figures_of(folder: Path) -> tuple[str, ...]:
    """The names of the figures staged in a repository's folder."""
    return tuple(sorted(figure.stem for figure in (folder / "figures").glob("*.png")))


def stage_table(table: Path, folder: Path) -> Path:
    """Copy a table and its sidecar into `folder/data`; returns the copy."""
    copy = folder / "data" / table.name
    copy.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(table, copy)
    Contract.load(table).replace(**_place_free(table)).save(sidecar_of(copy))
    return copy


def _place_free(table: Path) -> dict[str, Any]:
    contract = Contract.load(table)
    changes = {key: without_folders(value, key) for key, value in contract.extras.items()}
    return {**changes, "provenance": without_folders(contract.provenance)}
