"""The work on a table's rows as one value: it goes to another process, loads its pair there once, and works.

Only plain values are in it: which command, on what kind of rows, how the pair is loaded, the command's options. What
runs here is the same value with a pair behind it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa

from ..io.rows.row_source import VECTORS
from ..pair import NLAPair
from . import work as commands
from .checking import checked
from .facts import About, Told
from .identity import identify
from .work import Work

CHECKED_BY = ("positions", "layer", "seed")
"""Options of the writing that the checking of its words is told too."""


class Loaded:
    """A pair as a value: told how it is loaded, which each process that it is sent to does once.

    Attributes:
        pair: as `NLAPair.from_pretrained` is told.
    """

    pair: Mapping[str, Any]
    _pair: NLAPair | None = None

    @property
    def holds(self) -> str:
        """What it is worked on with (`nla_sdk.io.rows.row_source`): for texts the base is loaded too."""
        return VECTORS

    def load(self) -> NLAPair:
        """The pair, loaded when it is first asked for."""
        if self._pair is None:
            self._pair = NLAPair.from_pretrained(**self.pair)
        return self._pair

    def about(self) -> Any:
        """What the pair says of itself."""
        pair = self.load()
        return About(pair.contract, pair.origin, pair.model_types)

    def identity(self) -> dict[str, Any]:
        """What decides its results, see `nla_sdk.jobs.identity`."""
        return identify(self.load())

    def prepare(self) -> object:
        """Get ready for the first rows."""
        return self.load()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_pair": None}  # each process loads its own


@dataclass(eq=False)
class Unit(Loaded):
    """Rows to rows: called with a table and the number of its first row.

    Args:
        command: the name of a function of `nla_sdk.jobs.work`.
        rows: what the work is told of them.
        pair: as `NLAPair.from_pretrained` is told.
        options: of the command.
        check: whether the claims of explanations are checked.
    Example:
        >>> rows = Told("acts.parquet", "activation_vector", "vectors", "acts", None)
        >>> Unit("explain", rows, {"av": "demo"}, {"max_new_tokens": 20})(table, 0)  # doctest: +SKIP
    """

    command: str
    rows: Told
    pair: Mapping[str, Any]
    options: Mapping[str, Any]
    check: bool = False
    _work: Work | None = field(default=None, init=False, repr=False)

    @property
    def holds(self) -> str:
        """What the rows hold."""
        return self.rows.holds

    def about(self) -> About:
        """What the pair says of itself."""
        calibration = self.load().calibration if self.check else None
        return replace(super().about(), calibration=calibration)

    def prepare(self) -> Work:
        """What each table is handed to.

        Raises:
            InputError: the pair cannot do it to such rows.
        """
        if self._work is None:
            pair = self.load()
            work: Work = getattr(commands, self.command)(pair, self.rows, **self.options)
            if self.check:
                how = {name: self.options[name] for name in CHECKED_BY if name in self.options}
                work = checked(pair, self.rows, work, **how)
            self._work = work
        return self._work

    def __call__(self, table: pa.Table, first: int) -> pa.Table:
        return self.prepare()(table, first)

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"_work": None}
