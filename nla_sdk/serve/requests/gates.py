"""Turns: so many requests at work, so many waiting, the next one told at once to come back; and how they end."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Literal, TypeVar

from starlette.requests import Request

from ...errors import CancelledCallError, NLAError
from ..guard.faults import Problem
from ..observing import Meters
from ..settings import Settings
from .threads import in_new_thread

Result = TypeVar("Result")
Why = Literal["", "client", "timeout", "stop"]
POLL = 0.2  # seconds between two looks at whether the client is still there
THREADS = 4  # of each request that works: rows of a stream go by themselves
LAST = 5.0  # seconds that cancelled calls have to leave


class Ticket:
    """A request's turn.

    Attributes:
        cancel: set once nobody wants its rows any more; the pair's methods look at it.
        stopped: the same for those who wait.
        why: it was stopped: the client went away, it took too long, the server stops.
    """

    def __init__(self, deadline: float) -> None:
        self.cancel, self.stopped = threading.Event(), asyncio.Event()
        self.why: Why = ""
        self.deadline = deadline
        self.calls, self.left = 0, False
        self.watch: asyncio.Task[None] | None = None

    def check(self) -> None:
        """Go no further where nobody waits any more.

        Raises:
            CancelledCallError: that is so.
        """
        if self.cancel.is_set():
            raise CancelledCallError("Nobody waits for it any more.")

    def stop(self, why: Why) -> None:
        """Have its calls end."""
        self.why = self.why or why
        self.cancel.set()
        self.stopped.set()


class Gate:
    """Turns for requests, and the threads in which they call the pair."""

    def __init__(
        self, settings: Settings, meters: Meters, told: Callable[[NLAError], NLAError] = lambda error: error
    ) -> None:
        """
        Args:
            told: an error of the pair as it is told to whoever asks.
        """
        self.settings, self.meters, self.told = settings, meters, told
        self.running: set[Ticket] = set()
        self.waiting: deque[tuple[asyncio.Future[None], Ticket]] = deque()
        self.stopping = False
        self._threads = asyncio.Semaphore(THREADS * settings.concurrent)
        self._seconds = 1.0  # that a request takes, of late

    async def enter(self, request: Request) -> Ticket:
        """A turn, at once or after others; `leave` gives it back.

        Raises:
            Problem: 429: too many wait already; 503: the server stops, or the time was up before it was its turn.
        """
        loop = asyncio.get_running_loop()
        ticket = Ticket(loop.time() + self.settings.timeout)
        if self.stopping:
            raise _problem("stop")
        if len(self.running) >= self.settings.concurrent or self.waiting:
            await self._turn(request, ticket)
        self.running.add(ticket)  # where it waited, it is there already
        self.meters.running.set(len(self.running))
        ticket.watch = asyncio.ensure_future(self._watch(request, ticket))
        return ticket

    async def _turn(self, request: Request, ticket: Ticket) -> None:
        loop = asyncio.get_running_loop()
        if len(self.waiting) >= self.settings.queue:
            wait = min(60, max(1, round(self._seconds * (1 + len(self.waiting) / self.settings.concurrent))))
            raise Problem(
                429,
                f"{len(self.running)} requests are at work and {len(self.waiting)} wait; come back in {wait} s.",
                "BusyError",
                {"Retry-After": str(wait)},
                limitPerWindow=self.settings.concurrent + self.settings.queue,
            )
        turn: asyncio.Future[None] = loop.create_future()
        self.waiting.append((turn, ticket))
        self.meters.waiting.set(len(self.waiting))
        try:
            while not turn.done():
                await asyncio.wait({turn}, timeout=POLL)
                if turn.done():
                    break
                if await request.is_disconnected():
                    raise self.ended("client")
                if loop.time() > ticket.deadline:
                    raise self.ended("timeout", 503)
            if self.stopping:
                raise _problem("stop")
        except BaseException:
            self.running.discard(ticket)  # it may have become its turn just now
            self._next()
            raise
        finally:
            self.waiting = deque(one for one in self.waiting if one[1] is not ticket)
            self.meters.waiting.set(len(self.waiting))

    def leave(self, ticket: Ticket) -> None:
        """The turn is over, once its calls are; those that still work are called off: nobody waits for them."""
        ticket.left = True
        ticket.cancel.set()
        if ticket.watch is not None:
            ticket.watch.cancel()
        self._let_go(ticket)

    def _let_go(self, ticket: Ticket) -> None:
        if ticket.left and ticket.calls == 0 and ticket in self.running:
            self.running.discard(ticket)
            self.meters.running.set(len(self.running))
            taken = asyncio.get_running_loop().time() - (ticket.deadline - self.settings.timeout)
            self._seconds += 0.2 * (taken - self._seconds)
            self._next()

    def _next(self) -> None:
        while self.waiting and (len(self.running) < self.settings.concurrent or self.stopping):
            turn, ticket = self.waiting.popleft()
            if not turn.done():
                if not self.stopping:
                    self.running.add(ticket)  # now, or who comes next would find the place free
                turn.set_result(None)

    async def _watch(self, request: Request, ticket: Ticket) -> None:
        loop = asyncio.get_running_loop()
        while not ticket.why:
            await asyncio.sleep(min(POLL, max(0.0, ticket.deadline - loop.time())))
            if await request.is_disconnected():
                ticket.stop("client")
            elif loop.time() >= ticket.deadline:
                ticket.stop("timeout")

    async def run(self, ticket: Ticket, function: Callable[[], Result], rows: int = 0) -> Result:
        """What a function gives, in a thread.

        Args:
            function: ends soon once `ticket.cancel` is set, with CancelledCallError; where it does not, nobody waits
                for it, and its turn is over when it ends.
            rows: that it works at, for the gauge.
        Raises:
            Problem: the ticket was stopped. What the function raises.
        """

        def begun() -> Result:
            ticket.check()
            return function()

        ticket.calls += 1
        self.meters.rows_running.inc(rows)
        call = asyncio.ensure_future(self._in_thread(begun))
        call.add_done_callback(partial(self._returned, ticket, rows))
        stopped = asyncio.ensure_future(ticket.stopped.wait())
        try:
            await asyncio.wait({call, stopped}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopped.cancel()
        if not call.done():
            raise self.ended(ticket.why)
        try:
            return call.result()
        except CancelledCallError:
            raise self.ended(ticket.why or "stop") from None
        except NLAError as error:
            raise self.told(error) from None

    async def _in_thread(self, function: Callable[[], Result]) -> Result:
        async with self._threads:
            return await asyncio.wrap_future(in_new_thread(function, "nla-request"))

    async def apart(self, function: Callable[[], Result]) -> Result:
        """What a quick function gives, in a thread of its own, without a turn: it does not ask the pair's models."""
        return await asyncio.get_running_loop().run_in_executor(None, function)

    def _returned(self, ticket: Ticket, rows: int, call: asyncio.Future) -> None:
        if not call.cancelled():
            call.exception()  # or it would be said never to have been looked at
        ticket.calls -= 1
        self.meters.rows_running.dec(rows)
        self._let_go(ticket)

    def ended(self, why: Why, status: int = 504) -> Problem:
        """What is said of a request that was stopped."""
        return _problem(why, status, self.settings.timeout)

    async def drain(self, grace: float) -> None:
        """Take no more; let those at work finish, and stop those that have not after so many seconds."""
        loop = asyncio.get_running_loop()
        self.stopping = True
        self._next()
        for until, last in ((loop.time() + grace, False), (loop.time() + grace + LAST, True)):
            if last:
                for ticket in self.running:
                    ticket.stop("stop")
            while self.running and loop.time() < until:
                await asyncio.sleep(0.02)


def _problem(why: Why, status: int = 504, seconds: float = 0.0) -> Problem:
    if why == "client":
        return Problem(499, "The client went away.", "ClientGone")
    if why == "timeout":
        when = "before it was its turn" if status == 503 else "and its rows were freed"
        return Problem(status, f"It took longer than {seconds:g} s, {when}; ask for less at once.", "TimeoutError")
    return Problem(503, "The server is stopping; ask again when it is back.", "StoppingError", {"Retry-After": "30"})
