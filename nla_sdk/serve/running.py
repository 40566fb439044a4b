"""An app run: in this thread until it is told to stop, or in another one for tests, notebooks and benchmarks."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import uvicorn
from fastapi import FastAPI

from ..errors import InputError, NLAError
from .app import create_app
from .settings import Settings

if TYPE_CHECKING:
    from ..pair import NLAPair

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Server(uvicorn.Server):
    """uvicorn's server, that lets requests finish before it stops, and ends with exit code 0."""

    def __init__(self, app: FastAPI, settings: Settings) -> None:
        config = uvicorn.Config(
            app,
            access_log=False,
            log_level="warning",
            lifespan="off",
            ws="none",
            proxy_headers=False,  # anybody may write them
            server_header=False,
            date_header=False,
            timeout_graceful_shutdown=5,
            timeout_keep_alive=75,  # a reader's pause between two clicks; at 5 s clients met connections just closed
            h11_max_incomplete_event_size=64 << 10,
        )
        super().__init__(config)
        self.gate, self.grace = app.state.served.gate, settings.grace
        self._ending: asyncio.Task[None] | None = None

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        self.loop = asyncio.get_running_loop()
        await super().serve(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """uvicorn's own would stop at once, and then die of the signal."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        loop = asyncio.get_running_loop()
        for one in SIGNALS:
            loop.add_signal_handler(one, self.end)
        try:
            yield
        finally:
            for one in SIGNALS:
                loop.remove_signal_handler(one)

    def end(self) -> None:
        """Take no more requests, let those at work finish, and stop; called again: stop them now."""
        if self._ending is None:
            self._ending = asyncio.ensure_future(self._end(self.grace))
        else:
            self._ending.cancel()
            self._ending = asyncio.ensure_future(self._end(0.0))

    async def _end(self, grace: float) -> None:
        await self.gate.drain(grace)
        self.should_exit = True


def bound(host: str, port: int) -> socket.socket:
    """A socket that will listen; port 0: any that is free.

    Raises:
        InputError: there is no such host, or the port is taken.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        # Named TCP: asyncio turns Nagle's algorithm off for such sockets only, and it costs 40 ms a response.
        listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
    except OSError as error:
        raise InputError(f"{host}:{port} cannot be listened at: {error.strerror or error}.") from error
    return listening


def listen(at: socket.socket) -> None:
    """Have a socket listen: from then on connections wait to be answered.

    Raises:
        InputError: another process has listened there first, since it was bound.
    """
    try:
        at.listen(2048)
    except OSError as error:
        host, port = at.getsockname()[:2]
        raise InputError(f"{host}:{port} cannot be listened at: {error.strerror or error}.") from error


def address_of(listening: socket.socket) -> str:
    """The URL of a socket that listens."""
    host, port = listening.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    return f"http://{host}:{port}"


def run(app: FastAPI, settings: Settings, listening: socket.socket) -> None:
    """Serve until a signal says to stop."""
    Server(app, settings).run([listening])


@contextlib.contextmanager
def serving(pair: NLAPair, settings: Settings | None = None, *, name: str = "pair", **how: Any) -> Iterator[str]:
    """Serve a pair in a thread of this process, at a free port, for as long as the block lasts.

    Args:
        settings: or its fields one by one (`timeout=5`).
    Returns:
        Its URL.
    Example:
        >>> with serving(pair) as url:  # doctest: +SKIP
        ...     httpx.get(f"{url}/v1/pair").json()["layer"]
        12
    """
    settings = Settings(**how) if settings is None else settings
    listening = bound(settings.host, 0)
    server = Server(create_app(pair, settings, name), settings)
    failed: list[BaseException] = []
    thread = threading.Thread(target=_run, args=(server, listening, failed), name="nla-serve", daemon=True)
    thread.start()
    while not server.started and thread.is_alive():
        thread.join(0.005)
    if failed or not thread.is_alive():
        raise NLAError(f"The server did not start: {failed[0] if failed else 'its thread has ended'}.")
    try:
        yield address_of(listening)
    finally:
        server.should_exit = True
        thread.join()
        listening.close()


def _run(server: Server, listening: socket.socket, failed: list[BaseException]) -> None:
    try:
        server.run([listening])
    except BaseException as error:
        failed.append(error)
