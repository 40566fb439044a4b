"""What becomes of every tensor of an adapter, from the headers of its files and the base's config alone.

The base is built on the meta device, without weights, so that an adapter is accounted for before anything is loaded.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from ..errors import AdapterConfigError, MissingFileError, NLAError, first_line
from .demo_base import DEMO_BASE_ID, base_folder
from .fetch import fetch_file
from .half import ADAPTER_FILES, Half
from .hub.errors import clean_token, hub_errors

if TYPE_CHECKING:
    from transformers import PreTrainedModel

HEAD_PREFIXES = ("linear_head", "value_head")


def account(
    half: Half,
    files: Mapping[str, int] = MappingProxyType({}),
    base: str | None = None,
    *,
    local_files_only: bool = False,
    token: str | None = None,
) -> dict[str, Any]:
    """What becomes of every adapter tensor.

    Args:
        files: name → bytes, of the half's folder; tells a full checkpoint's head.
        base: the base to check the adapter against; default: the contract's.
        local_files_only: ask no network.
        token: that may read the base; None: this machine's.
    Returns:
        For an adapter counts of tensors and parameters, in all and loaded, and the reasons for the rest: `inert` (by
        design) and `misfits` (no place in the base); or `unchecked`, why that could not be told. For a full checkpoint
        `head`, the name of its head's file, and the same of its own model (`loaded`, `inert`, `misfits`) by name.
    Raises:
        AdapterConfigError, DamagedFileError: adapter_config.json is none.
    """
    if not half.is_adapter:
        heads = sorted(name for name in files if name.startswith(HEAD_PREFIXES))
        return {"head": heads[0] if heads else None, **_account_of_model(half, local_files_only)}
    if half.contract.weights_adapters is not None:
        return {
            "unchecked": f"several adapters together: {', '.join(half.contract.weights_adapters)}; loading checks each"
        }
    wanted = base or half.contract.base_model
    if (half.folder / ADAPTER_FILES[0]).is_file():
        from ..model.weights.adapters.config import check_config, read_json

        raw = read_json(half.folder)
        try:
            check_config(raw, half.folder)
        except AdapterConfigError as error:
            return {"unchecked": str(error)}
    try:
        shapes = _shapes(half)
        model = _skeleton(wanted, half.contract.base_revision if base is None else None, local_files_only, token)
    except NLAError as error:
        return {"unchecked": str(error)}
    from ..model.weights.adapters.plan import plan_adapter

    plan = plan_adapter(model, shapes, num_blocks_run=half.contract.ar_num_blocks)
    count = {key: math.prod(shape) for key, shape in shapes.items()}
    return {
        "base": wanted,
        "total": len(shapes),
        "parameters": sum(count.values()),
        "loaded": len(plan.slots),
        "loaded_parameters": sum(count[key] for key in plan.slots),
        "inert": group_reasons(plan.inert),
        "misfits": dict(plan.misfits),
    }


def _shapes(half: Half) -> dict[str, tuple[int, ...]]:
    """Shapes of the adapter's tensors, from the file's header alone."""
    if half.commit is None or (half.folder / ADAPTER_FILES[1]).is_file():
        from ..model.weights.files import open_adapter

        with open_adapter(half.folder) as file:
            return file.shapes
    from huggingface_hub import HfApi

    name = f"{half.subfolder}/{ADAPTER_FILES[1]}" if half.subfolder else ADAPTER_FILES[1]
    with hub_errors(half.ref, half.commit):
        header = HfApi(token=clean_token(None)).parse_safetensors_file_metadata(half.ref, name, revision=half.commit)
    return {key: tuple(tensor.shape) for key, tensor in header.tensors.items()}


def _account_of_model(half: Half, local_files_only: bool) -> dict[str, Any]:
    """What becomes of a full checkpoint's tensors, by their names; nothing where its files are not on this machine."""
    from ..model.weights import leftovers
    from ..model.weights.loading import text_config

    if not any((half.folder / name).is_file() for name in ("model.safetensors", "model.safetensors.index.json")):
        return {}
    try:
        found = leftovers.headers(half.folder)
        model = _skeleton(str(half.folder), None, local_files_only)
        leftovers.refuse_unscaled(half.folder, model.config)
    except (NLAError, ValueError, OSError, KeyError, TypeError, AttributeError) as error:
        return {"unchecked": str(error)}
    expected = model.state_dict().keys()
    ignored = [re.compile(pattern) for pattern in model._keys_to_ignore_on_load_unexpected or ()]
    rest = [key for key in found if key not in expected and not any(pattern.search(key) for pattern in ignored)]
    blocks, truncated = text_config(model.config).num_hidden_layers, half.role == "ar"
    misfits = leftovers.unplaced(rest, blocks, truncated=truncated)
    what, _ = leftovers.guess(misfits)
    if len(misfits) > len(found) / 2 and "not known" in what:  # transformers renames what older versions wrote
        return {"unchecked": f"{len(misfits)} of {len(found)} tensors go by other names than {type(model).__name__}'s"}
    reasons = {key: leftovers.why_left_out(key, blocks, truncated=truncated) for key in rest if key not in misfits}
    count = {key: math.prod(shape) for key, (_, shape) in found.items()}
    return {
        "base": type(model).__name__,
        "total": len(found),
        "parameters": sum(count.values()),
        "loaded": len(found) - len(rest),
        "loaded_parameters": sum(count.values()) - sum(count[key] for key in rest),
        "inert": group_reasons({key: why for key, why in reasons.items() if why}),
        "misfits": dict.fromkeys(misfits, what),
    }


