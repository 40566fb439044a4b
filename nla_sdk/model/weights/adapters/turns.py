"""A lock whose turns come in the order in which they were asked for; and a long use that gives way to those who wait.

`threading.RLock` gives itself to whoever comes next: who lets it go between two steps and asks again mostly gets it
again, and another thread may wait for ever.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

LOOKING = 0.1  # seconds between two looks at what may call a wait off


class Turns:
    """A lock that its holder may take several times over. To be used in `with`, or by its methods."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._holder: int | None = None
        self._depth = 0
        self._waiting: deque[tuple[int, threading.Event]] = deque()

    @property
    def mine(self) -> bool:
        """Whether this thread holds it."""
        return self._holder == threading.get_ident()

    @property
    def depth(self) -> int:
        """How many times over its holder has taken it."""
        return self._depth

    @property
    def wanted(self) -> bool:
        """Whether somebody waits for it."""
        return bool(self._waiting)

    def acquire(self, check: Callable[[], None] | None = None) -> None:
        """Take it, after all who asked before.

        Args:
            check: called now and then while it is waited for; what it raises ends the wait.
        """
        me, turn = threading.get_ident(), threading.Event()
        try:
            with self._guard:
                if self._holder in (None, me):
                    self._holder, self._depth = me, self._depth + 1
                    return
                self._waiting.append((me, turn))
            while not turn.wait(None if check is None else LOOKING):
                assert check is not None
                check()
        except BaseException:
            with self._guard:
                if turn.is_set():
                    self._pass_on()
                elif (me, turn) in self._waiting:
                    self._waiting.remove((me, turn))
            raise

    def release(self) -> None:
        """Let it go, as often as it was taken: whoever has waited longest has it then."""
        with self._guard:
            assert self._holder == threading.get_ident(), "released by a thread that does not hold it"
            self._depth -= 1
            if not self._depth:
                self._pass_on()

    def _pass_on(self) -> None:
        self._holder, self._depth = None, 0
        if self._waiting:
            self._holder, turn = self._waiting.popleft()
            self._depth = 1
            turn.set()

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


class Pace:
    """When a use of many steps gives way: at once where somebody waits, then not before it has had as much time again.

    Args:
        give_way: lets those who wait have their turn, and comes back.
        wanted: whether somebody waits.
    """

    STEPS = 8  # at most between two turns of others: a wait is then bounded, whatever a step costs
    SECONDS = 0.25  # at most, of one's own after a long turn of others

    def __init__(self, give_way: Callable[[], None], wanted: Callable[[], bool]) -> None:
        self.give_way, self.wanted = give_way, wanted
        self._owed = self._since = 0.0
        self._steps = 0

    def step(self) -> None:
        """A step is done."""
        self._steps += 1
        if not self.wanted():
            return
        start = time.perf_counter()
        if self._steps < self.STEPS and start - self._since < self._owed:
            return
        self._steps = 0
        self.give_way()
        self._since = time.perf_counter()
        self._owed = min(self._since - start, self.SECONDS)
