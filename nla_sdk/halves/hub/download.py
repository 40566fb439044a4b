"""One folder of a Hub repository, as files in the Hub client's own cache."""

from __future__ import annotations

import glob
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ...errors import OfflineError
from .errors import clean_token, hub_errors
from .listing import listed, tree
from .references import refuse_ref_name


def download_folder(
    repo: str,
    patterns: Sequence[str],
    revision: str | None = None,
    subfolder: str | None = None,
    cache_dir: str | os.PathLike | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
) -> Path:
    """Download the files of one folder of a repository (not of folders inside it) that match the patterns.

    Args:
        repo: owner/name.
        patterns: as of a shell, of names inside the folder.
        revision, subfolder, cache_dir, token, local_files_only: as in `fetch.fetch_half`.
    Returns:
        The snapshot's folder, named by its commit; the subfolder is inside it.
    Raises:
        MissingRepositoryError, GatedRepositoryError, AccessTokenError, MissingFileError, OfflineError: see the message.
        InputError: no branch, tag or commit can be called as the revision is.
    """
    from huggingface_hub import snapshot_download

    if revision is not None:
        refuse_ref_name(revision, "The revision")
    prefix = f"{glob.escape(subfolder)}/" if subfolder else ""
    with hub_errors(repo, revision), _no_match_is_no_news():
        return Path(
            snapshot_download(
                repo,
                revision=revision,
                allow_patterns=[prefix + pattern for pattern in patterns],
                ignore_patterns=[f"{prefix}*/*", f"{prefix}consolidated*"],  # a pattern's * also matches slashes
                cache_dir=cache_dir,
                token=clean_token(token),
                local_files_only=local_files_only,
                library_name="nla-sdk",
                tqdm_class=late_bar(),
            )
        )


def late_bar() -> type[Any]:
    """The client's progress bar, which is not shown for what is cached or comes in a moment."""
    from huggingface_hub.utils import tqdm

    class LateBar(tqdm):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **{"delay": 1.0, **kwargs})

    return LateBar


def repository_names(repo: str, snapshot: Path, cache_dir: str | os.PathLike | None) -> list[str]:
    """All files of the repository at the snapshot's commit, downloaded or not, from the listing kept beside it."""
    from huggingface_hub import errors, get_cached_repo_tree

    try:
        return sorted(file.path for file in get_cached_repo_tree(repo, revision=snapshot.name, cache_dir=cache_dir))
    except errors.CachedRepoTreeNotFoundError:  # another program cached some of the files, and the Hub was not asked
        raise OfflineError(
            f"The cached copy of {repo} is not complete (it holds {listed(tree(snapshot))}), and the network could not "
            "or may not be used. Run this once with the network on."
        ) from None


def place(repo: str, subfolder: str | None, snapshot: Path) -> str:
    """A folder of a repository at a commit, for messages."""
    return f"{repo}{f'/{subfolder}' if subfolder else ''} (commit {snapshot.name[:12]})"


@contextmanager
def _no_match_is_no_news() -> Iterator[None]:
    """Drop the client's log line with our twenty patterns in it: what is missing is said by our own error."""
    logger = logging.getLogger("huggingface_hub._snapshot_download")

    def keep(record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith("No files matched")

    logger.addFilter(keep)
    try:
        yield
    finally:
        logger.removeFilter(keep)
