"""What `nla info` prints of an inspection."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..contract import written_as
from ..halves.inspection import Inspection
from .terminal import file_size, print_pairs


def show(inspections: Sequence[Inspection], *, as_json: bool) -> None:
    """Print what was found on stdout."""
    halves = [inspection.to_dict() for inspection in inspections]
    if as_json:
        print(json.dumps(halves if len(halves) > 1 else halves[0], indent=2, ensure_ascii=False, default=str))
        return
    for number, half in enumerate(halves):
        if number:
            print()
        _show_half(half)


def _show_half(half: dict[str, Any]) -> None:
    role = str(half["contract"]["role"]["value"] or "table").upper()
    where = f" / {half['subfolder']}" if half["subfolder"] else ""
    commit = f" (commit {half['commit'][:12]})" if half["commit"] else ""
    print_pairs(f"{role} {half['ref']}{where}{commit}", [("layout", half["layout"]), ("partner", half["partner"])])
    print_pairs("", [("injection", half["injection"])] if half["injection"] else [])
    provenance = half["contract"].pop("provenance")
    known = [(written_as(key), _shown(item["value"]), item["origin"]) for key, item in half["contract"].items()]
    print_pairs("contract", [row for row in known if row[1] is not None])
    unset = [key for key, value, _ in known if value is None]
    print_pairs("", [("not set", ", ".join(unset))] if unset else [])
    if half["other_keys"]:
        print_pairs("other keys, kept as they are", [("", ", ".join(map(str, half["other_keys"])))])
    if provenance["value"]:
        print_pairs(f"provenance ({provenance['origin']})", list(_flat(provenance["value"])))
    print_pairs("files", [(name, file_size(size)) for name, size in half["files"].items()])
    print_pairs("tensors", list(_tensor_lines(half["tensors"])))


def _flat(values: Mapping[Any, Any], path: str = "") -> Iterator[tuple[str, str]]:
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


def _tensor_lines(tensors: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if "head" in tensors:
        yield "head", tensors["head"] or "none"
    if "unchecked" in tensors:
        yield "not checked", tensors["unchecked"]
    elif "total" in tensors:
        yield (
            "in the checkpoint" if "head" in tensors else "in the adapter",
            f"{tensors['total']} tensors, {tensors['parameters']:,} parameters",
        )
        yield "loaded", f"{tensors['loaded']} tensors, {tensors['loaded_parameters']:,} parameters"
        for reason, count in tensors["inert"].items():
            yield "inert", f"{count} tensors: {reason}"
        misfits = list(tensors["misfits"].items())
        for key, reason in misfits[:8]:
            yield "MISFIT", f"{key}: {reason}"
        if misfits:
            what = "the checkpoint" if "head" in tensors else "the adapter"
            yield "", f"{len(misfits)} tensors fit nowhere in {tensors['base']}, so {what} would be refused"
