"""What is known of published releases (`releases.yaml`), and where the other half of a pair is."""

from __future__ import annotations

import copy
import re
from functools import cache
from importlib import resources
from typing import Any

import yaml


@cache
def _releases() -> dict[str, dict[str, Any]]:
    text = resources.files("nla_sdk.contract").joinpath("releases.yaml").read_text(encoding="utf-8")
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
