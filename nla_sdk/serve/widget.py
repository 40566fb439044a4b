"""The page in a notebook: `pair.show("text")`. Its requests are messages, answered by the app in this process."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from importlib import resources
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from ..errors import InputError, first_line
from ..web.background import start
from .remote.inprocess import asked

try:
    import anywidget
    import traitlets

    from .app import create_app
except ImportError as error:
    raise InputError(
        f'The page in a notebook needs what is not installed ({first_line(error)}): pip install "nla-sdk[notebook]"'
    ) from None
from .settings import Settings

if TYPE_CHECKING:
    from fastapi import FastAPI

    from ..pair import NLAPair

HEIGHT = 720
"""Pixels, where no other height is asked for."""
_apps: WeakValueDictionary[int, FastAPI] = WeakValueDictionary()
_lock = threading.Lock()


def app_of(pair: NLAPair) -> FastAPI:
    """The app of a pair: one for all its widgets, so that their rows share its batches and its limits."""
    with _lock:
        app = _apps.get(id(pair))
        if app is None or app.state.served.pair is not pair:
            half = pair.av or pair.ar
            app = create_app(pair, Settings(), "pair" if half is None else half.ref)
            _apps[id(pair)] = app
        return app


def _script() -> str:
    """The page's module, as the package has it."""
    return resources.files("nla_sdk.serve").joinpath("page", "widget.js").read_text(encoding="utf-8")


class Page(anywidget.AnyWidget):
    """The page, as a widget.

    Messages from the page: `{id, type: "request", method, path, headers, body}`, a body of bytes as the first buffer,
    and `{id, type: "cancel"}`. To it: `{id, type: "head", status, headers}`, `{id, type: "chunk", data}` …,
    `{id, type: "end"}`.
    """

    _esm = _script()
    text = traitlets.Unicode("").tag(sync=True)
    height = traitlets.Int(HEIGHT).tag(sync=True)

    def __init__(self, pair: NLAPair, text: str = "", height: int = HEIGHT) -> None:
        """
        Args:
            pair: that is shown.
            text: that the page begins with; it is not read before a token is chosen.
            height: pixels.
        """
        self._app = app_of(pair)
        self._running: dict[str, tuple[asyncio.Event, Future[None]]] = {}
        super().__init__(text=text, height=height)
        self.on_msg(self._heard)

    def close(self) -> None:
        """Take the page away; what it waits for is called off."""
        for name in list(self._running):
            self._cancel(name)
        super().close()

    # --- messages, in the kernel's thread ----------------------------------------------------------------------
    def _heard(self, _: Any, message: Any, buffers: Sequence[Any]) -> None:
        name = message.get("id") if isinstance(message, Mapping) else None
        if not isinstance(name, str):
            return  # nobody could be answered
        if message.get("type") == "cancel":
            self._cancel(name)
        elif message.get("type") == "request":
            body = message.get("body")
            given = bytes(buffers[0]) if buffers else b"" if body is None else str(body).encode("utf-8", "replace")
            gone = asyncio.Event()
            # Its answer may have ended before this line has.
            self._running[name] = gone, (work := start(self._answer(name, message, given, gone)))
            work.add_done_callback(lambda _: self._running.pop(name, None))

    def _cancel(self, name: str) -> None:
        if (running := self._running.get(name)) is not None:
            gone, _ = running
            start(_set(gone))

    # --- on the loop ------------------------------------------------------------------------------------------
    async def _answer(self, name: str, message: Mapping[str, Any], body: bytes, gone: asyncio.Event) -> None:
        headed = False

        def head(status: int, headers: dict[str, str]) -> None:
            nonlocal headed
            headed = True
            self.send({"id": name, "type": "head", "status": status, "headers": headers})

        def chunk(text: str) -> None:
            self.send({"id": name, "type": "chunk", "data": text})

        headers = message.get("headers")
        headers = {str(key): str(value) for key, value in headers.items()} if isinstance(headers, Mapping) else {}
        try:
            await asked(
                self._app, str(message.get("method")), str(message.get("path")), headers, body, gone, head, chunk
            )
        except Exception as error:
            if not headed:
                head(500, {"content-type": "application/json"})
                chunk(
                    f'{{"detail": "{type(error).__name__} in the kernel; its log says more.", "error": "ServerError"}}'
                )
        self.send({"id": name, "type": "end"})


async def _set(event: asyncio.Event) -> None:
    event.set()
