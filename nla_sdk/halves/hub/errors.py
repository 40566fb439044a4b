"""What huggingface_hub raises → what this package raises: who is asked for what, and what to do about it.

Our exceptions are cut off from the client's, which can quote request headers, and so a token.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ...errors import (
    AccessTokenError,
    GatedRepositoryError,
    MissingFileError,
    MissingRepositoryError,
    NLAError,
    OfflineError,
    RepositoryError,
)
from .references import meant, no_reference
from .renames import listening

if TYPE_CHECKING:
    from huggingface_hub.errors import HfHubHTTPError

TRANSIENT = frozenset({408, 423, 425, 429, 500, 502, 503, 504, *range(520, 525)})
"""HTTP statuses of the moment (the last ones are Cloudflare's): the same request may be answered later."""

GONE = {
    410: "was deleted (410: gone for good). Look for a copy under another name, or ask its author",
    451: "is unavailable for legal reasons (451) and will not be served. Its page may say why",
}
"""What an answer says of the repository itself: it is final, whatever was asked for."""


@contextmanager
def hub_errors(repo: str, revision: str | None = None, *, publishing: bool = False) -> Iterator[None]:
    """Turn the client's errors inside the block into ours, and hear whether the repository was renamed.

    Args:
        repo: the repository that is asked; `datasets/owner/name` for a dataset.
        revision: the revision asked for, if not the default branch.
        publishing: it is asked in order to write to it: no cache and no folder stands in for the Hub then.
    """
    from huggingface_hub import errors

    kind = "dataset" if repo.startswith("datasets/") else "model"
    try:
        with listening(repo.removeprefix("datasets/"), kind):
            yield
    except NLAError:
        raise
    except (
        errors.HTTPError,  # of httpx: the base of all its errors and of the client's own
        errors.EntryNotFoundError,
        errors.FileMetadataError,
        errors.RevisionResolutionError,
        errors.HFValidationError,
        ConnectionError,
        TimeoutError,
    ) as error:
        raise (_of_publishing(error, repo) if publishing else None) or _translated(error, repo, revision) from None
    except UnicodeEncodeError:
        raise AccessTokenError(
            "The access token of this machine (HF_TOKEN, or the one of `hf auth login`) holds characters no token has. "
            "Log in again with `hf auth login`."
        ) from None


def _translated(error: Exception, repo: str, revision: str | None) -> NLAError:
    from huggingface_hub import constants, errors

    page = f"{constants.ENDPOINT}/{repo}"
    if isinstance(error, errors.HFValidationError):
        return MissingRepositoryError(no_reference(repo))
    if isinstance(
        error, errors.LocalEntryNotFoundError | errors.RevisionResolutionError
    ):  # not cached; its cause is why the Hub did not help
        cause = error.__cause__
        if isinstance(cause, errors.HfHubHTTPError):
            return _translated(cause, repo, revision)
        return _offline(repo, revision, cause)
    if isinstance(error, errors.GatedRepoError):
        return GatedRepositoryError(
            f"{repo} is gated. Accept its terms at {page} with your account, then log in with `hf auth login` or pass "
            "token=… (the token of that account, allowed to read gated repositories)."
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return MissingRepositoryError(
            f"The repository {repo} does not exist on {constants.ENDPOINT}, or it is private: then pass token=… or run "
            f"`hf auth login`. There is no folder {repo} here either.{meant(repo)}"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return MissingFileError(
            f"{repo} has no revision {revision!r}. Its branches and tags are listed at {page}/tree/main."
        )
    if isinstance(error, errors.EntryNotFoundError):
        return MissingFileError(f"A file of {repo} could not be found. Its files are listed at {page}/tree/main.")
    if isinstance(error, errors.DisabledRepoError):
        return MissingRepositoryError(f"Access to {repo} was disabled by its owner or by the Hub: see {page}.")
    if isinstance(error, errors.HfHubHTTPError):
        status = error.response.status_code
        if status == 401:
            return AccessTokenError(
                f"The Hub refused the access token when asked for {repo} (401). Pass another one as token=…, log in "
                "again with `hf auth login`, or, for a public repository, pass token=False."
            )
        if status == 403:
            return AccessTokenError(
                f"The access token may not read {repo} (403). Give it the permission in your account's settings, or "
                "pass another one as token=…."
            )
        if status in GONE or status not in TRANSIENT:
            return _final(error, repo)
        return OfflineError(
            f"{repo} is not in the cache and {constants.ENDPOINT} answered with HTTP status {status}. "
            f"Try again {later(error)}."
        )
    return _offline(repo, revision, error)


def _of_publishing(error: Exception, repo: str) -> NLAError | None:
    """What `_translated` says of reading and would be untrue of writing; None where it is the same."""
    from huggingface_hub import constants, errors

    if isinstance(error, errors.OfflineModeIsEnabled):
        return OfflineError(f"{repo} cannot be asked for: HF_HUB_OFFLINE is set, and publishing needs the network.")
    if isinstance(error, errors.GatedRepoError | errors.RevisionNotFoundError | errors.EntryNotFoundError):
        return None
    if isinstance(error, errors.RepositoryNotFoundError):
        return MissingRepositoryError(
            f"The repository {repo} does not exist on {constants.ENDPOINT}, or this token may not see it."
        )
    if isinstance(error, errors.DisabledRepoError | errors.HFValidationError):
        return None
    if isinstance(error, errors.HfHubHTTPError):
        status = error.response.status_code
        if status == 401:
            return AccessTokenError(
                f"The Hub refused the access token when asked for {repo} (401). Log in again with `hf auth login`, or "
                "set HF_TOKEN to another one."
            )
        if status == 403:
            return AccessTokenError(
                f"The access token may not write to {repo} (403). Give it the permission in your account's settings, "
                "or set HF_TOKEN to another one."
            )
        if status in GONE or status not in TRANSIENT:
            return _final(error, repo)
        said = f" ({error.server_message})" if status < 500 and error.server_message else ""
        return OfflineError(
            f"{constants.ENDPOINT} answered with HTTP status {status}{said} when asked for {repo}. "
            f"Try again {later(error)}."
        )
    return OfflineError(
        f"{constants.ENDPOINT} cannot be reached for {repo} ({type(error).__name__}). Check the connection and "
        "HF_ENDPOINT."
    )


def _final(error: HfHubHTTPError, repo: str) -> RepositoryError:
    """What no second attempt changes."""
    from huggingface_hub import constants

    status = error.response.status_code
    if status in GONE:
        return MissingRepositoryError(f"{repo} {GONE[status]}: {constants.ENDPOINT}/{repo}.")
    said = " ".join((error.server_message or "").split())[:300]
    return RepositoryError(
        f"{constants.ENDPOINT} refused what was asked for {repo} with HTTP status {status}"
        f"{f' ({said})' if said else ''}; the same would be refused again."
    )


def pause_asked(error: BaseException) -> float | None:
    """Seconds that the Hub asked to wait with an error: its Retry-After, or when its limit of requests is reset.

    Both are whole seconds there; a date is left unread, as the client does.
    """
    headers = getattr(getattr(error, "response", None), "headers", None) or {}
    stated = str(headers.get("retry-after") or "").strip()
    if not stated and (limit := re.search(r"\br=0;t=(\d+)", str(headers.get("ratelimit") or ""))):
        stated = limit[1]
    return float(stated) if stated.isdecimal() else None


def later(error: BaseException) -> str:
    """When to try again, as far as the Hub said."""
    pause = pause_asked(error)
    return f"in {pause:.0f} seconds" if pause and pause >= 1 else "later"


def _offline(repo: str, revision: str | None, cause: BaseException | None) -> OfflineError:
    from huggingface_hub import constants, errors

    what = f"{repo}{f' at revision {revision}' if revision else ''}"
    if cause is None or isinstance(cause, errors.OfflineModeIsEnabled):
        return OfflineError(
            f"{what} is not in the cache, or not all of it, and the network may not be used (local_files_only or "
            "HF_HUB_OFFLINE is set). Run this once with the network on, or pass a folder that holds the files."
            f"{meant(repo)}"
        )
    return OfflineError(
        f"{what} is not in the cache, or not all of it, and {constants.ENDPOINT} cannot be reached "
        f"({type(cause).__name__}). Check the connection and HF_ENDPOINT, or pass a folder that holds the files."
    )


def clean_token(token: str | bool | None) -> str | bool | None:
    """Tokens pasted from files end in line breaks, which the HTTP client would quote, token and all, in its error."""
    if not isinstance(token, str):
        return token
    token = token.strip()
    if not re.fullmatch(r"[!-~]+", token):
        raise AccessTokenError(
            "The token given is no Hub token: it is empty, or holds spaces, line breaks or other characters no token "
            "has. Copy it again from the tokens page of your account's settings."
        )
    return token
