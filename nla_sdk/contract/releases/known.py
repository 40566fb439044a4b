"""What is known of published releases (`data/`), and where the other half of a pair is."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ..keys import WRITTEN_BLOCKS
from ..values import agree, whole_number
from .catalogue import Release, find, releases

# Of a repository, not of the pair's contract: a copy of the same files elsewhere need not share it.
_OF_THE_REPOSITORY = ("pair", "provenance", "weights_")


def known_release(repo_id: str, subfolder: str | None = None) -> dict[str, Any] | None:
    """What is known of a published repository, as `known` for `Contract.load`; None if nothing is.

    Args:
        repo_id: owner/name, in any letter case.
        subfolder: a checkpoint inside it. What stands in a subfolder that no entry speaks of is not known.
    Example:
        >>> known_release("solshine/gemma-4-e2b-nla-l23-ar-v0_0_1")["ar_num_blocks"]
        18
    """
    release = find(repo_id, subfolder)
    return None if release is None else dict(release.facts)


def family_of(repo_id: str) -> str | None:
    """Whose recipe a known release is of; None of one that is not known.

    Example:
        >>> family_of("kitft/nla-qwen2.5-7b-L20-av")
        'reference'
    """
    release = find(repo_id)
    return None if release is None else release.family


def known_faults(repo_id: str, subfolder: str | None = None) -> list[str]:
    """What is wrong with a known release or with its card, a sentence each; [] where nothing is known to be.

    Args:
        repo_id, subfolder: as for `known_release`.
    """
    release = find(repo_id, subfolder)
    return [] if release is None else list(release.faults)


def recognise(values: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """What is known of a release, told by what a half's files state: a local copy goes by no repository's name.

    Base, layer, width, marker and template are those of other people's pairs too, which add the vector after a block
    where these overwrite the marker, or keep a norm that these drop. So an AV must state its injection too and an AR
    its depth, and a fact is filled in only where all releases that what is stated fits agree in it.

    Args:
        values: attributes of the canonical form, as a file has them.
    Returns:
        Attributes that follow, without what is a repository's own; and, where there are none, which releases come near
        and what differs ("" if none does).
    Example:
        >>> recognise({"base_model": "owner/lm", "layer": 3})
        ({}, '')
    """
    role = values.get("role") or ("ar" if "ar_template" in values and "av_template" not in values else "av")
    nearest: tuple[int, str] = (99, "")
    fitting: list[tuple[Release, dict[str, Any]]] = []
    for release in releases():
        facts = _flat(release)
        if facts.get("role") != role or not _same_place(values, facts):
            continue
        wrong = _wrong(role, values, facts)
        if not wrong:
            fitting.append((release, facts))
        elif len(wrong) < nearest[0]:
            place = "Base and layer" if role == "ar" else "Base, layer and marker"
            nearest = len(wrong), f"{place} are those of {release.repo}, but not its {' and '.join(wrong)}"
    if not fitting:
        return {}, nearest[1]
    found = {
        name: value
        for name, value in fitting[0][1].items()
        if all(facts.get(name) == value for _, facts in fitting) and not name.startswith(_OF_THE_REPOSITORY)
    }
    apart = [name for name in _APART[role] if name not in found and values.get(name) is None]
    repos = list(dict.fromkeys(release.repo for release, _ in fitting))
    if not apart or len(repos) == 1:
        return found, ""
    if role == "ar":  # filled in by halves, what is left would fall to defaults
        found = {}
    several = f"{', '.join(repos[:3])}{f' and {len(repos) - 3} more' if len(repos) > 3 else ''}"
    return found, f"What is stated fits {several}, which differ in {' and '.join(apart)}"


# What tells a half beside its place: facts that its files must state, and those that they may.
_TOLD_BY = {
    "av": (
        ("av_template",),
        ("injection_site", "injection_block", "injection_rule", "injection_norm", "injection_scale", "prompt_style"),
    ),
    "ar": (
        ("ar_template", "ar_num_blocks"),
        ("ar_bos", "ar_final_norm", "ar_state", "ar_position", "ar_heads", "head_bias"),
    ),
}
# Facts that are never guessed, so it is worth saying that releases differ in them.
_APART = {"av": ("prompt_style",), "ar": ("ar_final_norm", "ar_bos", "ar_state", "ar_position", "ar_heads")}


def _wrong(role: str, values: Mapping[str, Any], facts: Mapping[str, Any]) -> list[str]:
    """What tells a release and is not as the values have it."""
    must, may = _TOLD_BY[role]
    wrong = [name for name in must if not _same(name, values, facts)]
    wrong += [name for name in may if values.get(name) is not None and not _same(name, values, facts)]
    if role == "av" and not any(values.get(name) is not None for name in ("injection_norm", "injection_scale")):
        # Descendants of the reference that add the vector after a block leave the scale out: nothing tells them apart.
        wrong.append("injection_scale" if "injection_scale" in facts else "injection")
    return wrong


def _flat(release: Release) -> dict[str, Any]:
    """A release's facts by attribute: `injection: {site: …}` as `injection_site`."""
    flat: dict[str, Any] = {}
    for key, value in release.facts.items():
        if key in WRITTEN_BLOCKS and isinstance(value, dict):
            flat |= {f"{key}_{leaf}": inner for leaf, inner in value.items()}
        else:
            flat[key] = value
    return flat


