"""Requests to an inference server: many at a time and no more, again after what may pass, answers as they come."""

from __future__ import annotations

import asyncio
import json
import os
import queue
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from ..errors import InputError, NLAError, first_line
from ..model.running.watching import UNWATCHED, Watch
from ..web.addresses import host_of, is_local
from ..web.background import start
from ..web.pauses import again_in

if TYPE_CHECKING:
    import httpx2

KEY = "NLA_ENGINE_API_KEY"
"""The variable that the server's key is taken from; it is no argument, which shells and notebooks would keep."""
AT_ONCE = 64
"""Requests under way at most: the server batches them, and what it cannot run yet waits there."""
ATTEMPTS, LOOKS = 8, 3
"""How often a text is asked for at most, about a minute and a half of pauses; and what a server says of itself."""
PAUSE, LONGEST = 0.5, 30.0
"""Seconds before the second attempt, doubled with each further one up to the longest, and as many more at random."""
PATIENCE = 120.0
"""Seconds that are waited at most where a server says when to come again."""
TIMEOUT = 600.0
"""Seconds without a byte after which a request is given up: a text comes whole, once it is written."""
_LOOK = 0.05  # seconds between two looks at whether the call was cancelled
_MAY_PASS = {408, 425, 429, 500, 502, 503, 504}
_SHOWN = 400


class EngineError(NLAError):
    """An inference server could not be reached, refuses, or answers with what is no answer.

    Attributes:
        status: of HTTP; None: there was no answer.
    """

    remedy = "Check the address, the flags it was started with (docs/howto/engines.md) and its log."

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class _Passing(Exception):
    """What may succeed later; and the seconds that the server asks for, if it does."""

    def __init__(self, error: EngineError, asked: float | None = None) -> None:
        super().__init__(str(error))
        self.error, self.asked = error, asked


@dataclass(frozen=True)
class Request:
    """What is sent.

    Attributes:
        body: JSON, made when its turn comes: a hundred prompts of embeddings are gigabytes.
        optional: whether a server may have no such path (404, 405): its answer is None then.
    """

    method: str
    path: str
    body: Callable[[], bytes] | None = None
    optional: bool = False


