"""Rows of one request through the pair's methods: what is written so far, what is done, what failed."""

from __future__ import annotations

import asyncio
import re
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from ...errors import MissingHalfError, NLAError, NonFiniteOutputError
from .gates import Gate, Ticket

GROUPS = 16  # that a stream's rows are split into: what is done comes when its group is done
TOGETHER = 8  # rows of a group at most, where there are several
IN_FLIGHT = 48  # rows of one request that are written at a time: the AV's batch has 64 places, and others want some
PAUSE = 0.03  # seconds between two looks at texts that grow: a reader sees no more
QUIET = 15.0  # seconds without a frame after which a stream says that it lives

OnText: TypeAlias = Callable[[int, str], None]
Call: TypeAlias = Callable[[list[int], "OnText | None"], Sequence[Any]]
"""Rows' numbers, and what is told of a text that grows → a result of each row. It runs in a thread."""


@dataclass(frozen=True)
class Grown:
    """A row's text so far; `number` counts the row's texts, where several are written of it."""

    row: int
    number: int
    text: str


@dataclass(frozen=True)
class Done:
    """A row's result."""

    row: int
    result: Any


@dataclass(frozen=True)
class Failed:
    """A row that ended with an error."""

    row: int
    error: NLAError


class Alive:
    """Nothing has come for a while."""


Event: TypeAlias = Grown | Done | Failed | Alive


class _Board:
    """The newest text of each row, put there by any thread. A reader who is slow misses what was newer meanwhile."""

    def __init__(self) -> None:
        self._loop, self.news = asyncio.get_running_loop(), asyncio.Event()
        self._lock, self._texts, self._told = threading.Lock(), dict[tuple[int, int], str](), False

    def put(self, row: int, number: int, text: str) -> None:
        with self._lock:
            self._texts[row, number] = text
            told, self._told = self._told, True
        if not told:
            self._loop.call_soon_threadsafe(self.news.set)

    def take(self) -> dict[tuple[int, int], str]:
        with self._lock:
            texts, self._texts, self._told = self._texts, {}, False
            self.news.clear()
        return texts


def numbered(error: NLAError, row: int) -> NLAError:
    """The error of a row that was alone in its call, where it was the first, with its number in the request."""
    if isinstance(error, NonFiniteOutputError):
        return error.numbered(lambda _: row)
    numbers = [re.sub(r"( set| in row) 0\b", rf"\1 {row}", str(one), count=1) for one in error.args]
    error.args = tuple(numbers)
    return error


async def through(
    gate: Gate, ticket: Ticket, count: int, call: Call, *, each: int = 1, stream: bool = False
) -> AsyncIterator[Event]:
    """Put rows through a call, one for all; those of a stream, and of many rows, in groups, so that what is done comes
    early and a request of hundreds leaves room for others.

    A call that fails is made again for each of its rows alone: those that can be done are.

    Args:
        each: texts that are written of a row.
        stream: tell texts as they grow.
    Raises:
        Problem: the ticket was stopped. NLAError: every row fails for want of a half. Others: a bug.
    """
    board = _Board()
    pending: dict[asyncio.Task[Sequence[Any]], list[int]] = {}
    size = max(1, min(TOGETHER, -(-count // GROUPS)) if stream or count > IN_FLIGHT else count)
    waiting = deque(list(range(first, min(first + size, count))) for first in range(0, count, size))

    def begin_some() -> None:
        while waiting and (not pending or sum(map(len, pending.values())) + len(waiting[0]) <= IN_FLIGHT):
            begin(waiting.popleft())

    def begin(rows: list[int]) -> None:
        def grown(number: int, text: str) -> None:
            board.put(rows[number // each], number % each, text)

        work = gate.run(ticket, lambda: call(rows, grown if stream else None), len(rows))
        pending[asyncio.ensure_future(work)] = rows

    begin_some()
    news = asyncio.ensure_future(board.news.wait())
    try:
        while pending:
            done, _ = await asyncio.wait({*pending, news}, timeout=QUIET, return_when=asyncio.FIRST_COMPLETED)
            if not done:
                yield Alive()
                continue
            if done == {news}:
                await asyncio.wait(pending, timeout=PAUSE, return_when=asyncio.FIRST_COMPLETED)
            ended = [task for task in pending if task.done()]  # whose last texts are on the board
            for (row, number), text in board.take().items():
                yield Grown(row, number, text)
            if news.done():
                news = asyncio.ensure_future(board.news.wait())
            for task in ended:
                rows = pending.pop(task)
                error = task.exception()
                if error is None:
                    for row, result in zip(rows, task.result(), strict=True):
                        yield Done(row, result)
                elif not isinstance(error, NLAError) or isinstance(error, MissingHalfError):
                    raise error
                elif len(rows) > 1:
                    waiting.extendleft([row] for row in reversed(rows))
                else:
                    yield Failed(rows[0], numbered(error, rows[0]))
            begin_some()
    finally:
        news.cancel()
        for task in pending:
            task.cancel()
