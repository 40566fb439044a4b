"""Write halves into folders: whole or not at all, and never over anything but a half that may be replaced."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import yaml

from ..contract import SIDECAR_NAME
from ..errors import InputError, OccupiedFolderError
from ..io.files import atomic
from .half import Half


def save_halves(halves: Sequence[Half], folder: Path, *, pair_id: str | None = None, overwrite: bool = False) -> None:
    """Write halves as `folder/av` and `folder/ar`, their contracts in canonical form.

    Args:
        pair_id: put on record that they belong together; in a folder neither goes by its repository's name.
        overwrite: replace halves that stand there.
    Raises:
        InputError: a half lies there itself.
        OccupiedFolderError: something else than a half stands there, or a half and `overwrite` is off. Nothing has
            been written then.
    """
    places = [(half, folder / half.role) for half in halves]
    sources = {half.folder.resolve() for half in halves}
    for _, place in places:
        if place.resolve() in sources:  # of either half: a folder named `ar` may hold an AV
            raise InputError(f"{place} is where this pair was loaded from; save it elsewhere.")
        _check_free(place, overwrite)
    for half, place in places:
        with atomic(place) as sibling:
            half.copy_to(sibling, pair_id)


def _check_free(place: Path, overwrite: bool) -> None:
    if not os.path.lexists(place) or (place.is_dir() and not place.is_symlink() and not any(place.iterdir())):
        return
    if place.is_symlink() or not place.is_dir():
        raise OccupiedFolderError(f"{place} is a {'link' if place.is_symlink() else 'file'}; save the pair elsewhere.")
    if not _is_half(place):
        names = sorted(file.name for file in place.iterdir())
        shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
        raise OccupiedFolderError(
            f"{place} holds {shown} and is no half of a pair, so it is never replaced. Save the pair elsewhere, or "
            "move that away."
        )
    if not overwrite:
        raise OccupiedFolderError(f"{place} holds a half of a pair; pass overwrite=True to replace it.")


def _is_half(folder: Path) -> bool:
    """Whether the folder holds a model's contract, its weights, and no folders but those that the contract names."""
    try:
        contract = yaml.safe_load((folder / SIDECAR_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return False
    names = {item.name for item in folder.iterdir() if item.is_file()}
    weights = any(name.startswith("adapter_model") for name in names) or (
        "config.json" in names and any(folder.glob("*.safetensors"))
    )
    if not isinstance(contract, dict) or contract.get("kind") != "nla_model":
        return False
    block = contract.get("weights")
    said = block if isinstance(block, dict) else {}
    adapters = [name for name in said.get("adapters") or () if isinstance(name, str)]
    inner = {item.name for item in folder.iterdir() if item.is_dir()}
    return (weights or bool(adapters)) and inner <= {*adapters, said.get("parent")}
