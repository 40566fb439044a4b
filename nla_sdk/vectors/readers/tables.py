"""Tables: parquet and JSON lines with a column of vectors, of any type that tables keep them in."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa

from ...errors import EmptyBatchError, InputError, MissingFileError, OfflineError, first_line
from ...io.origins import COLUMNS, RowFacts, common, facts_of_rows, facts_of_sidecar
from ...io.rows.readers import json_rows
from ...io.sidecars import sidecar_of
from ...io.tables import (
    holds_texts,
    holds_vectors,
    open_parquet,
    parquet_of,
    promises_vectors,
    read_vectors,
    texts_of,
    why_not_vectors,
    widths_of,
)
from ...model.weights.files import damage
from ..arrays import file_of
from ..faults import Question, VectorFileError
from ..kinds import KINDS, Found, Stated, as_kind, as_layers
from ..places import Place
from .tensors import KIND, LAYER

SUFFIXES = (".parquet", ".jsonl", ".ndjson")
OURS = "activation_vector"
"""The column that holds activations by its name: the reference pipeline's, and what `nla extract` writes."""
KINDS_OF_ROWS = "kind"
"""The column that says what rows are: `nla explain` and the others write it."""
LABELS = ("row_id", "id", "label", "name")
AT_ONCE = 256  # rows
NO_LAYER = -2  # of a null that says none

Batches = Callable[[Sequence[str], "Sequence[int] | None"], Iterator[tuple[int, pa.Table]]]
"""Columns, the rows that are wanted (None: all) → tables of neighbouring rows, each with its first row's number; what
holds no wanted row may be left out."""


@dataclass
class Scan:
    """What one pass through a table shows.

    Attributes:
        missing: rows that are null.
        labels: of each row, where a column says it.
        layers: of each row, where its column says it.
        kinds: of each row, where its column says it.
        facts: where the rows were read, as columns say.
    """

    count: int = 0
    width: int | None = None
    missing: list[int] = field(default_factory=list)
    labels: list[object] = field(default_factory=list)
    layers: list[object] = field(default_factory=list)
    kinds: list[object] = field(default_factory=list)
    facts: list[RowFacts] = field(default_factory=list)


def read(place: Place, stated: Stated) -> Found | None:
    """The rows of a column of vectors; a null keeps its number and its label. None: it is no table.

    Raises:
        VectorFileError: no column of vectors, or one of pickles.
        ActivationShapeError: rows of different widths.
        InputError: the file cannot be read, has no such column, or no row of that layer.
    """
    name = file_of(place, stated, SUFFIXES)
    if name is None:
        return None
    path = place.open(name)
    if wrong := damage(path):
        raise wrong
    sidecar = sidecar_of(Path(name)).as_posix()
    if place.file is not None or sidecar in place.names:
        with suppress(MissingFileError, OfflineError):
            place.open(sidecar)  # of the Hub it is not here yet
    try:
        return _table(path, stated, place.name)
    except (UnicodeDecodeError, KeyError) as error:  # a column's name, or a text, whose bytes are no UTF-8
        raise InputError(f"{place.name} is a damaged table: {first_line(error)}.") from error


def _table(path: Path, stated: Stated, name: str) -> Found:
    is_parquet = path.suffix.lower() == ".parquet"
    batches, fields = _parquet(path) if is_parquet else _json(path, name)
    tool = "parquet table" if is_parquet else "JSON lines"
    column = _column(fields, stated.column, name, typed=is_parquet)
    if not isinstance(column, str):
        choices = tuple(f"{one}: {fields[one].type}" for one in column)
        asked = Question("column", "it has several columns of vectors", choices)
        return Found(tool, 0, 0, lambda rows: np.empty((0, 0), np.float32), questions=(asked,))
    scan = _scan(batches, fields, column, name)
    return _found(scan, [*scan.facts, *facts_of_sidecar(path)], stated, column, batches, tool, name)


