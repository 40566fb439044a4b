"""Where activations were read: model, revision, layer, precision; as rows and sidecars say, held against the pair's.

What is not said is unknown, not wrong. A layer, a model, a commit that is another is refused; so is a quantised model
where the pair's is not (and the other way round). float32, bfloat16 and float16 differ by rounding: a warning.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from itertools import groupby
from operator import itemgetter
from pathlib import Path, PureWindowsPath
from typing import Any, TypeAlias

import pyarrow as pa

from ..errors import ForeignActivationError, ForeignActivationWarning, PrecisionWarning
from .sidecars import precision_of, read_sidecar

COLUMNS = {
    "layer": "activation_layer",
    "model": "activation_model",
    "revision": "activation_revision",
    "precision": "activation_precision",
}
"""The columns of a table that say it row by row."""
SIDECAR = {
    "layer": "layer",
    "model": "base_model",
    "revision": "base_revision",
    "precision": "extraction_precision",
}
"""The keys of a sidecar that say it of all rows."""
SOURCE = "source_model"
"""The key of a sidecar for a fine-tune of `base_model` that they were read from."""
RowFacts: TypeAlias = tuple[str, Mapping[str, object]]
"""Which rows, and what is said of them: {"layer" | "model" | "revision" | "precision": value}."""
ROWS_SHOWN = 5
_COMMIT = re.compile(r"[0-9a-f]{40}")
_ROUNDED = {"float32", "bfloat16", "float16"}


@dataclass(frozen=True)
class Origin:
    """Where activations were read; None: not known.

    Attributes:
        layer: the block, 0-indexed.
        model: Hub id or folder of the base.
        revision: its commit.
        precision: what it ran at: float32, bfloat16, nf4, …
        trained: for a pair, the precision of the activations it was trained on, which is as good.
        also: for a pair, other names of its base.
        base: the base that `model` is a fine-tune of; None: `model` is the base.
        layers: for a pair, all that it may read, or "any"; None: `layer` only.
    """

    layer: int | None = None
    model: str | None = None
    revision: str | None = None
    precision: str | None = None
    trained: str | None = None
    also: tuple[str, ...] = ()
    base: str | None = None
    layers: tuple[int, ...] | str | None = None

    def facts(self) -> dict[str, int | str]:
        """What is known, under a sidecar's keys."""
        said = {key: value for name, key in SIDECAR.items() if (value := getattr(self, name)) is not None}
        if self.base is not None and self.model is not None:
            said |= {"base_model": self.base, SOURCE: self.model}
        return said

    def refuses(self, name: str, found: object) -> bool:
        """Whether rows whose `name` (layer, model, …) is `found` are others than these."""
        wanted = getattr(self, name)
        if found is None or wanted is None:
            return False
        if name == "layer":
            readable = (wanted, *(self.layers if isinstance(self.layers, tuple) else ()))
            return self.layers != "any" and not any(str(found).strip() == str(one) or found == one for one in readable)
        if name == "model":
            return not any(_same_model(str(found), one) for one in (wanted, *self.also))
        if name == "revision":
            commits = _COMMIT.fullmatch(str(found)) and _COMMIT.fullmatch(str(wanted))
            return bool(commits) and found != wanted
        return not self._as_precise(str(found), _ROUNDED)

    def reads(self, name: str) -> str:
        """What a pair reads, for messages: its model, its layer or its layers."""
        if name != "layer" or not isinstance(self.layers, tuple):
            return str(getattr(self, name))
        return ", ".join(map(str, sorted({*self.layers, *([] if self.layer is None else [self.layer])})))

    def rounds(self, precision: object) -> bool:
        """Whether a precision that is not refused is another all the same."""
        return precision is not None and self.precision is not None and not self._as_precise(str(precision), set())

    def _as_precise(self, found: str, alike: set[str]) -> bool:
        found = precision_of(found)
        here = {precision_of(one) for one in (self.precision, self.trained) if one is not None}
        return found in here or (found in alike and bool(here & alike))


def _same_model(found: str, wanted: str) -> bool:
    """Whether two names may be of one model: ids by their letters; a folder's name says nothing of a Hub id."""
    if found.lower().rstrip("/") == wanted.lower().rstrip("/"):
        return True
    here, there = _is_folder(found), _is_folder(wanted)
    if here and there:
        a, b = Path(found).expanduser(), Path(wanted).expanduser()
        if a.is_dir() and b.is_dir():
            return _listing(a) == _listing(b)
        return PureWindowsPath(found).name.lower() == PureWindowsPath(wanted).name.lower()
    return here != there