class Connection:
    """A server's address, with the key in `NLA_ENGINE_API_KEY`, which is shown nowhere. For several threads at once.

    Args:
        url: `http://127.0.0.1:8000`; a `/v1` at its end is dropped.
        timeout: see `TIMEOUT`.
        pause: see `PAUSE`.
    Raises:
        InputError: the address is none or holds a password, or no header can hold the key.
    """

    def __init__(self, url: str, *, timeout: float = TIMEOUT, pause: float = PAUSE) -> None:
        host = host_of(
            url,
            expected="an inference server is http://HOST:PORT or https://HOST",
            secret=f"its key is taken from the environment variable {KEY}",
        )
        self._key = os.environ.get(KEY, "").strip()
        if not (self._key.isascii() and (self._key or "~").isprintable()):
            raise InputError(f"{KEY} holds what no HTTP header does: a newline inside it, or what is not ASCII.")
        self.url = url.rstrip("/").removesuffix("/v1")
        self.timeout, self.pause = timeout, pause
        self._local = is_local(host)

    def __repr__(self) -> str:
        return f"Connection({self.url!r})"

    def ask(self, method: str, path: str, body: object = None, *, optional: bool = False) -> Any:
        """The JSON that one request is answered with; see `Request`, `exchange`."""
        content = None if body is None else json.dumps(body).encode()
        request = Request(method, path, None if content is None else lambda: content, optional)
        return next(self.exchange([request], attempts=LOOKS))[1]

    def exchange(
        self, requests: Sequence[Request], watch: Watch = UNWATCHED, *, attempts: int = ATTEMPTS
    ) -> Iterator[tuple[int, Any]]:
        """The answers as they come, each with its request's number. Whoever stops reading closes the connections,
        which tells the server to stop writing.

        Raises:
            EngineError: one could not be had, in so many attempts.
            CancelledCallError: `watch` has called it off.
        """
        came: queue.SimpleQueue[object] = queue.SimpleQueue()
        working = start(self._all(requests, came, attempts))
        try:
            for _ in requests:
                yield self._next(came, watch)
        finally:
            working.cancel()

    @staticmethod
    def _next(came: queue.SimpleQueue[object], watch: Watch) -> tuple[int, Any]:
        while True:
            watch.check()
            try:
                one = came.get(timeout=_LOOK)
            except queue.Empty:
                continue
            if isinstance(one, BaseException):
                raise one
            return cast("tuple[int, Any]", one)

    # --- on the loop --------------------------------------------------------------------------------------------------
    async def _all(self, requests: Sequence[Request], came: queue.SimpleQueue[object], attempts: int) -> None:
        import httpx2

        limits = httpx2.Limits(max_connections=AT_ONCE, max_keepalive_connections=AT_ONCE)
        gate = asyncio.Semaphore(AT_ONCE)
        tasks: list[asyncio.Task[None]] = []
        try:
            async with httpx2.AsyncClient(timeout=self.timeout, limits=limits, trust_env=not self._local) as client:

                async def one(at: int, request: Request) -> None:
                    async with gate:
                        came.put((at, await self._patiently(client, request, attempts)))

                tasks += [asyncio.ensure_future(one(at, request)) for at, request in enumerate(requests)]
                try:
                    await asyncio.gather(*tasks)
                finally:
                    for task in tasks:
                        task.cancel()
                    await asyncio.gather(*tasks, return_exceptions=True)
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            came.put(error if isinstance(error, NLAError) else EngineError(f"{self.url}: {first_line(error)}"))

    async def _patiently(self, client: httpx2.AsyncClient, request: Request, attempts: int) -> Any:
        try:
            from tenacity import (
                AsyncRetrying,
                retry_if_exception_type,
                stop_after_attempt,
                wait_exponential,
                wait_random,
            )
        except ImportError:
            raise InputError("An inference server takes a package more: pip install 'nla-sdk[engines]'.") from None

        growing = wait_exponential(multiplier=self.pause, max=LONGEST) + wait_random(0, self.pause)

        def wait(state: Any) -> float:
            asked = state.outcome.exception().asked
            return growing(state) if asked is None else asked

        retrying = AsyncRetrying(
            stop=stop_after_attempt(attempts), wait=wait, retry=retry_if_exception_type(_Passing), reraise=True
        )
        body = None if request.body is None else request.body()
        try:
            return await retrying(self._once, client, request, body)
        except _Passing as last:
            raise EngineError(f"{last.error} Tried {attempts} times.", last.error.status) from None

    async def _once(self, client: httpx2.AsyncClient, request: Request, body: bytes | None) -> Any:
        import httpx2

        where = f"{self.url}{request.path}"
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        if body is not None:
            headers["Content-Type"] = "application/json"
        try:
            response = await client.request(request.method, where, headers=headers, content=body)
        except httpx2.TimeoutException:
            raise _Passing(EngineError(f"{where}: nothing came for {self.timeout:g} seconds.")) from None
        except httpx2.TransportError as error:
            raise _Passing(EngineError(f"{where} cannot be reached: {first_line(error)}.")) from None
        status = response.status_code
        if request.optional and status in (404, 405):
            return None
        if status == 200:
            try:
                return json.loads(response.content)
            except ValueError:
                raise _Passing(EngineError(f"{where} answered with what is no JSON.", status)) from None
        said = self._hidden(_message(response.content))
        if status in (401, 403):
            has = "was not accepted" if self._key else "is not set"
            raise EngineError(f"{where} asks for a key (HTTP {status}), and {KEY} {has}.", status)
        error = EngineError(f"{where}: HTTP {status}{f': {said}' if said else ''}", status)
        if status in _MAY_PASS:
            raise _Passing(error, again_in(response.headers, PATIENCE))
        raise error

    def _hidden(self, text: str) -> str:
        return text.replace(self._key, "…") if self._key else text


def _message(body: bytes) -> str:
    """What an error's body says, in the forms of both servers; in one line that is not long."""
    try:
        said = json.loads(body)
    except ValueError:
        said = None
    inner = said.get("error", said) if isinstance(said, Mapping) else None
    if isinstance(inner, Mapping):
        inner = inner.get("message") or inner.get("detail")
    text = inner if isinstance(inner, str) else body.decode("utf-8", "replace")
    return re.sub(r"\s+", " ", text).strip()[:_SHOWN]
