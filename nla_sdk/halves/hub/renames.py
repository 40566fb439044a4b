"""Renamed repositories: under an old name the Hub answers with a redirect to the present one, which the client follows
without a word. Here it is heard, said once, and known from then on.

What was cached under an old name stays there and is found there: files are asked for by the name that was given, and
only named by the present one.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import unquote, urlsplit

from ...errors import RenamedRepositoryWarning

_present: dict[tuple[str, str, str], str] = {}  # endpoint, kind, old name in lower case → the name it was moved to
_said: set[tuple[str, str, str]] = set()
_hooks = threading.Lock()


def present_name(repo: str, kind: str = "model") -> str:
    """The repository's present name, as far as this process has heard of it; nobody is asked.

    Args:
        repo: owner/name.
        kind: "model" or "dataset".
    """
    for _ in range(len(_present)):  # renamed more than once
        repo = _present.get(_key(repo, kind), repo)
    return repo


def heard(repo: str, present: str, kind: str = "model") -> None:
    """Take note that `repo` is called `present` now, and say so once; of letters' case nothing is said."""
    if not present or present.lower() == repo.lower():
        return
    key = _key(repo, kind)
    _present[key] = present
    _present.pop(_key(present, kind), None)  # a name that was given up and taken back
    if key not in _said:
        _said.add(key)
        warnings.warn(f"{repo} is now {present}", RenamedRepositoryWarning, stacklevel=4)


@contextmanager
def listening(repo: str, kind: str = "model") -> Iterator[None]:
    """Hear, in what the client sends inside the block, whether `repo` was renamed."""
    from huggingface_hub import get_session

    moved: list[str] = []

    def hear(response: Any) -> None:
        location = response.headers.get("location") if 300 <= response.status_code < 400 else None
        if location and (name := moved_to(present_now(), str(response.request.url), location)):
            moved.append(name)

    def present_now() -> str:
        return moved[-1] if moved else repo

    session = get_session()
    _set_hooks(session, add=hear)
    try:
        yield
    finally:
        _set_hooks(session, remove=hear)
        if moved:
            heard(repo, moved[-1], kind)


def _set_hooks(session: Any, *, add: Any = None, remove: Any = None) -> None:
    """New lists in place of the session's: other threads may be walking through the old ones."""
    with _hooks:
        hooks = session.event_hooks
        response = [hook for hook in hooks["response"] if hook is not remove] + ([add] if add else [])
        session.event_hooks = {**hooks, "response": response}


def moved_to(repo: str, url: str, location: str) -> str | None:
    """The name that a redirect puts in the place of `repo`; None where it does something else.

    Example:
        >>> moved_to("ada/old", "https://hub/api/models/ada/old/revision/main", "/api/models/bob/new/revision/main")
        'bob/new'
    """
    asked, answered = urlsplit(url), urlsplit(location)
    if answered.netloc and answered.netloc != asked.netloc:  # the storage of large files
        return None
    path, target = unquote(asked.path), unquote(answered.path)
    before, found, after = path.partition(f"/{repo}")
    if not found or (after and not after.startswith("/")):
        return None
    if not (target.startswith(f"{before}/") and target.endswith(after)):
        return None
    name = target[len(before) + 1 : len(target) - len(after)]
    return name if name != repo and name.count("/") <= 1 and all(name.split("/")) else None


def named_now(value: Any, names: Mapping[str, str]) -> Any:
    """`value` with the old names in it, whole or with a folder behind them, replaced by the present ones.

    Args:
        value: mappings, lists and texts in any depth.
        names: old name → present one.
    Example:
        >>> named_now({"pair": "ada/old/step_5"}, {"ada/old": "bob/new"})
        {'pair': 'bob/new/step_5'}
    """
    if isinstance(value, Mapping):
        return {key: named_now(item, names) for key, item in value.items()}
    if isinstance(value, list):
        return [named_now(item, names) for item in value]
    if isinstance(value, str):
        for old, new in names.items():
            if value == old or value.startswith(f"{old}/"):
                return new + value[len(old) :]
    return value


def _key(repo: str, kind: str) -> tuple[str, str, str]:
    from huggingface_hub import constants

    return constants.ENDPOINT, kind, repo.lower()
