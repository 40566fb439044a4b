"""The data on published releases: one entry a repository, whose subfolders may differ in some facts."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cache
from importlib import resources
from typing import Any

import yaml

from ..values import over

# Of an entry, not of the contract.
_OF_THE_ENTRY = frozenset(("rows", "evidence", "subfolders", "faults", "unrunnable", "unsupported", "known"))


@dataclass(frozen=True)
class Release:
    """A published repository, or the checkpoints in it whose subfolder's name matches a pattern.

    Attributes:
        repo: owner/name; with * where it stands for several.
        subfolder: pattern of the subfolders it speaks of (* as in file names); None: what holds for the whole.
        family: whose recipe it is of.
        rows: of the census that its facts are from.
        evidence: what its facts rest on: C its card or files, K code that trained or serves it, T somebody's
            measurements, V checked here, ? nothing.
        facts: what is known of its contract, under the keys of the canonical form.
        faults: what is wrong with it, in sentences.
        missing: the facts that must be stated before it can be run; () where all are known.
        unsupported: why it cannot be run here whatever is stated; "".
        known: what is known beside the facts, for whoever has to state the missing ones; "".
    """

    repo: str
    subfolder: str | None
    family: str
    rows: tuple[int, ...]
    evidence: str
    facts: Mapping[str, Any] = field(repr=False)
    faults: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    unsupported: str = ""
    known: str = ""

    @property
    def runnable(self) -> bool:
        """Whether everything is known that running it takes."""
        return not self.missing and not self.unsupported

    @property
    def kind(self) -> str:
        """ "oracle", "AV" or "AR"; "?" of a repository that holds several or does not say it."""
        if "question" in (self.facts.get("fields") or {}):
            return "oracle"
        return {"av": "AV", "ar": "AR"}.get(str(self.facts.get("role")), "?")


@cache
def _document() -> dict[str, dict[str, Any]]:
    """Family → what it takes, and its releases."""
    folder = resources.files("nla_sdk.contract.releases").joinpath("data")
    files = sorted((file for file in folder.iterdir() if file.name.endswith(".yaml")), key=lambda file: file.name)
    # One document in several files: anchors of the first, the templates, are used in the others.
    text = "\n".join(file.read_text(encoding="utf-8") for file in files)
    document = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # libyaml's is ten times as fast
    return {family: content for family, content in document.items() if not family.startswith("_")}


def families() -> dict[str, str]:
    """The families, each with what it takes in a sentence or two."""
    return {family: content["about"] for family, content in _document().items()}


@cache
def _entries() -> dict[str, tuple[str, str, dict[str, Any]]]:
    """Repository in lower case → its name, its family and its entry."""
    return {
        repo.lower(): (repo, family, entry)
        for family, content in _document().items()
        for repo, entry in content["releases"].items()
    }


def _entry(repo: str) -> tuple[str, str, dict[str, Any]] | None:
    """A repository's entry; else the first whose name is a pattern that matches it."""
    entries, name = _entries(), repo.lower()
    if name in entries:
        return entries[name]
    return next((entry for pattern, entry in entries.items() if "*" in pattern and fnmatchcase(name, pattern)), None)


def releases() -> Iterator[Release]:
    """All of them: a repository's whole where its subfolders do not say otherwise, else each of its subfolders."""
    for repo, family, entry in _entries().values():
        for pattern in entry.get("subfolders") or [None]:
            yield _release(repo, family, entry, pattern)


def find(repo: str, subfolder: str | None = None) -> Release | None:
    """The release that a repository, or a checkpoint inside it, is of; None where none is known.

    Args:
        repo: owner/name, in any letter case.
        subfolder: a path inside it; without one what all its checkpoints have in common.
    """
    if (found := _entry(repo)) is None:
        return None
    name, family, entry = found
    name = repo if "*" in name else name
    if not subfolder:
        return _release(name, family, entry, None)
    patterns = (pattern for pattern in entry.get("subfolders") or () if fnmatchcase(subfolder, pattern))
    pattern = next(patterns, None)
    return None if pattern is None else _release(name, family, entry, pattern)


def _release(repo: str, family: str, entry: Mapping[str, Any], pattern: str | None) -> Release:
    own = (entry.get("subfolders") or {}).get(pattern) or {}
    whole = over(own, entry)
    faults = [*entry.get("faults", ()), *own.get("faults", ())]
    return Release(
        repo=repo,
        subfolder=pattern,
        family=family,
        rows=tuple(whole["rows"]),
        evidence=whole["evidence"],
        facts={key: copy.deepcopy(value) for key, value in whole.items() if key not in _OF_THE_ENTRY},
        faults=tuple(faults),
        missing=tuple(whole.get("unrunnable", ())),
        unsupported=whole.get("unsupported", ""),
        known=whole.get("known", ""),
    )