def _same_place(values: Mapping[str, Any], facts: Mapping[str, Any]) -> bool:
    """Whether base (a folder by its last part), layer, width and, of an AV, the marker are a release's."""
    base, theirs = str(values.get("base_model") or "").lower(), str(facts.get("base_model")).lower()
    if base != theirs and re.split(r"[/\\]", base.rstrip("/\\"))[-1] != theirs.rpartition("/")[2]:
        return False
    try:
        if any(whole_number(values.get(name)) != facts.get(name) for name in ("layer", "d_model")):
            return False
    except ValueError:
        return False
    if facts.get("role") == "ar":
        return True
    markers = [name for name in ("injection_token_id", "injection_char") if values.get(name) is not None]
    # Of a marker's text and id a release may know but one; the other is then no reason against it.
    known = [name for name in markers if name in facts]
    return bool(known) and all(_same(name, values, facts) for name in known)


def _same(name: str, values: Mapping[str, Any], facts: Mapping[str, Any]) -> bool:
    if values.get(name) is None or name not in facts:
        if name == "injection_scale" and facts.get("injection_norm") == "sqrt_d" and values.get(name) is not None:
            return agree(values[name], "sqrt_d_model", facts["d_model"])
        return False
    if name.endswith("_template"):
        return str(values[name]).strip() == facts[name].strip()
    if name == "injection_norm" and facts[name] == "sqrt_d" and values.get("injection_scale") is not None:
        return True  # the number itself is compared
    return agree(values[name], facts[name], facts["d_model"])


def values_of(attribute: str) -> dict[Any, list[str]]:
    """The values that known releases have of an attribute, each with their repositories (and subfolders).

    Example:
        >>> sorted(values_of("injection_rule"))
        ['add', 'replace']
    """
    found: dict[Any, list[str]] = {}
    for release in releases():
        value = _flat(release).get(attribute)
        if value is not None and not isinstance(value, (dict, list)):
            where = f"{release.repo}/{release.subfolder}" if release.subfolder else release.repo
            found.setdefault(value, []).append(where)
    return found


def release_partner(repo_id: str) -> str | None:
    """The repository of a known release's other half; None where none is known."""
    release = find(repo_id)
    if release is not None and (pair := release.facts.get("pair")):
        return pair
    naming_it = (one.repo for one in releases() if str(one.facts.get("pair", "")).lower() == repo_id.lower())
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
