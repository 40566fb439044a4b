"""What a checkpoint is, without loading it: its contract and where each value is from, its files, its tensors.

Of a Hub repository only the contract and the headers of its safetensors files are fetched. The base is built on the
meta device, from its config alone, to account for every adapter tensor.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ..cli.terminal import file_size, print_pairs
from ..contract import SIDECAR_NAME
from ..errors import MissingFileError, NLAError, OfflineError, first_line
from . import fetch as hub
from .half import ADAPTER_FILES, Half, read_contract
from .hub_errors import clean_token, hub_errors

HEAD_PREFIXES = ("linear_head", "value_head")


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
            "contract": values,
            "other_keys": contract.extras,
            "files": dict(self.files),
            "tensors": dict(self.tensors),
        }


def describe(ref: str, *, base: str | None = None, **where) -> list[Inspection]:
    """Inspect a half, both halves of a folder that `save_pretrained` wrote, or "demo".

    Args:
        ref: Hub id, folder or "demo".
        base: the base to check adapters against; default: the contract's.
        where: revision, subfolder, local_files_only, as for `hub.fetch_half`.
    Raises:
        RepositoryError, ContractError.
    """
    if ref == "demo":
        found = [_locate(ref, role, **where) for role in ("av", "ar")]
    else:
        folder = Path(ref).expanduser()
        halves = [str(folder / role) for role in ("av", "ar") if (folder / role).is_dir()]
        if where.get("subfolder") or (folder / SIDECAR_NAME).exists():
            halves = []
        found = [_locate(one, **where) for one in halves or [ref]]
    return [Inspection(half, files, _partner(half), account(half, files, base, where)) for half, files in found]


def _locate(ref: str, role: str | None = None, **where) -> tuple[Half, dict[str, int]]:
    """The half's contract and its files' sizes: of a folder, of a repository, or of what is cached of one."""
    subfolder, commit = where.get("subfolder"), None
    if ref == "demo" or hub._local_folder(ref):
        folder = hub.fetch_half(ref, role=role, subfolder=subfolder).path
        files = _sizes(folder)
    else:
        repo, subfolder = hub._split(ref, subfolder)
        folder = Path(repo)  # as long as there is nothing of it on disk
        try:
            if where.get("local_files_only"):
                raise OfflineError
            commit, files = _listing(repo, subfolder, where.get("revision"))
            if SIDECAR_NAME in files:
                folder = hub.fetch_file(repo, SIDECAR_NAME, revision=commit, subfolder=subfolder).parent
        except OfflineError:
            cached = hub.fetch_half(ref, **(where | {"local_files_only": True}))
            folder, commit, files = cached.path, cached.commit, _sizes(cached.path)
        ref = repo
    if not {SIDECAR_NAME, "config.json", ADAPTER_FILES[0]} & set(files):
        raise MissingFileError(f"{ref} holds no checkpoint; its files: {', '.join(sorted(files)[:12]) or 'none'}.")
    contract = read_contract(folder, ref, subfolder)
    return Half(ref, folder, contract, any(name in files for name in ADAPTER_FILES), subfolder, commit), files


def _sizes(folder: Path) -> dict[str, int]:
    return {file.name: file.stat().st_size for file in sorted(folder.iterdir()) if file.is_file()}


def _listing(repo: str, subfolder: str | None, revision: str | None) -> tuple[str, dict[str, int]]:
    """The commit and the files of one folder of a repository."""
    from huggingface_hub import HfApi

    api = HfApi(token=clean_token(None), library_name="nla-sdk")
    prefix = f"{subfolder}/" if subfolder else ""
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
    found = half.partner_ref()
    if half.ref == "demo":
        return "the other half of demo"
    if found is None:
        return "none named, and the name does not tell one"
    return found[0] if found[1] else f"{found[0]} (a guess by name)"


# --- tensors ----------------------------------------------------------------------------------------------------
def account(
    half: Half,
    files: Mapping[str, int] = MappingProxyType({}),
    base: str | None = None,
    where: Mapping = MappingProxyType({}),
) -> dict[str, Any]:
    """What becomes of every adapter tensor, from headers and the base's config alone; `unchecked` says why not."""
    if not half.is_adapter:
        heads = sorted(name for name in files if name.startswith(HEAD_PREFIXES))
        return {"head": heads[0] if heads else None}
    wanted = base or half.contract.base_model
    try:
        shapes = _shapes(half)
        model = _skeleton(wanted, half.contract.base_revision if base is None else None, where)
    except NLAError as error:
        return {"unchecked": str(error)}
    from ..model.adapters import plan_adapter

    plan = plan_adapter(model, shapes, num_blocks_run=half.contract.ar_num_blocks)
    count = {key: _product(shapes[key]) for key in shapes}
    return {
        "base": wanted,
        "total": len(shapes),
        "parameters": sum(count.values()),
        "loaded": len(plan.slots),
        "loaded_parameters": sum(count[key] for key in plan.slots),
        "inert": group_reasons(plan.inert),
        "misfits": dict(plan.misfits),
    }


def _product(shape: tuple[int, ...]) -> int:
    total = 1
    for size in shape:
        total *= size
    return total


