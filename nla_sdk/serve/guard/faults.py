"""What goes wrong → a status and a body, in the form that each API's clients read."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Mapping, Sequence
from typing import Any

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from ...errors import (
    CancelledCallError,
    ContractError,
    InputError,
    LoadError,
    MismatchedHalvesError,
    MissingHalfError,
    NLAError,
    NonFiniteOutputError,
    RepositoryError,
    first_line,
)
from ...evaluation.reading import EvaluationError

SITE, OWN = "/api/nla", "/v1"
FULL = "The server ran out of memory; ask for less at once."
SAID = "An error of this server, which is not the request's; its log says what went wrong."
STATUSES: Mapping[type[BaseException], int] = {
    MissingHalfError: 503,
    NonFiniteOutputError: 503,
    CancelledCallError: 503,
    ContractError: 503,
    RepositoryError: 503,
    LoadError: 503,
    MismatchedHalvesError: 503,
    EvaluationError: 503,
    MemoryError: 503,
    InputError: 400,
    NLAError: 400,
}
"""The first class of an error's ancestors that stands here gives its status: 400 is the caller's, 503 the server's."""
DEEPEST = 12  # frames of a traceback that are logged
log = logging.getLogger("nla_sdk.serve")


class Problem(HTTPException):
    """A refusal that no class of the SDK stands for.

    Attributes:
        name: what /v1 calls it.
        more: what the body says besides.
    """

    def __init__(
        self, status: int, message: str, name: str, headers: Mapping[str, str] | None = None, **more: Any
    ) -> None:
        super().__init__(status, message, dict(headers or {}))
        self.name, self.more = name, more


def status_of(error: BaseException) -> int:
    """The HTTP status of an error; 500: a bug."""
    if isinstance(error, HTTPException):
        return error.status_code
    if type(error).__name__ == "OutOfMemoryError":  # torch's own
        return 503
    return next((STATUSES[kind] for kind in type(error).__mro__ if kind in STATUSES), 500)


def said_of(error: BaseException) -> tuple[str, str]:
    """What an error is called, and what is told of it; of a bug nothing that might be the request's."""
    if isinstance(error, Problem):
        return error.name, str(error.detail)
    if isinstance(error, HTTPException):
        return "HTTPError", str(error.detail)
    if isinstance(error, NLAError):
        return type(error).__name__, str(error) or first_line(error)
    return ("OutOfMemoryError", FULL) if status_of(error) == 503 else ("ServerError", SAID)


def body_of(path: str, name: str, said: Any, **more: Any) -> dict[str, Any]:
    """The body of a refusal, as the API that a path belongs to writes it."""
    if path.startswith(SITE):
        return {"error": said if isinstance(said, str) else "; ".join(_line(one) for one in said), **more}
    return {"detail": said, "error": name, **more} if path.startswith(OWN) else {"detail": said}


def answer(path: str, error: BaseException) -> JSONResponse:
    """The response to an error."""
    status, (name, said) = status_of(error), said_of(error)
    more = error.more if isinstance(error, Problem) else {}
    if path.startswith(SITE) and status == 429:
        said_there = {"endpoint": path, "limitPerWindow": 0, "requestWindow": "at once", "remainingRequests": 0}
        more = said_there | more
    elif "limitPerWindow" in more:
        more = {}
    headers = dict(getattr(error, "headers", None) or {})
    return JSONResponse(body_of(path, name, said, **more), status, headers)


def refused_fields(path: str, errors: Sequence[Mapping[str, Any]]) -> JSONResponse:
    """The response to a body of wrong fields: where and what, never what was sent, which may be a text."""
    found = [{"loc": list(one["loc"]), "msg": _inert(one["msg"]), "type": one["type"]} for one in errors[:20]]
    return JSONResponse(body_of(path, "ValidationError", found), 400 if path.startswith(SITE) else 422)


def logged(error: BaseException) -> None:
    """A bug put into the log: where, never what of the request stood in its message."""
    frames = traceback.extract_tb(error.__traceback__)[-DEEPEST:]
    where = " < ".join(f"{frame.filename}:{frame.lineno} {frame.name}" for frame in reversed(frames))
    log.error("error %s at %s", type(error).__name__, where)


def _line(one: Mapping[str, Any]) -> str:
    where = ".".join(str(part) for part in one["loc"] if part != "body")
    return f"{where}: {one['msg']}" if where else str(one["msg"])


def _inert(text: str) -> str:
    """A message that any encoding takes."""
    return text.encode("utf-8", "replace").decode()
