"""Which pair or base it is that is worked with: what decides its results, as a manifest and a sidecar say it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ..assembly import Assembly
from ..engines.verbalizer import ServedVerbalizer
from ..halves.beside.digests import half_digests
from ..halves.fetch import BASE_FILES, Files, fetch_base, fetch_half
from ..halves.half import Half, check_halves, find_halves, present
from ..io.files import sha256_of
from ..io.origins import Origin

if TYPE_CHECKING:
    from ..model.backbone import Backbone


@dataclass(frozen=True)
class Lying:
    """A pair as it lies on this disk, nothing of it loaded.

    Attributes:
        av, ar: None for one that is not there.
        source: a fine-tune of the base that activations are read from; None: the base.
        base: the base as it is called; "": none is needed.
        what, told_by: for messages: what it is, and what says how it is run.
    """

    what: ClassVar[str] = "pair"
    told_by: ClassVar[str] = "--device, --dtype, --quantization"

    av: Half | None
    ar: Half | None
    source: Files | None
    base: str

    @classmethod
    def find(cls, told: Mapping[str, Any]) -> Lying:
        """The halves, fetched if need be, and held against each other; the base stays where it is.

        Args:
            told: as `NLAPair.from_pretrained` is.
        Raises:
            RepositoryError, ContractError, WrongRoleError, MismatchedHalvesError, InputError: as it does.
        """
        where = {"local_files_only": told.get("local_files_only", False)}
        first = {name: told.get(name) for name in ("revision", "subfolder")}
        how = {"given": told.get("contract"), "alone": told.get("av_engine") is not None}
        av, ar, _ = find_halves(told.get("av"), told.get("ar"), **first, **how, **where)
        halves = present(av, ar)
        if av is not None and ar is not None:
            check_halves(av, ar, **where)
        stated = told.get("source") or next((one for half in halves if (one := half.contract.source_model)), None)
        source = None if stated is None else fetch_half(stated, **where)
        return cls(av, ar, source, str(told.get("base") or halves[0].contract.base_model))

    @property
    def halves(self) -> list[Half]:
        """Those that there are, the AV first."""
        return present(self.av, self.ar)

    @property
    def origin(self) -> Origin:
        """What its contracts promise that it reads; at what precision is not known before it runs."""
        contract = self.halves[0].contract
        return Origin(
            layer=contract.layer,
            model=self.base if self.source is None else self.source.ref,
            revision=self.source.commit if self.source is not None else None,
            also=(str(contract.base_model),) if self.source is None else (),
            base=None if self.source is None else self.base,
            layers=tuple(layers) if isinstance(layers := contract.layers, list) else layers,
        )

    def identity(self) -> dict[str, Any]:
        """Its files."""
        return files_of(self.halves, self.source)

    def digests(self) -> dict[str, str]:
        """SHA-256s of its files: alike in a copy, whose times are others."""
        return digests_of(self.halves)


@dataclass(frozen=True)
class BaseLying(Lying):
    """A base alone, as it lies on this disk or, where it is the Hub's, without its weights."""

    what: ClassVar[str] = "base"
    told_by: ClassVar[str] = "dtype and quantization in the config, and --gpus-per-actor 0 for CPUs alone"
    files: Files

    @classmethod
    def at(cls, base: str, revision: str | None = None) -> BaseLying:
        """The base of that name; of a Hub id its small files are fetched.

        Raises:
            RepositoryError: as `fetch_base`.
        """
        return cls(None, None, None, base, fetch_base(base, revision=revision, weights=False))

    def identity(self) -> dict[str, Any]:
        """Its commit; of a folder what changes when a file of it does."""
        return {"base": f"{self.base} at {self.files.commit or _listing(self.files.path)}"}

    def digests(self) -> dict[str, str]:
        """SHA-256s of its files; of a Hub id its commit, which says as much."""
        if self.files.commit is not None:
            return {"commit": self.files.commit}
        files = (file for file in sorted(self.files.path.iterdir()) if file.is_file())
        return {file.name: sha256_of(file) for file in files if any(fnmatch(file.name, one) for one in BASE_FILES)}


def identify(pair: Assembly) -> dict[str, Any]:
    """What decides a pair's results: the files of its halves, and how they are run."""
    found = pair.read_from and pair.read_from.find()  # found, not loaded: a job that goes on may have no text to read
    return running(pair) | files_of(present(pair.av, pair.ar), found)


def running(pair: Assembly) -> dict[str, Any]:
    """How it is run, on which base, and which server writes its texts."""
    half = pair.verbalizer or pair.reconstructor
    assert half is not None, "a pair has at least one half"
    found = run_as(half.backbone)
    if isinstance(half, ServedVerbalizer):
        found["engine"] = half.server.identity
    return found


def run_as(backbone: Backbone) -> dict[str, Any]:
    """How a base is run."""
    return {
        "quantization": backbone.quantization,
        "dtype": str(backbone.dtype).removeprefix("torch."),
        "device": backbone.device.type,
        "base": backbone.ref,
    }


def files_of(halves: Iterable[Half], source: Files | None) -> dict[str, Any]:
    """The halves and the source: commits of the Hub, of folders what changes when a file of theirs does."""
    found: dict[str, Any] = {}
    if source is not None:
        found["source"] = f"{source.ref} at {source.commit or _listing(source.path)}"
    for half in halves:
        role = half.role
        found[role] = f"{half.ref} at {half.commit or _listing(half.folder)}"
        for number, folder in enumerate(half.adapters, 1):
            if folder != half.folder:
                found[f"{role}_adapter_{number}"] = _listing(folder)
        if half.parent is not None:
            found[f"{role}_parent"] = f"{half.parent.ref} at {half.parent.commit or _listing(half.parent.path)}"
        origins = half.contract.origins
        if given := {name: getattr(half.contract, name) for name, origin in origins.items() if origin == "given"}:
            found[f"{role}_contract"] = given
    return found


def digests_of(halves: Iterable[Half]) -> dict[str, str]:
    """SHA-256s of every file of the halves that decides results, by role and place."""
    found: dict[str, str] = {}
    for half in halves:
        folders = [half.folder, *(one for one in half.adapters if one != half.folder)]
        folders += [] if half.parent is None else [half.parent.path]
        for number, folder in enumerate(folders):
            found |= half_digests(f"{half.role}/{number}", folder, half.contract)
    return found


def _listing(folder: Path) -> str:
    """What changes when a file of a folder does."""
    stats = {file.name: file.stat() for file in sorted(folder.iterdir()) if file.is_file()}
    files = [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats.items()]
    return hashlib.sha256(json.dumps(files).encode()).hexdigest()[:16]
