"""A pair with what serving it takes: the value that every route is handed."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from starlette.requests import Request

from ..evaluation.schema import Evaluation
from .about import evaluation_beside
from .guard.faults import Problem
from .observing import Meters
from .requests.gates import Gate, Ticket
from .requests.keeping import Site
from .settings import Limits, Settings

if TYPE_CHECKING:
    from ..pair import NLAPair

Result = TypeVar("Result")


@dataclass(eq=False)
class Served:
    """A served pair.

    Attributes:
        name: what it was called.
        began: when.
    """

    pair: NLAPair
    name: str
    settings: Settings
    meters: Meters
    gate: Gate
    began: datetime
    site: Site = field(default_factory=Site)

    @cached_property
    def evaluation(self) -> Evaluation | None:
        """What was measured of the pair, where it lies beside it."""
        return evaluation_beside(self.pair)

    @property
    def limits(self) -> Limits:
        return self.settings.limits

    @asynccontextmanager
    async def turn(self, request: Request) -> AsyncIterator[Ticket]:
        """A request's turn, for as long as the block lasts."""
        ticket = await self.gate.enter(request)
        try:
            yield ticket
        finally:
            self.leave(request, ticket)

    def leave(self, request: Request, ticket: Ticket) -> None:
        """A request's turn is over."""
        request.scope["nla.seen"]["why"] = ticket.why
        self.gate.leave(ticket)

    async def do(self, request: Request, function: Callable[[Ticket], Result]) -> Result:
        """What a function of the pair gives, in a thread, in the request's turn."""
        async with self.turn(request) as ticket:
            return await self.gate.run(ticket, lambda: function(ticket))

    def allow(self, what: str) -> None:
        """Refuse what is switched off.

        Raises:
            Problem: 403.
        """
        if what in self.settings.switched_off:
            raise Problem(403, f"{what} is switched off here: the server was started read-only.", "ReadOnlyError")


def served(request: Request) -> Served:
    """The pair that a request is to."""
    return request.app.state.served


def any_seed() -> int:
    """A seed for requests of a dialect that has none: two of them differ, as samples do."""
    return secrets.randbelow(2**31)


def noted(request: Request, *, rows: int = 0, failed: int = 0, tokens: int = 0) -> None:
    """Count what came of a request."""
    seen: dict[str, Any] = request.scope["nla.seen"]
    seen["rows"] += rows
    seen["failed"] += failed
    seen["tokens"] += tokens