# --- files --------------------------------------------------------------------------------------------------------
def _parquet(path: Path) -> tuple[Batches, dict[str, pa.Field]]:
    with open_parquet(path) as file, parquet_of(path):
        fields = {one.name: one for one in file.schema_arrow}
        ends = np.cumsum([file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)])

    def batches(columns: Sequence[str], rows: Sequence[int] | None) -> Iterator[tuple[int, pa.Table]]:
        groups = range(len(ends)) if rows is None else sorted(set(np.searchsorted(ends, rows, side="right").tolist()))
        with open_parquet(path) as file, parquet_of(path):
            for group in groups:
                at = int(ends[group - 1]) if group else 0
                for batch in file.iter_batches(AT_ONCE, row_groups=[group], columns=list(columns)):
                    yield at, pa.Table.from_batches([batch])
                    at += batch.num_rows
                if at != ends[group]:
                    raise InputError(
                        f"{path} is a damaged table: its footer tells of {ends[group]:,} rows, not {at:,}."
                    )

    return batches, fields


def _json(path: Path, name: str) -> tuple[Batches, dict[str, pa.Field]]:
    tables, fields = list(json_rows(path, name)(0)), {}
    for table in tables:
        for one in table.schema:
            held = fields.get(one.name)
            # Numbers that are whole in one batch need not be in the next; a column may begin with nulls.
            if held is None or pa.types.is_null(held.type) or (holds_vectors(one) and not _floats(held)):
                fields[one.name] = one

    def batches(columns: Sequence[str], rows: Sequence[int] | None) -> Iterator[tuple[int, pa.Table]]:
        at = 0
        for table in tables:
            yield at, table.select([one for one in columns if one in table.column_names])
            at += table.num_rows

    return batches, fields


# --- columns ------------------------------------------------------------------------------------------------------
def _floats(one: pa.Field) -> bool:
    """Whether a column holds vectors, rather than lists of ids."""
    return holds_vectors(one) and pa.types.is_floating(getattr(one.type, "storage_type", one.type).value_type)


def _column(fields: Mapping[str, pa.Field], said: str | None, name: str, *, typed: bool) -> str | list[str]:
    """The column of vectors; several: which, is to be asked.

    Args:
        typed: whole numbers are no vectors; in JSON they may be.
    Raises:
        VectorFileError: there is none, or it holds something else. InputError: no such column.
    """
    if said is not None:
        if said not in fields:
            raise InputError(f"{name} has no column {said!r}; it has {', '.join(fields)}.")
        if not (_floats if typed else holds_vectors)(fields[said]):
            raise _no_vectors(name, fields[said])
        return said
    whole = () if typed else [one for one, of in fields.items() if promises_vectors(one) and holds_vectors(of)]
    usable = [one for one, of in fields.items() if _floats(of) or one in whole]
    for one, of in fields.items():
        if one not in usable and why_not_vectors(of) and (promises_vectors(one) or not usable):
            raise _no_vectors(name, of)
    if not usable:
        has = ", ".join(f"{one} ({of.type})" for one, of in list(fields.items())[:6])
        raise VectorFileError(f"{name} has no column of vectors; expected lists of floats. It has {has or 'none'}.")
    return OURS if OURS in usable else usable[0] if len(usable) == 1 else usable


def _no_vectors(name: str, found: pa.Field) -> VectorFileError:
    return VectorFileError(
        f"{name}: column {found.name!r} holds {found.type}; expected lists of floats.{why_not_vectors(found)}"
    )


def _scan(batches: Batches, fields: Mapping[str, pa.Field], column: str, name: str) -> Scan:
    """One pass through the rows.

    Raises:
        ActivationShapeError: they are of different widths. TextError: a label is no text.
    """
    scan = Scan()
    label = next((one for one in LABELS if one in fields and _is_label(fields[one])), None)
    kinds = KINDS_OF_ROWS if KINDS_OF_ROWS in fields and holds_texts(fields[KINDS_OF_ROWS]) else None
    beside = [one for one in (label, kinds, *COLUMNS.values()) if one in fields and one is not None]
    for at, table in batches([column, *beside], None):
        if (numbers := _numbers(table, column)) is None:
            scan.missing += range(at, at + table.num_rows)
        else:
            widths = widths_of(numbers, column, name=name)
            if scan.width is None and widths:
                scan.width = min(widths)
            if widths != {scan.width} and widths:
                read_vectors(numbers, column, name=name, first=at, width=scan.width, nulls_as_nan=True)
            scan.missing += (at + np.flatnonzero(numbers[column].is_null().to_numpy())).tolist()
        if label is not None:
            scan.labels += _texts(table, label, name, at)
        if kinds is not None:
            scan.kinds += _texts(table, kinds, name, at)
        if (layers := COLUMNS["layer"]) in fields:
            scan.layers += table[layers].to_pylist() if layers in table.column_names else [None] * table.num_rows
        scan.facts += facts_of_rows(table, at)
        scan.count = at + table.num_rows
    return scan


