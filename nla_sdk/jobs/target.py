"""Where results go: a file here, or one of a store, which is made here first."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..halves.demo_base import cache_root
from ..io.chunks import identity_of
from ..io.rows.stores import STORE, Stored
from ..io.sidecars import sidecar_of


@dataclass(frozen=True)
class Target:
    """Where results go.

    Attributes:
        out: the final file; of one in a store the file that is sent there.
        form: its format: "parquet", "jsonl", "json", "csv" or "npy".
        vectors: the column that a .npy file holds; None if there is none.
        hidden: columns left out of JSON and CSV.
        overwrite: replace `out`, and unfinished work on something else.
        store: where `out` is sent when it is whole; None: it stays.
    """

    out: Path
    form: str
    vectors: str | None = None
    hidden: Sequence[str] = ()
    overwrite: bool = False
    store: Stored | None = None

    @classmethod
    def at(cls, given: str, form: str, *rest: Any) -> Target:
        """What `-o` names. Work for a store is kept in this SDK's cache folder until it is there.

        Raises:
            InputError: it is no address of a file, and no file's name.
        """
        if "\0" in given:
            raise InputError(f"-o {given!r} holds a NUL character, which no file's name may have.")
        if not STORE.match(given):
            return cls(Path(given), form, *rest)
        store = Stored.at(given)
        folder = cache_root() / "jobs" / identity_of({"out": str(store), "query": store.query})
        return cls(folder / store.name, form, *rest, store=store)

    def __str__(self) -> str:
        return str(self.store or self.out)

    @property
    def chunks(self) -> Path:
        """The folder of unfinished work."""
        return self.out.with_name(f"{self.out.name}.chunks")

    @property
    def aside(self) -> Path:
        """The file that lists the rows without results; there is none where there are none."""
        return self.out.with_name(f"{self.out.name}.failed.jsonl")

    def refuse_early(self) -> None:
        """Say at once what would only fail after the work is done.

        Raises:
            InputError: the file exists, its folder does not, its store does not answer, or its format cannot hold the
                results.
        """
        if self.form == "npy" and self.vectors is None:
            raise InputError(f"{self}: .npy holds vectors only; write explanations to .parquet, .jsonl or .csv.")
        if self.form == "csv" and self.vectors is not None:
            raise InputError(f"{self}: CSV holds no vectors; write them to .npy, .parquet or .jsonl.")
        if self.store is None and self.out.is_dir():
            raise InputError(f"{self} is a folder; expected a file name.")
        if not self.overwrite and (self.out.exists() if self.store is None else self.store.exists()):
            raise InputError(f"{self} exists already. Pass --overwrite to replace it, or another -o.")
        if self.store is not None:
            self.out.parent.mkdir(parents=True, exist_ok=True)
        elif not self.out.absolute().parent.is_dir():
            raise InputError(f"The folder {self.out.parent} does not exist; make it first.")

    def deliver(self) -> None:
        """Send what is whole to its store: the table last, as one without a sidecar has no history.

        Raises:
            InputError: the store does not take it; what was done is kept.
        """
        if self.store is None:
            return
        for file in (sidecar_of(self.out), self.aside, self.out):
            there = self.store.beside(file.name)
            if file.exists():
                there.put(file)
            else:  # of an older table
                there.remove()

    def clear(self) -> None:
        """Remove what was made here for a store and is there now."""
        if self.store is not None:
            for file in (sidecar_of(self.out), self.aside, self.out):
                file.unlink(missing_ok=True)
            with suppress(OSError):  # somebody works for the same store again
                self.out.parent.rmdir()
