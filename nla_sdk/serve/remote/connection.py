"""Requests to a server: sent once, again only where it says when; answers and streams; errors as classes of here."""

from __future__ import annotations

import asyncio
import json
import queue
from collections.abc import Iterator
from concurrent.futures import Future
from threading import Event
from typing import TYPE_CHECKING, Any, cast

from ...errors import CancelledCallError, InputError, NLAError, first_line
from ...web.addresses import host_of, is_local
from ...web.background import start
from ...web.pauses import again_in

if TYPE_CHECKING:
    import httpx2

SECRET = "X-SECRET-KEY"
TRIES = 5
"""How often a request is sent that is told to come again later."""
PATIENCE = 30.0
"""Seconds that are waited at most where a server says when to come again; longer is an error."""
LOOK = 0.05  # seconds between two looks at whether a call was cancelled
_END = object()


class ServerError(NLAError):
    """A served pair could not be reached, or answered with what is no answer.

    Attributes:
        status: of HTTP; None: there was no answer.
    """

    remedy = "Check the address and the secret, and whether the server runs (GET /healthz); its log says more."

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class Connection:
    """A server's address with the secret that it asks for, which is shown nowhere. For several threads at once."""

    def __init__(self, url: str, secret: str | None = None, timeout: float = 300.0) -> None:
        """
        Args:
            url: `http://127.0.0.1:5009`, or with a path where a proxy puts the server under one.
            timeout: seconds without a byte from the server after which it is given up.
        Raises:
            InputError: the address is none, or holds a password.
        """
        host = host_of(
            url,
            expected="a server is http://HOST:PORT or https://HOST, as `nla serve` prints it",
            secret="a secret is passed by secret=",
        )
        if secret is not None and (not secret or secret != secret.strip() or not (secret + "~").isprintable()):
            raise InputError(
                "The secret is empty, or holds what no HTTP header does (white space around it, a newline)."
            )
        if secret is not None and not secret.isascii():
            raise InputError("The secret holds characters that are not ASCII, which no HTTP header does.")
        self.url = url.rstrip("/")
        self.timeout = timeout
        self._local = is_local(host)
        self._secret = secret
        self._client: httpx2.AsyncClient | None = None

    def __repr__(self) -> str:
        return f"Connection({self.url!r})"

    # --- from any thread ----------------------------------------------------------------------------------------------
    def call(self, method: str, path: str, body: object = None, *, cancel: Event | None = None) -> Any:
        """The JSON that a request is answered with.

        Raises:
            NLAError: the class that the server names; ServerError: it names none that is known here.
            CancelledCallError: `cancel` was set; the connection is closed, which tells the server.
        """
        found = list(self._exchange(method, path, body, cancel, stream=False))
        return found[0] if found else None

    def stream(self, path: str, body: object, *, cancel: Event | None = None) -> Iterator[dict[str, Any]]:
        """The frames of a stream, without its last; whoever stops reading closes the connection.

        Raises:
            as `call`; ServerError: it ended before its end.
        """
        return self._exchange("POST", path, body, cancel, stream=True)

    def close(self) -> None:
        """Close what is open; a later call opens it again."""
        client, self._client = self._client, None
        if client is not None:
            start(client.aclose()).result(5)

    def _exchange(self, method: str, path: str, body: object, cancel: Event | None, *, stream: bool) -> Iterator[Any]:
        came: queue.SimpleQueue[object] = queue.SimpleQueue()
        working: Future[None] = start(self._talk(method, path, body, came, stream=stream))
        try:
            while True:
                if cancel is not None and cancel.is_set():
                    raise CancelledCallError("The call was cancelled; the connection is closed.")
                try:
                    one = came.get(timeout=None if cancel is None else LOOK)
                except queue.Empty:
                    continue
                if one is _END:
                    return
                if isinstance(one, BaseException):
                    raise one
                yield one
        finally:
            working.cancel()

    # --- on the loop --------------------------------------------------------------------------------------------------
    async def _talk(
        self, method: str, path: str, body: object, came: queue.SimpleQueue[object], *, stream: bool
    ) -> None:
        import httpx2

        try:
            for left in reversed(range(TRIES)):
                wait = await self._once(method, path, body, came, stream=stream, again=bool(left))
                if wait is None:
                    break
                await asyncio.sleep(wait)
            came.put(_END)
        except httpx2.TimeoutException:
            came.put(ServerError(f"{self.url}{path}: nothing came for {self.timeout:g} seconds; timeout= is longer."))
        except httpx2.HTTPError as error:
            came.put(ServerError(f"{self.url}{path} cannot be reached: {first_line(error)}."))
        except NLAError as error:
            came.put(error)
        except Exception as error:
            came.put(ServerError(f"{self.url}{path}: {type(error).__name__}: {first_line(error)}"))

    async def _once(
        self, method: str, path: str, body: object, came: queue.SimpleQueue[object], *, stream: bool, again: bool
    ) -> float | None:
        """Send it; seconds after which it is to be sent again, or None: it is answered."""
        import httpx2

        if self._client is None:
            self._client = httpx2.AsyncClient(timeout=self.timeout, trust_env=not self._local)
        headers = {} if self._secret is None else {SECRET: self._secret}
        sent: dict[str, Any] = {} if body is None else {"content": json.dumps(body, allow_nan=False).encode()}
        headers |= {"Content-Type": "application/json"} if sent else {}
        async with self._client.stream(method, self.url + path, headers=headers, **sent) as response:
            wait = again_in(response.headers, PATIENCE) if response.status_code == 429 and again else None
            if wait is not None:
                return wait
            if response.status_code != 200:
                raise error_of(response.status_code, await response.aread(), f"{self.url}{path}")
            if not stream:
                came.put(_parsed(await response.aread(), f"{self.url}{path}"))
                return None
            async for event in httpx2.EventSource(response, max_event_size=None):
                if event.data == "[DONE]":
                    return None
                came.put(_parsed(event.data.encode(), f"{self.url}{path}"))
            raise ServerError(f"{self.url}{path}: the stream ended before its end ([DONE]); what came is not all.", 200)