def _is_label(one: pa.Field) -> bool:
    return holds_texts(one) or pa.types.is_integer(one.type)


def _texts(table: pa.Table, column: str, name: str, first: int) -> list[object]:
    if column not in table.column_names:
        return [None] * table.num_rows
    if holds_texts(table.schema.field(column)):
        return list(texts_of(table, column, name=name, first=first))
    return table[column].to_pylist()


def _numbers(table: pa.Table, column: str) -> pa.Table | None:
    """A table whose column holds vectors; None: of nulls only, as a batch of JSON may be."""
    if column not in table.column_names or pa.types.is_null(table.schema.field(column).type):
        return None
    return table


# --- what is told -------------------------------------------------------------------------------------------------
def _found(
    scan: Scan, facts: Sequence[RowFacts], stated: Stated, column: str, batches: Batches, tool: str, name: str
) -> Found:
    if not scan.count:
        raise EmptyBatchError(f"{name} holds no rows; expected at least one.")
    missing, questions = frozenset(scan.missing), []
    said = {one for row, one in enumerate(scan.kinds) if row not in missing}
    said = said if said & set(KINDS) else set()  # or the column means something else
    kind = stated.kind or ("activation" if column == OURS and not said else None)
    if kind is None and len(said) == 1:
        kind = as_kind(next(iter(said)))
    if kind is None:
        several = f"its column {KINDS_OF_ROWS} says {', '.join(sorted(map(str, said)))}"
        questions.append(Question("kind", several if said else f"a column {column} may hold any", KIND))
    layers, silent = _layers(scan, facts, stated)
    if silent:
        some = f"row {silent[0]} does not say it"
        where = some if scan.layers else "neither a column nor a sidecar says it"
        questions.append(Question("layer", f"{where}; {LAYER}"))
    model = stated.model or common(facts).model
    labels = tuple(f"#{row}" if one is None else str(one) for row, one in enumerate(scan.labels)) or None

    def rows(wanted: Sequence[int]) -> np.ndarray:
        array = np.full((len(wanted), scan.width or 0), np.nan, dtype=np.float32)
        at_row = np.asarray(wanted, dtype=np.int64)
        for at, table in batches([column], wanted):
            inside = np.flatnonzero((at_row >= at) & (at_row < at + table.num_rows))
            if len(inside) and (numbers := _numbers(table, column)) is not None:
                found = read_vectors(numbers, column, name=name, first=at, width=scan.width, nulls_as_nan=True)
                array[inside] = found[at_row[inside] - at]
        return array

    found = Found(
        tool=tool,
        count=scan.count,
        width=scan.width or 0,
        read=rows,
        kind=kind,
        layer=None if silent else layers,
        model=model,
        labels=labels,
        missing=missing,
        assumed=(f"the vectors are those of column {column}",),
        questions=tuple(questions),
        unknown=() if model else ("the model they are of",),
    )
    return found if silent else found.at(stated.layer, name)


def _layers(scan: Scan, facts: Sequence[RowFacts], stated: Stated) -> tuple[int | tuple[int, ...] | None, list[int]]:
    """The layer of all rows or of each: as their column says, else their sidecar, else the caller; and the rows with a
    vector of which nobody says it."""
    if stated.layer is not None and not isinstance(stated.layer, int):
        return as_layers(stated.layer, scan.count), []
    of_all = _number(next((said.get("layer") for where, said in facts if where == "its sidecar"), None))
    of_all = stated.layer if of_all is None else of_all
    said = [_number(one) for one in scan.layers] or [of_all] * scan.count
    missing = set(scan.missing)
    layers = [of_all if one is None and row not in missing else one for row, one in enumerate(said)]
    silent = [row for row, one in enumerate(layers) if one is None and row not in missing]
    # Of a null that says none: nobody reads it, and it is of no layer that is asked for.
    known = NO_LAYER if stated.layer is not None else next((one for one in layers if one is not None), 0)
    filled = tuple(known if one is None else one for one in layers)
    return (filled[0] if len(set(filled)) == 1 else filled), silent


def _number(said: object) -> int | None:
    """A layer as columns and sidecars write it."""
    text = str(said).strip()
    return int(text) if re.fullmatch(r"-?[0-9]{1,6}", text) else None
