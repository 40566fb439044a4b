"""What calls cost, and the caps on them: a call is made only if even its dearest outcome stays within the caps."""

from __future__ import annotations

import datetime
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import Field

from nla_sdk.errors import InputError

from ..configs.label import ProviderSettings
from ..configs.section import Section
from .faults import Fault, LabelError

PRICES = Path(__file__).with_name("prices.yaml")


class Price(Section):
    """Of one model, in USD per million tokens."""

    input: float = Field(ge=0)
    output: float = Field(ge=0)

    def of(self, tokens_in: int, tokens_out: int) -> float:
        """What so many tokens cost, in USD."""
        return (tokens_in * self.input + tokens_out * self.output) / 1e6


class Prices(Section):
    """A price file."""

    as_of: datetime.date
    source: str = ""
    models: dict[str, Price]

    @classmethod
    def load(cls, path: Path | None = None) -> Prices:
        """Read a price file; without `path` the one in the package.

        Raises:
            InputError: it is missing or malformed.
        """
        return cls.read(path or PRICES, "price file")


FREE = Price(input=0, output=0)


def price_of(provider: ProviderSettings, prices: Prices) -> Price | None:
    """What a provider's tokens cost; None if nobody said. What runs on this machine is free, and so are the CLIs:
    they bill a plan, or report their own cost."""
    if provider.model in prices.models and provider.kind in ("anthropic", "openai"):
        return prices.models[provider.model]
    if provider.kind == "openai" and provider.is_local:
        return FREE
    return None if provider.kind in ("anthropic", "openai") else FREE


def check_priced(providers: Iterable[ProviderSettings], prices: Prices, path: Path | None) -> None:
    """A cap in USD needs every price.

    Raises:
        InputError: a model without one.
    """
    for provider in providers:
        if price_of(provider, prices) is None:
            raise InputError(
                f"--max-usd needs the price of {provider.model}, which {path or PRICES} doesn't list. Add it to a "
                "price file of your own (`label: prices:`), in USD per million tokens."
            )


class Budget:
    """What this run of the stage has spent, and how much more it may.

    Attributes:
        usd: spent so far; a request whose answer was lost counts with its dearest outcome.
        calls: begun so far.
        faults: calls that gave nothing usable.
    """

    def __init__(self, max_usd: float | None = None, max_calls: int | None = None) -> None:
        self.max_usd, self.max_calls = max_usd, max_calls
        self.usd, self.calls, self.faults = 0.0, 0, 0
        self._open: dict[int, float] = {}
        self._changed = threading.Condition()

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> Budget:
        """One that goes on from `facts`."""
        made = cls(facts["max_usd"], facts["max_calls"])
        made.take(facts)
        return made

    def facts(self) -> dict[str, Any]:
        """Caps, and what was spent."""
        names = ("max_usd", "max_calls", "usd", "calls", "faults")
        return {name: getattr(self, name) for name in names}

    def take(self, facts: Mapping[str, Any]) -> None:
        """What was spent is this."""
        self.usd, self.calls, self.faults = facts["usd"], facts["calls"], facts["faults"]

    @contextmanager
    def call(self, dearest: float) -> Iterator[Callable[[float], None]]:
        """Around one call, which costs at most `dearest` USD. Yields a function to report the real cost to.

        Raises:
            LabelError: a cap is reached.
        """
        number = self.begin(dearest)
        cost, failed = 0.0, False

        def report(usd: float) -> None:
            nonlocal cost
            cost = usd

        try:
            yield report
        except Fault as fault:
            cost, failed = dearest if fault.lost else cost + fault.cost_usd, True
            raise
        finally:
            self.end(number, cost, failed=failed)

    def begin(self, dearest: float) -> int:
        """Set aside what a call may cost; returns its number, from 1 on.

        Raises:
            LabelError: a cap is reached.
        """
        with self._changed:
            # Calls in flight mostly cost less than was set aside for them: wait for those before giving up.
            while (number := self.begun(dearest)) is None:
                self._changed.wait(timeout=1)
            return number

    def begun(self, dearest: float) -> int | None:
        """The same; None where calls in flight may leave enough.

        Raises:
            LabelError: a cap is reached.
        """
        with self._changed:
            reserved = sum(self._open.values())
            if self.max_usd is not None and self.usd + reserved + dearest > self.max_usd:
                if reserved > 1e-12:
                    return None
                raise LabelError(
                    f"Stopped at ${self.usd:.4f}: another call could pass --max-usd {self.max_usd:g}. Everything "
                    "done is kept: run the same command again, with another cap, to go on."
                )
            if self.max_calls is not None and self.calls >= self.max_calls:
                raise LabelError(
                    f"Stopped at {self.calls} calls (--max-calls {self.max_calls}). Everything done is kept: run the "
                    "same command again, with another cap, to go on."
                )
            self.calls += 1
            self._open[self.calls] = dearest
            return self.calls

    def set_aside(self, number: int) -> float:
        """For a call that has not ended."""
        return self._open[number]

    def end(self, number: int, cost: float, *, failed: bool = False) -> None:
        """A call has ended."""
        with self._changed:
            del self._open[number]
            self.usd += cost
            self.faults += failed
            self._changed.notify_all()