def _skeleton(ref: str, revision: str | None, local_files_only: bool, token: str | None = None) -> PreTrainedModel:
    """The base model without weights."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from ..model.quiet import quiet
    from ..model.weights.loading import leave_out_towers

    path = base_config(ref, revision, local_files_only=local_files_only, token=token)
    with quiet():
        try:
            config = AutoConfig.from_pretrained(path)
            leave_out_towers(config)
            with torch.device("meta"):
                return AutoModelForCausalLM.from_config(config)
        except (OSError, ValueError, KeyError) as error:
            raise MissingFileError(f"the config of {ref} cannot be used: {first_line(error)}") from None


def base_config(
    ref: str, revision: str | None = None, *, local_files_only: bool = False, token: str | None = None
) -> Path:
    """The base's config.json; the demo base is not converted for it.

    Raises:
        MissingFileError: there is none; else as `fetch.fetch_file`.
    """
    if ref in ("demo", DEMO_BASE_ID):
        file = base_folder() / "config.json"
        if not file.is_file():
            raise MissingFileError(
                "the demo base has not been prepared on this machine yet; any `nla round-trip` does it."
            )
        return file
    return fetch_file(ref, "config.json", revision=revision, local_files_only=local_files_only, token=token)


def group_reasons(inert: Mapping[str, str]) -> dict[str, int]:
    """Reasons that differ in a block's number become one: {"blocks 18–34 never run (…)": 68}."""
    groups: dict[str, list[tuple[int, str]]] = {}
    for reason in inert.values():
        block = re.match(r"block (\d+) (never runs|takes its)(.*)", reason)
        plural = {"never runs": "never run", "takes its": "take their"}
        text = f"{plural[block[2]]}{block[3]}" if block else reason
        groups.setdefault(text, []).append((int(block[1]) if block else -1, reason))
    grouped = {}
    for text, members in groups.items():
        blocks = {number for number, _ in members}
        single = len(blocks) == 1  # one block, or none
        grouped[members[0][1] if single else f"blocks {number_ranges(blocks)} {text}"] = len(members)
    return grouped


def number_ranges(numbers: Iterable[int]) -> str:
    """[18, 19, 20, 34] → "18–20, 34"."""
    ranges: list[list[int]] = []
    for number in sorted(set(numbers)):
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return ", ".join(str(low) if low == high else f"{low}–{high}" for low, high in ranges)
