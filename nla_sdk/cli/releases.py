"""What `nla releases` prints: the releases that are known, and whether they load or what they lack."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..contract.releases.catalogue import Release, families, releases
from ..errors import InputError
from ..io.progress import say
from .terminal import columns, print_grid

WIDE = 100  # columns of a terminal that a table of them needs
_HEADERS = ("repository (subfolder)", "base", "layer", "kind", "loads", "evid.")
_WIDTHS = {"base": 22, "layer": 8, "kind": 8, "evid.": 5}


def chosen(family: str | None = None, text: str | None = None) -> list[Release]:
    """Those of a family, and whose repository, subfolder, base or family holds a text, in any letter case.

    Raises:
        InputError: no such family, or nothing left.
    """
    if family is not None and family not in families():
        raise InputError(f"No family {family!r}. There are: {', '.join(families())}.")
    found = [release for release in releases() if family in (None, release.family) and _holds(release, text or "")]
    if not found:
        where = f" in the family {family}" if family else ""
        raise InputError(f"No known release{where} holds {text!r} in its name or base. nla releases lists all.")
    return found


def _holds(release: Release, text: str) -> bool:
    words = (release.repo, release.subfolder or "", release.family, str(release.facts.get("base_model", "")))
    return any(text.lower() in word.lower() for word in words)


def show(found: Sequence[Release], *, as_json: bool) -> None:
    """Print them on stdout, family by family."""
    if as_json:
        print(json.dumps([as_dict(release) for release in found], indent=2, ensure_ascii=False))
        return
    about = families()
    for number, family in enumerate(dict.fromkeys(release.family for release in found)):
        print(f"{chr(10) if number else ''}{family}")
        print(textwrap.fill(about[family], max(columns(), 60), initial_indent="  ", subsequent_indent="  "))
        _print_family([release for release in found if release.family == family])
    loading = sum(release.runnable for release in found)
    say(
        f"{loading} of {len(found)} entries load; what the others lack can be stated: --contract KEY=VALUE. Evidence: "
        "C card or files, K code, T somebody's notes, V checked here, ? none."
    )


def as_dict(release: Release) -> dict[str, Any]:
    """A release as JSON has it."""
    facts = release.facts
    return {
        "repository": release.repo,
        "subfolder": release.subfolder,
        "family": release.family,
        "base_model": facts.get("base_model"),
        "layer": facts.get("layer"),
        "layers": facts.get("layers"),
        "kind": release.kind,
        "weights": _block(facts, "weights").get("kind"),
        "loads": release.runnable,
        "missing": list(release.missing),
        "unsupported": release.unsupported or None,
        "known": release.known or None,
        "faults": list(release.faults),
        "evidence": release.evidence,
    }


def _print_family(found: Iterable[Release]) -> None:
    rows = [_cells(release) for release in found]
    if columns() >= WIDE:
        left = columns() - sum(_WIDTHS.values()) - len(_HEADERS)
        names = min(max(len(row[0]) for row in rows), left * 3 // 5)
        widths = {**_WIDTHS, _HEADERS[0]: max(names, len(_HEADERS[0]))}
        print_grid([(header, widths.get(header)) for header in _HEADERS], rows)
        return
    width = max(columns(), 60)
    for name, base, layer, kind, loads, evidence in rows:
        print(f"  {name}")
        line = f"{base}, layer {layer}, {kind}, {loads} [{evidence}]"
        print(textwrap.fill(line, width, initial_indent="    ", subsequent_indent="      ", break_on_hyphens=False))


def _cells(release: Release) -> tuple[str, ...]:
    facts = release.facts
    name = f"{release.repo} ({release.subfolder})" if release.subfolder not in (None, "*") else release.repo
    layers = facts.get("layers")
    layer = str(facts.get("layer", "?"))
    if layers:
        layer = (
            "any"
            if layers == "any"
            else ", ".join(map(str, layers))
            if len(layers) < 4
            else f"{layers[0]}–{layers[-1]}"
        )
    weights = {"full": " full", "lora": " LoRA"}.get(_block(facts, "weights").get("kind", ""), "")
    base = str(facts.get("base_model", "?")).rpartition("/")[2]
    return name, base, layer, release.kind + weights, loads(release), release.evidence


def loads(release: Release) -> str:
    """Whether it loads, or what it lacks, in a few words."""
    if release.unsupported:
        return f"no: {release.unsupported}"
    if release.missing:
        return f"lacks {grouped(release.missing)}"
    return "yes, with a known fault" if release.faults else "yes"


def grouped(keys: Iterable[str]) -> str:
    """Keys with those of one block together: `injection.site, injection.rule` as `injection (site, rule)`."""
    blocks: dict[str, list[str]] = {}
    for key in keys:
        block, _, leaf = key.partition(".")
        blocks.setdefault(block, []).extend([leaf] if leaf else [])
    return ", ".join(f"{block} ({', '.join(leaves)})" if leaves else block for block, leaves in blocks.items())


def _block(facts: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    return facts.get(name) or {}
