"""The work on a table's rows as one value: it goes to another process, loads its pair there once, and works.

Only plain values are in it: which command, on what kind of rows, how the pair is loaded, the command's options. What
runs here is the same value with a pair behind it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ..halves.fetch import Files, fetch_base
from ..halves.half import present
from ..io.rows.row_source import TEXTS
from ..pair import NLAPair
from . import work as commands
from .checking import checked
from .cluster.held import Held
from .facts import About, Told
from .identity import BaseLying, Lying, digests_of, identify, run_as
from .work import Work

if TYPE_CHECKING:
    from ..model.backbone import Backbone

CHECKED_BY = ("positions", "layer", "seed")
"""Options of the writing that the checking of its words is told too."""


class Loaded(Held):
    """A pair as a value.

    Attributes:
        pair: as `NLAPair.from_pretrained` is told.
    """

    pair: Mapping[str, Any]
    _pair: NLAPair | None = None

    @property
    def told(self) -> Mapping[str, Any]:
        """As `NLAPair.from_pretrained` is."""
        return self.pair

    def lying(self) -> Lying:
        """Its halves, fetched if need be, and held against each other."""
        return Lying.find(self.pair)

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

    def digests(self) -> dict[str, str]:
        """SHA-256s of its files."""
        pair = self.load()
        return digests_of(present(pair.av, pair.ar))

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_pair": None}  # each process loads its own


class LoadedBase(Held):
    """A base alone as a value.

    Attributes:
        base: Hub id, folder or "demo"; `ref`: as it is called.
        revision: its commit, of a Hub id.
        dtype, quantization: as `Backbone.load` is told.
    """

    base: str
    ref: str
    revision: str | None
    dtype: str
    quantization: str | None
    _backbone: Backbone | None = None
    _files: Files | None = None

    @property
    def told(self) -> Mapping[str, Any]:
        """Dtype and quantization."""
        return {"dtype": self.dtype, "quantization": self.quantization}

    @property
    def holds(self) -> str:
        """A base reads texts."""
        return TEXTS

    @property
    def files(self) -> Files:
        """Where it lies, fetched if need be."""
        if self._files is None:
            self._files = fetch_base(self.base, revision=self.revision)
        return self._files

    def lying(self) -> BaseLying:
        """The base; of a Hub id without its weights."""
        return BaseLying.at(self.base, self.revision)

    def load(self) -> Backbone:
        """The base, loaded when it is first asked for."""
        if self._backbone is None:
            from ..model.backbone import Backbone

            how = {"dtype": self.dtype, "quantization": self.quantization}
            self._backbone = Backbone.load(self.files.path, ref=self.ref, **how)
        return self._backbone

    def identity(self) -> dict[str, Any]:
        """How it is run, and which files it is of."""
        return run_as(self.load()) | super().identity()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_backbone": None, "_files": None}


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