def _is_folder(name: str) -> bool:
    given = name.startswith(("/", ".", "~")) or PureWindowsPath(name).is_absolute() or name.count("/") != 1
    return given or Path(name).is_dir()


def _listing(folder: Path) -> dict[str, int | str]:
    """Names and sizes of a model's weights, and its config: alike in a copy."""
    found: dict[str, int | str] = {file.name: file.stat().st_size for file in folder.glob("*.safetensors")}
    config = folder / "config.json"
    return found | {"config.json": config.read_text(encoding="utf-8") if config.is_file() else ""}


def check_origin(
    found: Iterable[RowFacts], pair: Origin, name: str, *, force: bool = False, what: str = "activations"
) -> None:
    """Hold what is said of activations against what a pair reads.

    Args:
        found: what is said of which rows.
        pair: what the pair reads.
        name: the file, for messages.
        force: warn where it would refuse.
        what: they are: activations, directions.
    Raises:
        ForeignActivationError: they are of another layer, model, commit, or of a model quantised otherwise.
    Warns:
        PrecisionWarning: they are of another full precision.
        ForeignActivationWarning: with `force`, in place of the error.
    """
    wrong: dict[tuple[str, object], list[str]] = {}
    rounded: set[str] = set()
    for where, facts in found:
        for fact, value in facts.items():
            if pair.refuses(fact, value):
                wrong.setdefault((fact, value), []).append(where)
            elif fact == "precision" and pair.rounds(value):
                rounded.add(str(value))
    if wrong:
        said = "; ".join(f"{fact} {value} ({_places(where)})" for (fact, value), where in wrong.items())
        wanted = ", ".join(f"{fact} {pair.reads(fact)}" for fact in dict.fromkeys(fact for fact, _ in wrong))
        message = f"{name}: {what} of {said}; this pair reads {wanted}."
        if not force:
            better = (
                "read them again with `nla extract` as the pair does"
                if what == "activations"
                else f"take {what} of its layer and model, or a pair of theirs"
            )
            raise ForeignActivationError(
                f"{message} Its words about them mean nothing: {better}; force=True (nla: --force) takes them all the "
                "same."
            )
        warnings.warn(f"{message} Taken all the same, as asked.", ForeignActivationWarning, stacklevel=3)
    if rounded:
        warnings.warn(
            f"{name}: activations read in {', '.join(sorted(rounded))}; the pair's are of "
            f"{' or '.join(dict.fromkeys(one for one in (pair.trained, pair.precision) if one))}. Directions differ "
            "slightly; compare scores within one precision only.",
            PrecisionWarning,
            stacklevel=3,
        )


def _places(where: list[str]) -> str:
    shown = ", ".join(where[:ROWS_SHOWN])
    return shown + (f" and {len(where) - ROWS_SHOWN:,} more" if len(where) > ROWS_SHOWN else "")


def facts_of_rows(table: pa.Table, first: int = 0) -> Iterator[RowFacts]:
    """("row 7" or "rows 7 to 12", what their columns say) of neighbouring rows alike, of a table that says anything."""
    there = {what: column for what, column in COLUMNS.items() if column in table.column_names}
    if not there:
        return
    said = zip(*(table[column].to_pylist() for column in there.values()), strict=True)
    for facts, rows in groupby(enumerate(said, first), key=itemgetter(1)):
        numbers = [number for number, _ in rows]
        where = f"row {numbers[0]}" if len(numbers) == 1 else f"rows {numbers[0]} to {numbers[-1]}"
        yield where, dict(zip(there, facts, strict=True))


def facts_of_sidecar(path: Path | None) -> Iterator[RowFacts]:
    """("its sidecar", what the sidecar beside a table says of all its rows); nothing where there is none."""
    if path is not None:
        yield from facts_of_record(read_sidecar(path))


def facts_of_record(about: Mapping[str, Any]) -> Iterator[RowFacts]:
    """The same of a sidecar that was read."""
    if about:
        extraction = about.get("extraction") if isinstance(about.get("extraction"), dict) else {}
        said = {what: about.get(key, extraction.get(key)) for what, key in SIDECAR.items()}
        said["model"] = about.get(SOURCE) or said["model"]
        yield "its sidecar", said


def common(found: Iterable[RowFacts]) -> Origin:
    """What all that is said agrees in; None of what nobody says, or not all alike."""
    said: dict[str, set[object]] = {}
    for _, facts in found:
        for what, value in facts.items():
            if value is not None:
                said.setdefault(what, set()).add(value)
    names = {field.name for field in fields(Origin)}
    agreed = {what: next(iter(values)) for what, values in said.items() if len(values) == 1 and what in names}
    return Origin(**agreed)  # pyright: ignore[reportArgumentType]
