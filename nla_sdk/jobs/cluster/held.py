"""What actors hold, as a value, and how it lies on a disk: a pair, a base alone, what a stage takes beside."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from ...io.rows.row_source import VECTORS

if TYPE_CHECKING:
    from ...halves.fetch import Files
    from ...halves.half import Half


class Lies(Protocol):
    """It as it lies on a disk, nothing of it loaded; see `nla_sdk.jobs.identity`.

    Attributes:
        what, told_by: for messages: what it is, and what says how it is run.
    """

    what: ClassVar[str]
    told_by: ClassVar[str]

    @property
    def halves(self) -> Sequence[Half]:
        """Of a pair."""
        ...

    @property
    def source(self) -> Files | None:
        """A fine-tune of the base that activations are read from."""
        ...

    @property
    def base(self) -> str:
        """The base as it is called; "": none is needed."""
        ...

    def identity(self) -> dict[str, Any]:
        """Its files, by what changes when one of them does."""
        ...

    def digests(self) -> dict[str, str]:
        """SHA-256s of its files: alike in a copy."""
        ...


class Held(ABC):
    """What chunks are made with, as a value: told how it is loaded, which each process that it is sent to does once.

    One that rows are handed to is called with a table of them and a number: that of the first row, to give a table of
    results (`Worker.work`), or that of the chunk, to give tables by name (`Worker.feed`).
    """

    @property
    def told(self) -> Mapping[str, Any]:
        """How it is loaded, as far as its size depends on it: dtype, quantization, device, av_engine."""
        return {}

    @property
    def holds(self) -> str:
        """What it is worked on with (`nla_sdk.io.rows.row_source`): for texts the base is loaded too."""
        return VECTORS

    @abstractmethod
    def lying(self) -> Lies:
        """It as it lies on the disk of this process; nothing is loaded."""

    @abstractmethod
    def load(self) -> Any:
        """It, loaded when it is first asked for."""

    def prepare(self) -> object:
        """Get ready for the first rows."""
        return self.load()

    def about(self) -> Any:
        """What it says of itself; None: nothing."""
        return None

    def identity(self) -> dict[str, Any]:
        """What decides its results; with what `lying` says here and wherever else it is loaded."""
        return self.lying().identity()

    def digests(self) -> dict[str, str]:
        """SHA-256s of its files: alike in a copy."""
        return self.lying().digests()
