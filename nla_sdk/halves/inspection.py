"""What a checkpoint is, without loading it: its contract and where each value is from, its files, its tensors.

Of a Hub repository only the contract and the headers of its safetensors files are fetched.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..contract import SIDECAR_NAME
from ..errors import MissingFileError, OfflineError
from .fetch import fetch_file, fetch_half
from .found import AR_META
from .half import Half, files_and_contract, read_contract
from .hub.errors import clean_token, hub_errors
from .hub.references import local_folder, refuse_one_word, refuse_ref_name, split_repo
from .hub.renames import present_name
from .parts import ADAPTER_FILES, OTHER_FILES
from .tensors import account


@dataclass(frozen=True)
class Inspection:
    """One half, seen from outside.

    Attributes:
        half: with its contract; its folder may lack the weights.
        files: name → bytes.
        partner: where the other half is said or guessed to be.
        tensors: what becomes of the adapter's tensors, or why that could not be checked.
    """

    half: Half
    files: Mapping[str, int]
    partner: str
    tensors: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        contract = self.half.contract
        values = {
            name: {"value": getattr(contract, name), "origin": origin} for name, origin in contract.origins.items()
        }
        return {
            "ref": self.half.ref,
            "subfolder": self.half.subfolder,
            "commit": self.half.commit,
            "layout": "LoRA adapter" if self.half.is_adapter else "full checkpoint",
            "partner": self.partner,
            "injection": None if contract.injection is None else str(contract.injection),
            "contract": values,
            "other_keys": contract.extras,
            "files": dict(self.files),
            "tensors": dict(self.tensors),
        }


def describe(
    ref: str,
    *,
    base: str | None = None,
    revision: str | None = None,
    subfolder: str | None = None,
    local_files_only: bool = False,
    contract: Mapping[str, Any] | None = None,
) -> list[Inspection]:
    """Inspect a half, both halves of a folder that `save_pretrained` wrote, or "demo".

    Args:
        ref: Hub id, folder or "demo".
        base: the base to check adapters against; default: the contract's.
        revision, subfolder, local_files_only: as for `fetch.fetch_half`.
        contract: as for `NLAPair.from_pretrained`.
    Raises:
        RepositoryError, ContractError.
    Example:
        >>> [inspection.half.contract.role for inspection in describe("demo")]
        ['av', 'ar']
    """
    inspections = []
    for place, role in _halves(ref, subfolder):
        half, files = _locate(place, role, revision, subfolder, local_files_only, contract)
        tensors = account(half, files, base, local_files_only=local_files_only)
        inspections.append(Inspection(half, files, _partner(half), tensors))
    return inspections


def _halves(ref: str, subfolder: str | None) -> list[tuple[str, str | None]]:
    """The halves that a reference stands for, each with its role where the reference alone does not tell it."""
    if ref == "demo":
        return [(ref, "av"), (ref, "ar")]
    folder = Path(ref).expanduser()
    if subfolder or (folder / SIDECAR_NAME).exists():
        return [(ref, None)]
    return [(str(folder / role), None) for role in ("av", "ar") if (folder / role).is_dir()] or [(ref, None)]


def _locate(
    ref: str,
    role: str | None,
    revision: str | None,
    subfolder: str | None,
    local_files_only: bool,
    stated: Mapping[str, Any] | None,
) -> tuple[Half, dict[str, int]]:
    """The half's contract and its files' sizes: of a folder, of a repository, or of what is cached of one."""
    commit, called, contract = None, ref, None
    if ref == "demo" or local_folder(ref):
        files, contract = files_and_contract(ref, role, stated, subfolder=subfolder)
        folder, sizes = files.path, _sizes(files.path)
    else:
        refuse_one_word(ref)
        given, (ref, inner) = ref, split_repo(ref, subfolder)
        folder = Path(ref)  # as long as there is nothing of it on disk
        try:
            if local_files_only:
                raise OfflineError
            commit, sizes = _listing(ref, inner, revision)
            for name in {SIDECAR_NAME, AR_META} & sizes.keys():
                folder = fetch_file(ref, name, revision=commit, subfolder=inner).parent
        except OfflineError:
            cached = fetch_half(given, revision=revision, subfolder=subfolder, local_files_only=True)
            folder, commit, sizes = cached.path, cached.commit, _sizes(cached.path)
        subfolder, called = inner, present_name(ref)
    if not {SIDECAR_NAME, "config.json", ADAPTER_FILES[0], *OTHER_FILES} & set(sizes):
        raise MissingFileError(f"{ref} holds no checkpoint; its files: {', '.join(sorted(sizes)[:12]) or 'none'}.")
    contract = contract or read_contract(folder, ref, subfolder, stated)
    adapter = contract.weights_adapters is not None or any(name in sizes for name in (*ADAPTER_FILES, *OTHER_FILES))
    return Half(called, folder, contract, adapter, subfolder, commit), sizes


def _sizes(folder: Path) -> dict[str, int]:
    return {file.name: file.stat().st_size for file in sorted(folder.iterdir()) if file.is_file()}


def _listing(repo: str, subfolder: str | None, revision: str | None) -> tuple[str, dict[str, int]]:
    """The commit and the files of one folder of a repository."""
    from huggingface_hub import HfApi

    api = HfApi(token=clean_token(None), library_name="nla-sdk")
    prefix = f"{subfolder}/" if subfolder else ""
    if revision is not None:
        refuse_ref_name(revision, "The revision")
    with hub_errors(repo, revision):
        commit = api.model_info(repo, revision=revision).sha
        entries = list(api.list_repo_tree(repo, subfolder, revision=commit))
    sizes: dict[str, int] = {}
    inner: set[str] = set()
    for entry in (entry for entry in entries if entry.path.startswith(prefix)):
        name = entry.path.removeprefix(prefix)
        size = getattr(entry, "size", None)
        if size is None or "/" in name:
            inner.add(prefix + name.split("/")[0])
        else:
            sizes[name] = size
    if inner and not any(name.endswith(".safetensors") for name in sizes):
        raise MissingFileError(
            f"{repo} keeps its checkpoints in folders; pass one as --subfolder: {', '.join(sorted(inner)[:12])}."
        )
    return commit, sizes


def _partner(half: Half) -> str:
    if half.ref == "demo":
        return "the other half of demo"
    partner = half.partner_ref()
    if partner is None:
        return "none named, and the name does not tell one"
    ref, stated = partner
    return ref if stated else f"{ref} (a guess by name)"
