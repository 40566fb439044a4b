"""A function in a thread that ends with it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

Result = TypeVar("Result")


def in_new_thread(function: Callable[[], Result], name: str, *, daemon: bool = False) -> Future[Result]:
    """Call a function in a thread of its own, which is gone as soon as what it gave has been looked at.

    A pool's threads stay, and each that has once multiplied matrices keeps OpenMP's workers. As soon as there are more
    of those than cores, libgomp has all of them wait asleep instead of awake: a text takes 1.35 times as long.

    Returns:
        What will hold its result, or what it raised.
    Example:
        >>> in_new_thread(lambda: 6 * 7, "sums").result()
        42
    """
    done: Future[Result] = Future()

    def work() -> None:
        if not done.set_running_or_notify_cancel():
            return
        try:
            result = function()
        except BaseException as error:
            done.set_exception(error)
        else:
            done.set_result(result)

    threading.Thread(target=work, name=name, daemon=daemon).start()
    return done
