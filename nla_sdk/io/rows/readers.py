"""Rows of one file, from any row on, in tables of bounded size: .npy, parquet, plain text, JSON lines.

Each function here takes the file and its `name` in messages. What is malformed is an InputError when it is reached.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import TextIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ...errors import ActivationShapeError, InputError, TextError, first_line
from ..parsing import parse_json
from ..tables import vector_column, why_unreadable
from ..text import BOM, ENCODING, half_in, not_utf8, refuse_pointer
from .stores import READ_AHEAD, Stored

ROWS_PER_READ = 256

Reader = Callable[[int], Iterator[pa.Table]]
"""Tables of consecutive rows, from the row given."""


def npy_rows(path: Path, name: str) -> Reader:
    """[d] or [n, d] of any kind of number, as a column activation_vector."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise InputError(f"{name} is not a readable .npy file of numbers: {first_line(error)}") from None
    if not isinstance(array, np.ndarray):  # np.load goes by the content: a renamed .npz
        raise InputError(f"{name} is a .npz file: np.save one of its arrays as .npy: {', '.join(array.files)}.")
    if array.dtype.str == "|V2":
        raise ActivationShapeError(
            f"{name} holds {array.dtype}, two bytes of no type: most likely bfloat16. Say --vectors-dtype bfloat16 (or "
            "float16) where INPUT may be vectors of other tools, or save array.astype('float32')."
        )
    if array.ndim not in (1, 2) or array.dtype.kind not in "fiu" or 0 in array.shape[-1:]:
        raise ActivationShapeError(
            f"{name} holds {array.dtype} of shape {array.shape}; expected numbers of shape [d_model] or [n, d_model]."
            + (
                " Of [batch, seq, d_model] nla explain and round-trip read the tokens with --vectors."
                * (array.ndim == 3)
            )
        )
    array = array.reshape(-1, array.shape[-1])

    def read(start: int) -> Iterator[pa.Table]:
        for first in range(start, len(array), ROWS_PER_READ):
            yield pa.table({"activation_vector": vector_column(array[first : first + ROWS_PER_READ])})

    return read


def parquet_rows(path: Path | Stored, name: str) -> Reader:
    """The columns as they are; rows before the first one wanted are skipped by row groups."""
    buffer = READ_AHEAD if isinstance(path, Stored) else 1 << 20

    def read(start: int) -> Iterator[pa.Table]:
        try:
            # Buffered and unbuffered-ahead, a file of one huge row group is read page by page.
            with (
                nullcontext(path) if isinstance(path, Path) else path.opened() as source,
                pq.ParquetFile(source, buffer_size=buffer, pre_buffer=False) as file,
            ):
                group = 0
                while group < file.num_row_groups and start >= file.metadata.row_group(group).num_rows:
                    start -= file.metadata.row_group(group).num_rows
                    group += 1
                for batch in file.iter_batches(ROWS_PER_READ, row_groups=range(group, file.num_row_groups)):
                    if start < batch.num_rows:
                        yield pa.Table.from_batches([batch.slice(start)]).replace_schema_metadata(None)
                    start = max(0, start - batch.num_rows)
        except (pa.ArrowException, OSError) as error:
            raise InputError(f"{name} is not a readable parquet file: {why_unreadable(error)}") from None

    return read


def text_rows(path: Path, name: str, column: str, lines: bool) -> Reader:
    """UTF-8 text as one row of `column`, or one row a line."""

    def read(start: int) -> Iterator[pa.Table]:
        # A file's last line break ends it and is not part of its text.
        with path.open(encoding=ENCODING) as file:
            try:
                texts = (line.rstrip("\r\n") for line in file) if lines else iter([file.read().rstrip("\r\n")])
                texts = islice(texts, start, None)
                while batch := list(islice(texts, ROWS_PER_READ)):
                    if not start:
                        refuse_pointer(batch[0], name)
                    yield pa.table({column: batch})
            except UnicodeDecodeError as error:
                raise InputError(f"{name} {not_utf8(path, error)}.") from None

    return read


def json_rows(path: Path, name: str) -> Reader:
    """One JSON object a line; a key that comes late is a column whose earlier rows are null."""

    def rows(file: TextIO) -> Iterator[dict]:
        for number, line in enumerate(file, 1):
            line = line.removeprefix(BOM)  # of a file that was appended to this one
            if not line.strip():
                continue
            try:
                row = parse_json(line)
            except ValueError as error:
                reason = getattr(error, "msg", None) or first_line(error)
                raise InputError(f"{name}, line {number}: not JSON ({reason}); expected one object a line.") from None
            if not isinstance(row, dict):
                raise InputError(f"{name}, line {number}: a {type(row).__name__}; expected one JSON object a line.")
            # The file is UTF-8, so half a pair can only have been escaped.
            if "\\u" in line and (where := half_in(row)):
                raise TextError(
                    f"{name}, line {number}: {where} holds half a surrogate pair, which is no text. Leave the line "
                    "out, or repair it where it was written."
                )
            yield row

    def read(start: int) -> Iterator[pa.Table]:
        with path.open(encoding=ENCODING) as file:
            try:
                wanted = islice(rows(file), start, None)
                while batch := list(islice(wanted, ROWS_PER_READ)):
                    names = dict.fromkeys(key for row in batch for key in row)
                    columns = {key: _column(key, [row.get(key) for row in batch], name) for key in names}
                    # A table of no columns has no rows, but one of which none is left has.
                    yield pa.table(columns) if columns else pa.table({"": pa.nulls(len(batch))}).select([])
            except UnicodeDecodeError as error:
                raise InputError(f"{name} {not_utf8(path, error)}.") from None

    return read


def _column(key: str, values: list, name: str) -> pa.Array:
    try:
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
        raise InputError(f"{name}: the values of {key!r} are of different kinds: {first_line(error)}") from None