def _shapes(half: Half) -> dict[str, tuple[int, ...]]:
    """Shapes of the adapter's tensors, from the file's header alone."""
    file = half.folder / ADAPTER_FILES[1]
    if file.is_file():
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(file, framework="numpy") as tensors:
                return {key: tuple(tensors.get_slice(key).get_shape()) for key in tensors.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise MissingFileError(f"{file} is not a readable safetensors file: {error}") from None
    from huggingface_hub import HfApi

    name = f"{half.subfolder}/{ADAPTER_FILES[1]}" if half.subfolder else ADAPTER_FILES[1]
    with hub_errors(half.ref, half.commit):
        header = HfApi(token=clean_token(None)).parse_safetensors_file_metadata(half.ref, name, revision=half.commit)
    return {key: tuple(tensor.shape) for key, tensor in header.tensors.items()}


def _skeleton(ref: str, revision: str | None, where: Mapping):
    """The base model without weights."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from ..io.quiet import quiet
    from ..model.loading import TOWER_CONFIGS

    path = _base_config(ref, revision, where)
    with quiet():
        try:
            config = AutoConfig.from_pretrained(path)
            for tower in TOWER_CONFIGS:
                if getattr(config, "model_type", "") == "gemma4":
                    setattr(config, tower, None)
            with torch.device("meta"):
                return AutoModelForCausalLM.from_config(config)
        except (OSError, ValueError, KeyError) as error:
            raise MissingFileError(f"the config of {ref} cannot be used: {first_line(error)}") from None


def _base_config(ref: str, revision: str | None, where: Mapping) -> Path:
    """The base's config.json; the demo base is not converted for it."""
    from . import demo_base

    if ref in ("demo", demo_base.DEMO_BASE_ID):
        folder = demo_base.cache_root() / demo_base._FOLDER
        if not (folder / "config.json").is_file():
            raise MissingFileError(
                "the demo base has not been prepared on this machine yet; any `nla round-trip` does it."
            )
        return folder / "config.json"
    local = bool(where.get("local_files_only"))
    return hub.fetch_file(ref, "config.json", revision=revision, local_files_only=local)


def group_reasons(inert: Mapping[str, str]) -> dict[str, int]:
    """Reasons that differ in a block's number become one: {"blocks 18–34 never run (…)": 68}."""
    groups: dict[str, list[tuple[int, str]]] = {}
    for why in inert.values():
        block = re.match(r"block (\d+) (never runs|takes its)(.*)", why)
        plural = {"never runs": "never run", "takes its": "take their"}
        text = f"{plural[block[2]]}{block[3]}" if block else why
        groups.setdefault(text, []).append((int(block[1]) if block else -1, why))
    grouped = {}
    for text, members in groups.items():
        blocks = {number for number, _ in members}
        one = len(blocks) == 1  # one block, or none
        grouped[members[0][1] if one else f"blocks {number_ranges(blocks)} {text}"] = len(members)
    return grouped


def number_ranges(numbers) -> str:
    """[18, 19, 20, 34] → "18–20, 34"."""
    ranges: list[list[int]] = []
    for number in sorted(set(numbers)):
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return ", ".join(str(low) if low == high else f"{low}–{high}" for low, high in ranges)


# --- showing ----------------------------------------------------------------------------------------------------
def show(inspections: list[Inspection], *, as_json: bool) -> None:
    """Print what was found on stdout."""
    found = [one.to_dict() for one in inspections]
    if as_json:
        print(json.dumps(found if len(found) > 1 else found[0], indent=2, ensure_ascii=False, default=str))
        return
    for number, one in enumerate(found):
        if number:
            print()
        role = str(one["contract"]["role"]["value"] or "table").upper()
        where = f" / {one['subfolder']}" if one["subfolder"] else ""
        commit = f" (commit {one['commit'][:12]})" if one["commit"] else ""
        print_pairs(f"{role} {one['ref']}{where}{commit}", [("layout", one["layout"]), ("partner", one["partner"])])
        provenance = one["contract"].pop("provenance")
        known = [(key, _shown(item["value"]), item["origin"]) for key, item in one["contract"].items()]
        print_pairs("contract", [row for row in known if row[1] is not None])
        unset = [key for key, value, _ in known if value is None]
        print_pairs("", [("not set", ", ".join(unset))] if unset else [])
        if one["other_keys"]:
            print_pairs("other keys, kept as they are", [("", ", ".join(map(str, one["other_keys"])))])
        if provenance["value"]:
            print_pairs(f"provenance ({provenance['origin']})", list(_flat(provenance["value"])))
        print_pairs("files", [(name, file_size(size)) for name, size in one["files"].items()])
        print_pairs("tensors", list(_tensor_lines(one["tensors"])))


def _flat(values: Mapping, path: str = ""):
    """Nested mappings as dotted keys."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", _shown(value) or "none"


def _shown(value: Any) -> str | None:
    if value is None or value == {}:
        return None
    return json.dumps(value, ensure_ascii=False, default=str) if not isinstance(value, float) else f"{value:g}"


def _tensor_lines(tensors: Mapping[str, Any]):
    if "unchecked" in tensors:
        yield "not checked", tensors["unchecked"]
    elif "total" in tensors:
        yield "in the adapter", f"{tensors['total']} tensors, {tensors['parameters']:,} parameters"
        yield "loaded", f"{tensors['loaded']} tensors, {tensors['loaded_parameters']:,} parameters"
        for why, count in tensors["inert"].items():
            yield "inert", f"{count} tensors: {why}"
        misfits = list(tensors["misfits"].items())
        for key, why in misfits[:8]:
            yield "MISFIT", f"{key}: {why}"
        if misfits:
            yield "", f"{len(misfits)} tensors fit nowhere in {tensors['base']}, so the adapter would be refused"
    else:
        yield "head", tensors["head"] or "none"
