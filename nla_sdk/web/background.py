"""One event loop of this process in a thread of its own, for whoever talks to a server and has none running."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

Result = TypeVar("Result")

_lock = threading.Lock()
_running: tuple[int, asyncio.AbstractEventLoop] | None = None


def loop() -> asyncio.AbstractEventLoop:
    """The loop, begun when first asked for. A notebook has a loop of its own, which must not be blocked; a process that
    was forked has none of its parent's threads."""
    global _running
    with _lock:
        if _running is None or _running[0] != os.getpid():
            made = asyncio.new_event_loop()
            # A daemon: a client that nobody closed keeps no process from ending.
            threading.Thread(target=made.run_forever, name="nla-sdk loop", daemon=True).start()
            _running = os.getpid(), made
        return _running[1]


def start(work: Coroutine[Any, Any, Result]) -> Future[Result]:
    """Run a coroutine on the loop; what comes back can be waited for and cancelled from any thread."""
    return asyncio.run_coroutine_threadsafe(work, loop())
