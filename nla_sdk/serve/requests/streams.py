"""Server-sent events: lines `data: {json}` without names, at the end `data: [DONE]`."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncGenerator, Mapping
from typing import Any

from starlette.responses import JSONResponse, StreamingResponse
from starlette.types import Receive, Scope, Send

from ..guard.faults import OWN, logged, said_of, status_of
from .gates import Gate, Ticket

LAST = "data: [DONE]\n\n"
ALIVE = ": alive\n\n"
"""A comment, which readers pass over; proxies see that somebody is there."""
UNREAD = 5.0  # seconds that the last frames of a request whose time is up have to be read


def plain(value: Any) -> Any:
    """A value as JSON has it: arrays as lists, numbers that are none as null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str):
        return str(value)
    if isinstance(value, Mapping):
        return {key: plain(one) for key, one in value.items()}
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    return [plain(one) for one in value] if isinstance(value, (list, tuple)) else value


def written(value: Any) -> str:
    """The JSON of it."""
    return json.dumps(plain(value), ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def frame(value: Any) -> str:
    """One event."""
    return f"data: {written(value)}\n\n"


class Answer(JSONResponse):
    """JSON of whatever a pair's results hold."""

    def render(self, content: Any) -> bytes:
        return written(content).encode("utf-8", "replace")


class Frames(StreamingResponse):
    """A stream that gives its turn back however it ends; what ends it before its time is its last frame but one."""

    def __init__(
        self,
        frames: AsyncGenerator[Any, None],
        gate: Gate,
        ticket: Ticket,
        path: str,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """
        Args:
            frames: what is sent, as JSON has it; None: only that the server is alive.
            path: of the request, for the form of an error.
        """
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no", **(headers or {})}
        self._frames, self._gate, self._ticket, self._path = frames, gate, ticket, path
        self._whole = False
        super().__init__(self._lines(), 200, headers, "text/event-stream")

    async def _lines(self) -> AsyncGenerator[str, None]:
        try:
            async for one in self._frames:
                yield ALIVE if one is None else frame(one)
        except Exception as error:
            if status_of(error) == 500:
                logged(error)
            yield frame(error_of(self._path, error))
        self._whole = True
        yield LAST

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        seconds = self._ticket.deadline + UNREAD - asyncio.get_running_loop().time()
        try:
            await asyncio.wait_for(super().__call__(scope, receive, send), seconds)
        except asyncio.TimeoutError:  # a client that does not read: it keeps its connection, not its turn
            self._ticket.stop("timeout")
        finally:
            if not self._whole:
                self._ticket.stop("client")
            scope["nla.seen"]["why"] = self._ticket.why
            self._gate.leave(self._ticket)
            await self._frames.aclose()


def error_of(path: str, error: BaseException) -> dict[str, str]:
    """An error in a frame or a row: a sentence; under /v1 its class, and the sentence as `detail`."""
    name, said = said_of(error)
    return {"error": name, "detail": said} if path.startswith(OWN) else {"error": said}
