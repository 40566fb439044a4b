"""Doing the rows of a chunk with a bounded number of threads, so that the process can always end."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

GRACE = 5.0
"""Seconds that calls in flight get to end in after Ctrl-C: they are paid for."""


class Stopped(Exception):
    """Another row stopped the stage; this one is left undone."""


def in_parallel(
    work: Callable[[Any], Any], items: Sequence[Any], threads: int, stop: threading.Event
) -> Iterator[tuple[int, Any]]:
    """`(index, work(item))` for every item, as they get done.

    The first error sets `stop`, lets the calls in flight end, and is raised. The threads are daemons: unlike those of
    an executor, one that hangs doesn't keep the process from ending. With `threads=1` there are none.
    """
    if threads == 1:
        try:
            yield from enumerate(map(work, items))
        except BaseException:
            stop.set()
            raise
        return
    waiting: queue.SimpleQueue = queue.SimpleQueue()
    results: queue.SimpleQueue = queue.SimpleQueue()
    for pair in enumerate(items):
        waiting.put(pair)

    def serve() -> None:
        while not stop.is_set():
            try:
                index, item = waiting.get_nowait()
            except queue.Empty:
                return
            try:
                results.put((index, work(item), None))
            except Stopped:
                return
            except BaseException as error:
                stop.set()
                results.put((index, None, error))
                return

    pool = [threading.Thread(target=serve, daemon=True) for _ in range(min(threads, len(items)))]
    for thread in pool:
        thread.start()
    try:
        for _ in items:
            index, result, error = _next(results, pool)
            if error is not None:
                for thread in pool:
                    thread.join()
                raise error
            yield index, result
    except BaseException:
        stop.set()
        deadline = time.monotonic() + GRACE
        for thread in pool:
            thread.join(max(0.0, deadline - time.monotonic()))
        raise


def _next(results: queue.SimpleQueue, pool: list[threading.Thread]) -> tuple[int, Any, BaseException | None]:
    while True:
        try:
            return results.get(timeout=0.5)  # a get without one cannot be interrupted on Windows
        except queue.Empty:
            if not any(thread.is_alive() for thread in pool) and results.empty():
                raise Stopped from None
