"""Rows out: parquet, JSON lines, JSON, CSV, .npy; a row group of them in memory at most."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ...errors import ChunkError, InputError
from ..files import atomic, sha256_of
from ..sidecars import write_sidecar
from ..tables import holds_vectors, rechunk, usable_vectors
from .stores import name_of

FORMATS = {".parquet": "parquet", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".csv": "csv", ".npy": "npy"}
ROWS_PER_GROUP = 4096


def pick_format(out: str, asked: str | None) -> str:
    """The format to write: what was asked for, else what the suffix says.

    Raises:
        InputError: neither says one.
    """
    form = asked or FORMATS.get(PurePath(name_of(out)).suffix.lower())
    if form is None:
        raise InputError(f"{out} has no suffix that says its format; use {', '.join(FORMATS)}, or --format.")
    return form


def json_lines(table: pa.Table, hidden: Sequence[str] = ()) -> Iterator[str]:
    """One JSON object a row, without the `hidden` columns; NaN becomes null, as JSON has no NaN."""
    for row in table.drop_columns([name for name in hidden if name in table.column_names]).to_pylist():
        try:
            yield json.dumps(row, ensure_ascii=False, default=str, allow_nan=False)
        except ValueError:
            yield json.dumps(_without_nan(row), ensure_ascii=False, default=str)


def _without_nan(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    return [_without_nan(item) for item in value] if isinstance(value, list) else value


def _is_vector(field: pa.Field) -> bool:
    """Whether a column holds vectors, rather than lists of ids."""
    return holds_vectors(field) and pa.types.is_floating(_numbers(field))


def _numbers(field: pa.Field) -> pa.DataType:
    """Of what type the numbers of a column of vectors or lists are."""
    return getattr(field.type, "storage_type", field.type).value_type


def _cell(value: Any) -> Any:
    """What stands in a cell: a list or an object as JSON, a missing number as nothing."""
    if isinstance(value, (dict, list)):
        return json.dumps(_without_nan(value), ensure_ascii=False, default=str)
    if isinstance(value, bool):
        return str(value).lower()
    return _without_nan(value)


def write_tables(
    path: Path, form: str, tables: Iterator[pa.Table], *, rows: int, vectors: str | None, hidden: Sequence[str] = ()
) -> None:
    """Write tables of one schema to one file, holding no more than a row group of them.

    Args:
        form: "parquet", "jsonl", "json", "csv" or "npy".
        rows: how many there are in all.
        vectors: the column a .npy file holds.
        hidden: columns left out of JSON; CSV holds no vectors at all.
    """
    first = next(tables)
    tables = chain([first], tables)
    if form == "parquet":
        with pq.ParquetWriter(path, first.schema, compression="zstd") as writer:
            for table in rechunk(tables, ROWS_PER_GROUP):
                writer.write_table(table.combine_chunks())
    elif form == "npy":
        header = {"descr": "<f4", "fortran_order": False, "shape": (rows, first.schema.field(vectors).type.list_size)}
        with path.open("wb") as file:
            np.lib.format.write_array_header_1_0(file, header)
            for table in tables:
                file.write(usable_vectors(table, vectors).astype("<f4").tobytes())
    elif form == "csv":
        with path.open("w", encoding="utf-8", newline="") as file:
            kept = [field.name for field in first.schema if field.name not in hidden and not _is_vector(field)]
            writer = csv.writer(file)  # RFC 4180: CRLF, and quotes around what holds a comma, a quote or a line break
            writer.writerow(kept)
            for table in tables:
                for row in table.select(kept).to_pylist():
                    writer.writerow([_cell(value) for value in row.values()])
    else:
        before, between, after = ("", "\n", "\n") if form == "jsonl" else ("[\n", ",\n", "\n]\n")
        with path.open("w", encoding="utf-8", newline="\n") as file:
            for number, line in enumerate(line for table in tables for line in json_lines(table, hidden)):
                file.write((between if number else before) + line)
            file.write(after)


def write_stream(
    path: Path, tables: Iterable[pa.Table], meta: Mapping[str, Any], schema: pa.Schema | None = None
) -> Path:
    """One parquet file from a stream of tables, atomically, with its sidecar; memory holds one of them at a time.

    Args:
        meta: goes into the sidecar, beside row count, hash and code version.
        schema: of a file without rows.
    Returns:
        `path`.
    Raises:
        ChunkError: there are no rows, and no schema either.
    """
    rows, writer = 0, None
    with atomic(path) as sibling:
        try:
            for table in tables:
                if writer is None:
                    writer = pq.ParquetWriter(sibling, table.schema, **encoding_of(table.schema))
                writer.write_table(table)
                rows += table.num_rows
            if writer is None:
                if schema is None:
                    raise ChunkError(
                        f"No rows for {path.name}: everything was dropped ({meta.get('drops') or 'no input'})."
                    )
                writer = pq.ParquetWriter(sibling, schema, **encoding_of(schema))
        finally:
            if writer is not None:
                writer.close()
        digest = sha256_of(sibling)
        # The sidecar first: a table without its sidecar would look finished and be without its history.
        write_sidecar(path, {**meta, "rows": rows, "sha256": digest})
    return path


def encoding_of(schema: pa.Schema) -> dict[str, Any]:
    """How a table is written: compressed, and vectors byte by byte and without a dictionary.

    A dictionary makes vectors half as large again. All first bytes, then all second ones (BYTE_STREAM_SPLIT) compress
    better than number by number, values that were bfloat16 most of all, and take no longer. Not float16, which DuckDB
    cannot read so (findings/duckdb-half-floats-split.sh).
    """
    flat = [field.name for field in schema if not pa.types.is_nested(field.type)]
    wide = [field.name for field in schema if _is_vector(field) and not pa.types.is_float16(_numbers(field))]
    split = {f"{name}.list.element": "BYTE_STREAM_SPLIT" for name in wide}
    return {"compression": "zstd", "use_dictionary": flat, "column_encoding": split or None}
