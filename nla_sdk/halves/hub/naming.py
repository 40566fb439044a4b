"""What a repository is called now, asked of the Hub where nothing else tells it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ...errors import NLAError
from .errors import clean_token, hub_errors
from .renames import heard, present_name

ASKING = 10.0  # seconds that a question which only a name hangs on may take


def ask_present_name(repo: str, kind: str = "model", **where: Any) -> str:
    """The repository's present name, asked of the Hub; the name itself where it cannot be had.

    Args:
        where: `token` and `local_files_only`, as for `fetch.fetch_half`; others are left unread.
    """
    from huggingface_hub import HfApi, constants

    known = present_name(repo, kind)
    if known != repo or where.get("local_files_only") or constants.is_offline_mode():
        return known
    try:
        with hub_errors(repo if kind == "model" else f"{kind}s/{repo}"):
            info = HfApi(token=clean_token(where.get("token"))).repo_info(repo, repo_type=kind, timeout=ASKING)
    except NLAError:
        return repo
    heard(repo, info.id or repo, kind)
    return present_name(repo, kind)


def same_repository(one: str | None, other: str | None, kind: str = "model", **where: Any) -> bool:
    """Whether two names are of one repository: the same but for letters' case, or one an old name of the other.

    The Hub is asked only of names that differ; without it they are two.

    Args:
        where: as for `ask_present_name`.
    """
    if one is None or other is None:
        return one is other
    if one.lower() == other.lower():
        return True
    if not all(name.count("/") == 1 and all(name.split("/")) and name[0] not in "./~" for name in (one, other)):
        return False
    known = [present_name(name, kind).lower() for name in (one, other)]
    return known[0] == known[1] or len({ask_present_name(name, kind, **where).lower() for name in (one, other)}) == 1


def other_names(repo: str | None, found: Iterable[object], **where: Any) -> tuple[str, ...]:
    """Of names found somewhere, those that are old or new names of `repo`.

    Args:
        where: as for `ask_present_name`.
    """
    names = {name for name in found if isinstance(name, str) and name != repo}
    return tuple(sorted(name for name in names if same_repository(repo, name, **where)))
