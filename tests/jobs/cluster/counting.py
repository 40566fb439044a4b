"""Work without a pair, whose rows may end the process; `python -m tests.jobs.cluster.counting` is a driver of it."""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nla_sdk.contract import Contract
from nla_sdk.errors import InputError, SuspectActivationsWarning
from nla_sdk.io.origins import Origin
from nla_sdk.io.rows.sources import RowSource, open_source
from nla_sdk.io.tables import read_vectors, vector_column
from nla_sdk.jobs.cluster.connection import connected
from nla_sdk.jobs.cluster.pool import Pool
from nla_sdk.jobs.cluster.sizes import ActorSize
from nla_sdk.jobs.facts import About
from nla_sdk.jobs.local import Target, run

ABOUT = Contract.from_dict({"kind": "nla_dataset", "base_model": "owner/base", "d_model": 4, "layer": 2})
CHUNK_ROWS = 10
NEEDS_RAY = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs Ray: the extra [cluster]")


@dataclass
class Counting:
    """Numbers rows and doubles their vectors.

    Attributes:
        folder: where it leaves a note of each chunk that it was handed.
        fatal: rows that end the process, whenever they come.
        once: rows that end it when they come first.
        wrong: a row that is refused.
        pause: seconds a table.
    """

    folder: Path
    fatal: tuple[int, ...] = ()
    once: tuple[int, ...] = ()
    wrong: int | None = None
    pause: float = 0.0

    def prepare(self) -> None: ...

    def load(self) -> str:
        return "the actor's pair"

    def about(self) -> About:
        return About(ABOUT, Origin(), ())

    def identity(self) -> dict:
        return {"device": "cpu"}

    def __call__(self, table: pa.Table, first: int) -> pa.Table:
        import warnings

        rows = range(first, first + table.num_rows)
        with (self.folder / "calls").open("a") as calls:
            calls.write(f"{first} {table.num_rows} {os.getpid()}\n")
        if self.wrong in rows:
            raise InputError(f"in.parquet, row {self.wrong}: it is wrong.")
        for row in rows:
            if row in self.fatal or (row in self.once and self._is_first(row)):
                os.kill(os.getpid(), signal.SIGKILL)
        warnings.warn(f"{table.num_rows} rows from {first} on look odd", SuspectActivationsWarning, stacklevel=2)
        time.sleep(self.pause)
        doubled = 2 * read_vectors(table)
        return table.append_column("row", pa.array(rows)).append_column("doubled", vector_column(doubled))

    def _is_first(self, row: int) -> bool:
        try:
            (self.folder / f"seen-{row}").touch(exist_ok=False)
        except FileExistsError:
            return False
        return True

    def calls(self) -> list[tuple[int, int]]:
        """(first row, rows) of every table that it was handed."""
        lines = (self.folder / "calls").read_text().splitlines()
        return [(int(line.split()[0]), int(line.split()[1])) for line in lines]


@dataclass
class Numbers:
    """A stage whose chunks hold their number, and what the copy that made them was given.

    Attributes:
        folder: where it leaves a note of each chunk.
        once, fatal: the chunk that ends the process when it comes first, and the one that always does.
    """

    folder: Path
    sizes: tuple[int, ...]
    once: int | None = None
    fatal: int | None = None
    pair: object = None

    def __call__(self, number: int) -> dict[str, pa.Table]:
        with (self.folder / "calls").open("a") as calls:
            calls.write(f"{number} {self.sizes[number]} {os.getpid()}\n")
        if number == self.fatal or (number == self.once and not (self.folder / "seen").exists()):
            (self.folder / "seen").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        table = pa.table({"number": [number] * self.sizes[number], "pair": [str(self.pair)] * self.sizes[number]})
        return {"rows": table, "timing": pa.table({"seconds": [0.5]})}


class Here:
    """A pair of no files."""

    what = "pair"

    def identity(self) -> dict:
        return {}


def write_rows(folder: Path, rows: int) -> RowSource:
    vectors = np.random.default_rng(0).normal(size=(rows, 4))
    pq.write_table(pa.table({"activation_vector": vector_column(vectors)}), folder / "in.parquet")
    return open_source(str(folder / "in.parquet"), ("activation_vector",))


def spread(ray, unit: Counting, source: RowSource, out: Path, actors: int = 2, **how) -> int:
    """The unit's work on a source by actors of a cluster."""
    rows = source.check()
    with Pool(ray, unit, ActorSize(), actors, Here()) as pool:
        assert pool.about.contract.layer == 2
        return run(
            source,
            rows,
            unit,
            Target(out, "parquet"),
            making=pool.making,
            chunk_rows=CHUNK_ROWS,
            made_from={},
            about=ABOUT,
            **how,
        )


if __name__ == "__main__":
    address, folder = sys.argv[1], Path(sys.argv[2])
    rows = open_source(str(folder / "in.parquet"), ("activation_vector",))
    with connected(address) as cluster:
        spread(cluster, Counting(folder, pause=0.1), rows, folder / "out.parquet")
