"""What calls cost, and the caps on them: a call is made only if even its dearest outcome stays within the caps."""

from __future__ import annotations

import datetime
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

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
        self._reserved = 0.0
        self._changed = threading.Condition()

    @contextmanager
    def call(self, dearest: float) -> Iterator[Callable[[float], None]]:
        """Around one call, which costs at most `dearest` USD. Yields a function to report the real cost to.

        Raises:
            LabelError: a cap is reached.
        """
        self._begin(dearest)
        cost = 0.0

        def report(usd: float) -> None:
            nonlocal cost
            cost = usd

        try:
            yield report
        except Fault as fault:
            cost = dearest if fault.lost else cost + fault.cost_usd
            with self._changed:
                self.faults += 1
            raise
        finally:
            with self._changed:
                self._reserved -= dearest
                self.usd += cost
                self._changed.notify_all()

    def _begin(self, dearest: float) -> None:
        with self._changed:
            # Calls in flight mostly cost less than was set aside for them: wait for those before giving up.
            while self.max_usd is not None and self.usd + self._reserved + dearest > self.max_usd:
                if self._reserved <= 1e-12:
                    raise LabelError(
                        f"Stopped at ${self.usd:.4f}: another call could pass --max-usd {self.max_usd:g}. Everything "
                        "done is kept: run the same command again, with another cap, to go on."
                    )
                self._changed.wait(timeout=1)
            if self.max_calls is not None and self.calls >= self.max_calls:
                raise LabelError(
                    f"Stopped at {self.calls} calls (--max-calls {self.max_calls}). Everything done is kept: run the "
                    "same command again, with another cap, to go on."
                )
            self.calls += 1
            self._reserved += dearest
