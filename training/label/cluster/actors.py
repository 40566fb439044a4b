"""What labels in an actor, and the driver's part: rows handed out, one account kept, its lines said."""

from __future__ import annotations

import secrets
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
from tqdm import tqdm

from nla_sdk.errors import InputError, NLAError
from nla_sdk.io.files import sha256_of
from nla_sdk.io.progress import say
from nla_sdk.io.rows.row_source import TEXTS, VECTORS
from nla_sdk.jobs.cluster.held import Held
from nla_sdk.jobs.cluster.stages import Spread

from ...configs.label import Label, LabelSet
from ..budget import Budget, Prices
from ..cache import Cache
from ..faults import LabelError
from ..parallel import GRACE, Stopped
from ..passes import SCHEMA, Passes, label_rows
from .account import POLL, Account, Asking, FarBudget, FarCache

RUN = b"run"
LABELS = "labels"
KEPT = 1.0
"""Seconds in which an answer that is there gets into the cache."""
Labelled = Iterator[tuple[int, pa.Table]]
Making = Callable[[str, Iterator[tuple[int, pa.Table]], tqdm], Labelled]
"""What its rows are remembered under, and chunks of them, to those chunks labelled."""


@dataclass(frozen=True)
class LabelsLying:
    """What a set's providers read on this disk.

    Attributes:
        files: of labels.
        base: a model that runs here; "": none does.
    """

    what: ClassVar[str] = "file of labels"
    told_by: ClassVar[str] = "--gpus-per-actor"
    files: tuple[Path, ...]
    base: str
    halves: tuple[()] = ()
    source: None = None

    def identity(self) -> dict[str, Any]:
        """The files' SHA-256s."""
        return {str(file): sha256_of(file) for file in self.files if file.is_file()}

    def digests(self) -> dict[str, str]:
        """The same."""
        return self.identity()


@dataclass(eq=False)
class Labelling(Held):
    """The passes over a set's rows; a table of rows to `LABELS`.

    Args:
        account: the name of the actor that is asked for answers that are there, and before each call.
    """

    label_set: LabelSet
    settings: Label
    prices: Prices
    marker: str
    account: str = field(default_factory=lambda: f"account-{secrets.token_hex(8)}")
    _passes: Passes | None = field(default=None, init=False, repr=False)

    @property
    def models(self) -> list[str]:
        """Models that an actor holds itself."""
        everyone = (*self.label_set.providers, *self.label_set.auditors)
        return [str(one.model) for one in everyone if one.kind == "transformers"]

    @property
    def told(self) -> Mapping[str, Any]:
        """Without a model of its own it needs no GPU."""
        return {} if self.models else {"device": "cpu"}

    @property
    def holds(self) -> str:
        """Texts are read by a model of its own only."""
        return TEXTS if self.models else VECTORS

    def lying(self) -> LabelsLying:
        """The files that its providers read."""
        files = tuple(one.path for one in self.label_set.providers if one.path is not None)
        return LabelsLying(files, next(iter(self.models), ""))

    def load(self) -> Passes:
        """The passes, each provider made ready on this node.

        Raises:
            LabelError, InputError: one cannot work here at all: no key, not installed, no file.
        """
        if self._passes is None:
            ask = Asking(self.account)
            try:
                self._passes = Passes(
                    self.label_set, self.settings, self.prices, FarCache(ask), FarBudget(ask), self.marker
                )
            except (LabelError, InputError) as error:
                raise type(error)(f"On the node {socket.gethostname()}: {error}") from None
            self._passes.say = lambda line: ask("tell", line)
        return self._passes

    def identity(self) -> dict[str, Any]:
        """The files, and where a model of its own runs."""
        if not self.models:
            return super().identity()
        import torch

        return super().identity() | {"device": "cuda" if torch.cuda.is_available() else "cpu"}

    def __call__(self, rows: pa.Table, number: int) -> dict[str, pa.Table]:
        passes = self.load()
        passes.run = rows.schema.metadata[RUN].decode()
        try:
            made = label_rows(rows.to_pylist(), passes)
        except Stopped:  # nobody asks for it any more: Ray would print a traceback of what is no refusal
            raise LabelError("The run has stopped, so no further call is begun.") from None
        return {LABELS: pa.Table.from_pylist(made, schema=SCHEMA)}

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_passes": None}


@contextmanager
def by_actors(spread: Spread, unit: Labelling, cache: Path, budget: Budget) -> Iterator[tuple[Making, Cache]]:
    """Labelling by actors, in any order, and the cache of answers as long as they are there.

    In the end no further call is begun, and those in flight are waited for: they are paid for.

    Args:
        cache: where answers are kept.
        budget: holds for all actors together; has what they spent in the end.
    Raises:
        ClusterError: there are no such actors, or a chunk has ended two of them.
        LabelError: labelling cannot go on.
    """
    longest = max(one.timeout for one in (*unit.label_set.providers, *unit.label_set.auditors))
    with spread(unit) as pool:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        here = NodeAffinitySchedulingStrategy(pool.ray.get_runtime_context().get_node_id(), soft=False)
        kind = pool.ray.remote(Account).options(name=unit.account, num_cpus=0, scheduling_strategy=here)
        account, ask = kind.remote(cache, budget.facts(), socket.gethostname()), Asking(unit.account)

        def make(run: str, given: Iterator[tuple[int, pa.Table]], bar: tqdm) -> Labelled:
            def show() -> None:
                lines, spent = ask("told")
                for line in lines:
                    say(line)
                bar.set_postfix(usd=f"{spent['usd']:.4f}", faults=spent["faults"], refresh=False)

            marked = ((number, table.replace_schema_metadata({RUN: run})) for number, table in given)
            for made in pool.fed(marked, show):
                show()
                bar.update(made.rows)
                yield made.number, made.outputs[LABELS]

        try:
            ask("open")
            yield make, FarCache(ask)
        except KeyboardInterrupt:
            longest = GRACE
            raise
        finally:
            with suppress(NLAError):  # of a cluster that is gone
                ask("stop")
                deadline = time.monotonic() + longest
                while not pool.drain(POLL) and ask("in_flight") and time.monotonic() < deadline:
                    pass
                pool.drain(KEPT)  # what the last of them was answered; an actor may sleep until a quota resets
                for line in ask("told")[0]:
                    say(line)
                budget.take(ask("close"))
            with suppress(Exception):  # as the pool ends its actors
                pool.ray.kill(account)
