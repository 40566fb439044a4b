"""What is known of published releases (`releases.yaml`), and where the other half of a pair is."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any

import yaml

from ..values import agree, whole_number

# Of a repository, not of the pair's contract: a copy of the same files elsewhere need not share it.
_OF_THE_REPOSITORY = ("repo", "any_subfolder", "pair", "provenance")


@cache
def _releases() -> dict[str, dict[str, Any]]:
    text = resources.files("nla_sdk.contract.releases").joinpath("releases.yaml").read_text(encoding="utf-8")
    return {repo.lower(): {"repo": repo, **entry} for repo, entry in yaml.safe_load(text)["releases"].items()}


def known_release(repo_id: str, subfolder: str | None = None) -> dict[str, Any] | None:
    """What is known of a published repository, as `known` for `Contract.load`; None if nothing is.

    Args:
        repo_id: owner/name, in any letter case.
        subfolder: a checkpoint inside it. Only releases that keep one checkpoint per subfolder are known so; what
            stands in another repository's subfolder is not.
    Example:
        >>> known_release("solshine/gemma-4-e2b-nla-l23-ar-v0_0_1")["ar_num_blocks"]
        18
    """
    entry = copy.deepcopy(_releases().get(repo_id.lower()))
    if entry is None or (subfolder and not entry.get("any_subfolder")):
        return None
    return {key: value for key, value in entry.items() if key not in ("repo", "any_subfolder")}


def recognise(values: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """What is known of a release, told by what its AV's sidecar states: a local copy goes by no repository's name.

    Base, layer and marker alone are those of other people's pairs too, which were trained on other prompts, or add the
    vector after a block instead of overwriting the marker: so the template and the scale must be the release's as well,
    and both are in the sidecar of every release that is known here.

    Args:
        values: attributes of the canonical form, as a file has them.
    Returns:
        What all releases with these facts have in common, without what is a repository's own; and, where there is
        nothing, which release comes near and what differs ("" if none does).
    Example:
        >>> recognise({"base_model": "owner/lm", "layer": 3})
        ({}, '')
    """
    near = ""
    found: list[dict[str, Any]] = []
    for entry in _releases().values():
        if entry["role"] != "av" or not _same_place(values, entry):
            continue
        wrong = [name for name in ("av_template", "injection_scale") if not _same(name, values, entry)]
        if wrong:
            near = f"Base, layer and marker are those of {entry['repo']}, but not its {' and '.join(wrong)}"
        else:
            found.append({key: value for key, value in entry.items() if key not in _OF_THE_REPOSITORY})
    if not found:
        return {}, near
    first, *others = found
    return {
        key: copy.deepcopy(value)
        for key, value in first.items()
        if all(other.get(key, value) == value for other in others)
    }, ""


def _same_place(values: Mapping[str, Any], entry: Mapping[str, Any]) -> bool:
    """Whether base (a folder by its last part), layer, width and marker are a release's."""
    base, theirs = str(values.get("base_model") or "").lower(), str(entry["base_model"]).lower()
    if base != theirs and re.split(r"[/\\]", base.rstrip("/\\"))[-1] != theirs.rpartition("/")[2]:
        return False
    try:
        if any(whole_number(values.get(name)) != entry[name] for name in ("layer", "d_model")):
            return False
    except ValueError:
        return False
    markers = [name for name in ("injection_token_id", "injection_char") if values.get(name) is not None]
    return bool(markers) and all(_same(name, values, entry) for name in markers)


def _same(name: str, values: Mapping[str, Any], entry: Mapping[str, Any]) -> bool:
    if values.get(name) is None or name not in entry:
        return False
    if name == "av_template":
        return str(values[name]).strip() == entry[name].strip()
    return agree(values[name], entry[name], entry["d_model"])


def values_of(attribute: str) -> dict[Any, list[str]]:
    """The values that known releases have of an attribute, each with their repositories.

    Example:
        >>> sorted(values_of("injection_rule"))  # doctest: +SKIP
        ['add', 'replace']
    """
    block, _, leaf = attribute.partition("_")
    found: dict[Any, list[str]] = {}
    for entry in _releases().values():
        inside = entry.get(block)
        value = entry.get(attribute, inside.get(leaf) if isinstance(inside, dict) else None)
        if value is not None and not isinstance(value, (dict, list)):
            found.setdefault(value, []).append(entry["repo"])
    return found


def release_partner(repo_id: str) -> str | None:
    """The repository of a known release's other half; None where none is known."""
    releases = _releases()
    if pair := releases.get(repo_id.lower(), {}).get("pair"):
        return pair
    naming_it = (entry["repo"] for entry in releases.values() if entry.get("pair", "").lower() == repo_id.lower())
    return next(naming_it, None)


def guess_partner(repo_id: str) -> str | None:
    """The other half's likely name: `-av` for `-ar` and the other way round, in the last part of an id or path.

    Example:
        >>> guess_partner("owner/lm-nla-L23-av-v0_1")
        'owner/lm-nla-L23-ar-v0_1'
    """
    folder, slash, name = repo_id.rpartition("/")
    letters = [match.start() for match in re.finditer(r"(?<=-a)[vr](?=-|$)", name, flags=re.IGNORECASE)]
    if len(letters) != 1:  # `-av-ar` may be either half's, or both's
        return None
    letter = letters[0]
    return folder + slash + name[:letter] + name[letter].translate(str.maketrans("vrVR", "rvRV")) + name[letter + 1 :]
