"""What runs in a Ray actor: a unit of work or a stage, what it takes loaded once; and how tables and errors travel.

Tables travel as Arrow's own stream: a pickled slice of a table would take all of the table along, and no library
between has a say in what type a column of vectors is.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ... import __version__
from ...errors import NLAError, NLAWarning

if TYPE_CHECKING:
    from .held import Held
    from .stages import Stage


@dataclass(frozen=True)
class Answer:
    """What an actor says.

    Attributes:
        value: what was asked for; None where it was refused.
        refusal: why, as it would be raised here.
        warned: what it warned of: category and message.
        seconds: that it took.
    """

    value: Any
    refusal: NLAError | None
    warned: tuple[tuple[type[Warning], str], ...]
    seconds: float


class Worker:
    """A pair or a base in a process of its own, and what is done with it.

    Args:
        unit: it, and where rows are handed to it what is done to them: to a table of results (`work`; a `Unit`), or to
            tables by name (`feed`).
        threads: that torch runs on. Ray sets OMP_NUM_THREADS to the actor's CPUs only where nobody has set it, and 1 is
            what shells and containers often set.
        folder: where the driver is, for folders that are named from there.
    """

    def __init__(self, unit: Held, threads: int, folder: str) -> None:
        self.unit, self.threads = unit, threads
        self._stage: tuple[Any, Stage] | None = None
        with contextlib.suppress(OSError):  # a node that has no such folder has the pair by another name
            os.chdir(folder)

    def load(self) -> Answer:
        """(this version of nla-sdk, what the unit says of itself, what decides its results), once it is loaded."""

        def load() -> tuple[str, Any, Any]:
            if (torch := sys.modules.get("torch")) is not None:  # the unit has brought it along
                torch.set_num_threads(self.threads)
            self.unit.prepare()
            return __version__, self.unit.about(), self.unit.identity()

        return answered(load)

    def digests(self) -> Answer:
        """SHA-256s of its files here."""
        return answered(self.unit.digests)

    def work(self, stream: bytes, first: int) -> Answer:
        """Rows to rows."""
        return answered(lambda: packed(self.unit(unpacked(stream), first)))

    def feed(self, stream: bytes, number: int) -> Answer:
        """What the driver has read of chunk `number`, to its tables by name."""
        return answered(lambda: _by_name(self.unit(unpacked(stream), number)))

    def make(self, stage: Sequence[Any], number: int) -> Answer:
        """Chunk `number` of a stage: its tables by name.

        Args:
            stage: a reference to it in a list, so that it is fetched once, not with every chunk.
        """
        (reference,) = stage
        if self._stage is None or self._stage[0] != reference:
            import ray

            self._stage = reference, ray.get(reference)
            self._stage[1].pair = self.unit.load()
        make = self._stage[1]
        return answered(lambda: _by_name(make(number)))


def _by_name(tables: Mapping[str, pa.Table]) -> dict[str, bytes]:
    return {name: packed(table) for name, table in tables.items()}


def packed(table: pa.Table) -> bytes:
    """A table as Arrow's stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def unpacked(stream: bytes) -> pa.Table:
    """The table of such a stream."""
    return pa.ipc.open_stream(stream).read_all()


def answered(call: Callable[[], Any]) -> Answer:
    """What a call gives or refuses, with what it warned of. What is no refusal, a bug, goes its way."""
    start, value, refusal = time.perf_counter(), None, None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", NLAWarning)
        try:
            value = call()
        except NLAError as error:
            refusal = _travelling(error)
    warned = tuple((one.category, str(one.message)) for one in caught)
    return Answer(value, refusal, warned, time.perf_counter() - start)


def _travelling(error: NLAError) -> NLAError:
    """The error, if it comes through a pickle; else its words."""
    try:
        if str(pickle.loads(pickle.dumps(error))) == str(error):
            return error.with_traceback(None)
    except Exception:  # whatever a class of errors does to be unpickled
        pass
    return NLAError(str(error))
