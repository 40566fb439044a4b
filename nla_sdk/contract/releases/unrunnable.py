"""What a release lacks that nobody has published, refused with its name until it is stated."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...errors import UnrunnableReleaseError
from ..keys import DIALECTS, WRITTEN
from .catalogue import find

_ATTRIBUTES = {key: attribute for attribute, key in WRITTEN.items()}
# Whoever gives a scale alone says that the vector takes the place of the embedding, at that norm.
_SAID_BY_A_SCALE = ("injection.site", "injection.rule", "injection.norm")


def refuse_unrunnable(repo: str, subfolder: str | None = None, *stated: Mapping[str, Any] | None) -> None:
    """Refuse a known release of which facts are missing, unless all of them are stated.

    Args:
        repo: owner/name, in any letter case; one that is not known is none of our business.
        subfolder: a checkpoint inside it.
        stated: mappings in any dialect that may state them: what the user says, the sidecar's.
    Raises:
        UnrunnableReleaseError: names the missing facts, what is known, and how to state them.
    Example:
        >>> refuse_unrunnable("anicka/nla-qwen2.5-7b-L20-av-v2", None, {"prompt_style": "raw"})
    """
    release = find(repo, subfolder)
    if release is None or release.runnable:
        return
    where = f"{repo}/{subfolder}" if subfolder else repo
    known = f" Known of it: {release.known.rstrip('.')}." if release.known else ""
    if release.unsupported:
        raise UnrunnableReleaseError(
            f"{where} cannot be run by this version: {release.unsupported.rstrip('.')}.{known} Run it with its "
            "author's code."
        )
    missing = [key for key in release.missing if not any(_states(mapping or {}, key) for mapping in stated)]
    if not missing:
        return
    facts, those = ", ".join(f"`{key}`" for key in missing), "it" if len(missing) == 1 else "all of them"
    given, options = ", ".join(f"'{key}': …" for key in missing), " ".join(f"--contract {key}=…" for key in missing)
    raise UnrunnableReleaseError(
        f"{where} is a known release ({release.family}) that cannot be run as trained: {facts} "
        f"{'is' if len(missing) == 1 else 'are'} not published, and a wrong value runs without an error.{known} "
        f"Ask its author, then state {those}: contract={{{given}}} (nla: {options})."
    )


def _states(mapping: Mapping[str, Any], key: str) -> bool:
    """Whether a mapping in any dialect gives a value to the key of the canonical form."""
    attribute = _ATTRIBUTES.get(key, key)
    names = (key, attribute, *DIALECTS.get(attribute, ()))
    if key in _SAID_BY_A_SCALE:
        names += ("injection_scale", *DIALECTS["injection_scale"])
    return any(_holds(mapping, name) for name in names)


def _holds(mapping: Mapping[str, Any], name: str) -> bool:
    if mapping.get(name) not in (None, []):
        return True
    block, _, leaf = name.rpartition(".")
    inside = mapping.get(block) if block else None
    return isinstance(inside, Mapping) and inside.get(leaf) not in (None, [])
