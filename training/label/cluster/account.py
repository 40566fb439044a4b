"""One account of what a run's actors pay for: the cache is where the command runs, and caps are of all.

An `Account` is an actor beside the driver, on its machine. It holds the cache of answers (`training.label.cache`) and
the budget (`training.label.budget`), and actors ask it before and after each call as threads here ask theirs. So an
answer is on the driver's disk before its row counts, whoever dies then; caps hold for all actors together; and a node
has nothing that another run would need. A call takes a second, asking a millisecond.

What is asked for travels with names only: a key is in the environment of the node that calls, and nowhere else.
"""

from __future__ import annotations

import re
import socket
import time
from pathlib import Path
from typing import Any

from nla_sdk.jobs.cluster.actors import Answer, answered

from ..budget import Budget
from ..cache import Cache
from ..faults import LabelError
from ..parallel import Stopped
from ..providers.protocol import Completion

POLL = 0.2
"""Seconds between two questions whether calls in flight have left something of a cap."""
ALIKE = 60.0
"""Seconds in which lines that differ in figures only are said once: every actor meets with the same quota."""


class Account:
    """What an actor asks; every method answers with a value or a refusal.

    Args:
        cache: the file.
        budget: caps, and what was spent before: `Budget.facts`.
        host: the driver's machine.
    """

    cache: Cache

    def __init__(self, cache: Path, budget: dict[str, Any], host: str) -> None:
        self._file, self._host = cache, host
        self.budget = Budget.of(budget)
        self._stopped = False
        self._owners: dict[int, tuple[str, Any]] = {}
        self._asked_after: dict[str, Any] = {}
        self._lines: list[str] = []
        self._said: dict[str, float] = {}

    def open(self) -> Answer:
        """Open the cache."""

        def opened() -> None:
            if (here := socket.gethostname()) != self._host:
                raise LabelError(
                    f"The label cache would be kept on {here}, not here on {self._host}: run the command on a node of "
                    "the cluster (a Ray client, ray://, is none)."
                )
            self.cache = Cache(self._file)

        return answered(opened)

    def get(self, key: str) -> Answer:
        """See `Cache.get`."""
        return answered(lambda: self.cache.get(key))

    def accept(self, *given: Any) -> Answer:
        """See `Cache.accept`."""
        return answered(lambda: self.cache.accept(*given))

    def accepted(self, *given: Any) -> Answer:
        """See `Cache.accepted`."""
        return answered(lambda: self.cache.accepted(*given))

    def forget(self, run: str) -> Answer:
        """See `Cache.forget`."""
        return answered(lambda: self.cache.forget(run))

    def begin(self, name: str, actor: Any, dearest: float) -> Answer:
        """A call of this actor begins: its number; 0 where none is to begin any more; None: ask again.

        Raises:
            LabelError: a cap is reached.
        """

        def begun() -> int | None:
            if self._stopped:
                return 0
            number = self.budget.begun(dearest)
            if number is None:
                self._settle()
            else:
                self._owners[number] = name, actor
            return number

        return answered(begun)

    def end(self, number: int, cost: float, failed: bool) -> Answer:
        """It has ended."""
        self._owners.pop(number, None)
        return answered(lambda: self.budget.end(number, cost, failed=failed))

    def tell(self, line: str) -> Answer:
        """A line for whoever runs the command."""
        alike, now = re.sub(r"\d+", "#", line), time.monotonic()
        if now - self._said.get(alike, -ALIKE) >= ALIKE:
            self._lines.append(line)
        self._said[alike] = now
        return answered(lambda: None)

    def told(self) -> Answer:
        """(lines since it was asked last, what was spent)."""
        lines, self._lines = self._lines, []
        return answered(lambda: (lines, self.budget.facts()))

    def in_flight(self) -> Answer:
        """How many calls have begun and not ended."""
        return answered(lambda: len(self._owners))

    def stop(self) -> Answer:
        """No call is to begin any more."""
        self._stopped = True
        return answered(lambda: None)

    def close(self) -> Answer:
        """What was spent; calls that have not ended count with their dearest outcome."""

        def closed() -> dict[str, Any]:
            for number in list(self._owners):
                self._lost(number)
            self.cache.close()
            return self.budget.facts()

        return answered(closed)

    def _settle(self) -> None:
        """Find the calls of actors that have died, which will not end and may have been billed."""
        import ray
        from ray.exceptions import ActorUnavailableError, RayError

        for number, (name, actor) in list(self._owners.items()):
            question = self._asked_after.get(name) or actor.__ray_ready__.remote()
            self._asked_after[name] = question
            if not ray.wait([question], timeout=0)[0]:
                continue  # at work: it answers when it is done
            try:
                ray.get(question)
                self._asked_after.pop(name)
            except ActorUnavailableError:  # out of reach for now, and its call may end: it is asked again
                self._asked_after.pop(name)
            except RayError:
                self._lost(number)

    def _lost(self, number: int) -> None:
        self._owners.pop(number, None)
        self.budget.end(number, self.budget.set_aside(number), failed=True)


class Asking:
    """The account by its name, from an actor or from the driver."""

    def __init__(self, name: str) -> None:
        self.name, self._account = name, None

    def __call__(self, what: str, *given: Any) -> Any:
        """Ask.

        Raises:
            LabelError: it refuses, or is there no longer.
        """
        import ray
        from ray.exceptions import RayError

        try:
            self._account = self._account or ray.get_actor(self.name)
            answer: Answer = ray.get(getattr(self._account, what).remote(*given))
        except (RayError, ValueError) as error:  # ValueError: there is none of that name
            raise LabelError("The account of what is paid for is gone, so no further call is made.") from error
        if answer.refusal is not None:
            raise answer.refusal
        return answer.value


class FarCache(Cache):
    """The account's cache."""

    def __init__(self, ask: Asking) -> None:
        self._ask = ask

    def get(self, key: str) -> Completion | None:
        return self._ask("get", key)

    def accept(self, key: str, completion: Completion, run: str, row_id: str, step: str, provider: int) -> None:
        self._ask("accept", key, completion, run, row_id, step, provider)

    def accepted(self, run: str, row_id: str, step: str) -> tuple[int, Completion] | None:
        return self._ask("accepted", run, row_id, step)

    def forget(self, run: str) -> None:
        self._ask("forget", run)


class FarBudget(Budget):
    """The account's budget."""

    def __init__(self, ask: Asking) -> None:
        super().__init__()
        self._ask = ask

    def begin(self, dearest: float) -> int:
        import ray

        context = ray.get_runtime_context()
        while (number := self._ask("begin", context.get_actor_id(), context.current_actor, dearest)) is None:
            time.sleep(POLL)
        if not number:
            raise Stopped
        return number

    def end(self, number: int, cost: float, *, failed: bool = False) -> None:
        self._ask("end", number, cost, failed)
