"""A request to an app of this process, without a socket: what goes in and comes out are ASGI's messages."""

from __future__ import annotations

import asyncio
import codecs
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any
from urllib.parse import unquote, urlsplit

App = Callable[..., Awaitable[None]]
PATIENCE = 1.0
"""Seconds that an app gets to notice that nobody listens any more, before its work is ended."""


async def asked(
    app: App,
    method: str,
    target: str,
    headers: Mapping[str, str],
    body: bytes,
    gone: asyncio.Event,
    head: Callable[[int, dict[str, str]], None],
    chunk: Callable[[str], None],
) -> None:
    """Put a request to an app; returns when its answer has ended, or `gone` was set.

    Args:
        target: path, and query where there is one.
        gone: set once nobody wants the answer: the app is told that its client has gone away.
        head: called once with status and headers (lower case); chunk: with text as it comes, characters whole.
    """
    parts = urlsplit(target)
    named = {"host": "localhost", **{name.lower(): value for name, value in headers.items()}}
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": unquote(parts.path),
        "raw_path": parts.path.encode(),
        "query_string": parts.query.encode(),
        "root_path": "",
        "headers": [(name.encode("latin-1"), value.encode("latin-1")) for name, value in named.items()],
        "client": ("127.0.0.1", 0),
        "server": ("localhost", 80),
    }
    scope["headers"].append((b"content-length", str(len(body)).encode()))
    letters = codecs.getincrementaldecoder("utf-8")("replace")
    given = ended = False

    async def receive() -> dict[str, Any]:
        nonlocal given
        if given:
            await gone.wait()
            return {"type": "http.disconnect"}
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: MutableMapping[str, Any]) -> None:
        nonlocal ended
        if gone.is_set():
            return
        if message["type"] == "http.response.start":
            told = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in message["headers"]}
            head(message["status"], told)
        elif message["type"] == "http.response.body":
            more = bool(message.get("more_body"))
            if text := letters.decode(message.get("body", b""), final=not more):
                chunk(text)
            if not more:
                ended = True
                gone.set()  # the app sees its client go, as one that has its answer does

    work = asyncio.ensure_future(app(scope, receive, send))
    leaving = asyncio.ensure_future(gone.wait())
    try:
        await asyncio.wait({work, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            await asyncio.wait({work}, timeout=PATIENCE)
    finally:
        leaving.cancel()
        work.cancel()
    if work.done() and not work.cancelled() and (error := work.exception()) is not None and not ended:
        raise error