def _parsed(body: bytes, where: str) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        raise ServerError(f"{where} answered with what is no JSON; is it the address of `nla serve`?", 200) from None


def error_of(status: int, body: bytes, where: str) -> NLAError:
    """The error that an answer stands for: of the class that it names, where that is one of this package."""
    try:
        said = json.loads(body)
    except ValueError:
        said = None
    told = cast("dict[str, Any]", said) if isinstance(said, dict) else {}
    detail = told.get("detail")
    if isinstance(detail, list):  # which fields of a body were refused
        fields = [one for one in detail if isinstance(one, dict)]
        detail = "; ".join(f"{'.'.join(map(str, one.get('loc', ())[1:]))}: {one.get('msg')}" for one in fields)
    hint = {401: "It asks for a secret: secret=.", 403: "The secret is not its, or this is switched off."}.get(
        status, ""
    )
    message = str(detail) if detail else f"HTTP status {status}."
    return named(told.get("error"), message) or ServerError(f"{where}: {message} {hint}".rstrip(), status)


def named(name: object, message: str) -> NLAError | None:
    """An error of a class of this package by its name; None: there is none of this name."""
    from ...evaluation import reading  # noqa: F401 (errors of rooms that alone raise them are known once imported)
    from ...vectors import faults, ranged  # noqa: F401

    kinds, found = [NLAError], {}
    while kinds:
        kind = kinds.pop()
        found[kind.__name__] = kind
        kinds += [one for one in kind.__subclasses__() if one.__module__.startswith("nla_sdk.")]
    kind = found.get(name) if isinstance(name, str) else None
    return None if kind is None or kind is ServerError else kind(message)
