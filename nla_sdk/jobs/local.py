"""Long work on a file, in pieces that are kept: kill it at any moment, run it again, and it goes on.

Results are chunks in `<out>.chunks/` (`nla_sdk.io.chunks`), with a manifest of what they are made from. When the last
one is there they are merged into OUT, which appears whole or not at all, and the folder goes. Who makes a chunk, this
process or one of a cluster, is nothing that folder or OUT know of: what one began the other finishes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from .. import __version__
from ..contract import Contract
from ..errors import InputError
from ..io.chunks import LOCK, ChunkFolder, foreign, locked
from ..io.files import atomic, sha256_of, write_json
from ..io.origins import Origin
from ..io.parsing import parse_json
from ..io.progress import progress_bar, say
from ..io.rows.formats import write_tables
from ..io.rows.row_source import RowSource
from ..io.tables import conform, unified
from .faults import SetAsideError
from .target import Target

if TYPE_CHECKING:
    from .work import Work

MADE_FROM = "manifest.json"
RESULTS, SET_ASIDE = "results", "set_aside"
Watch = Callable[[pa.Table], None]


@dataclass(frozen=True)
class Made:
    """A finished chunk.

    Attributes:
        number: which one.
        rows: that it is of.
        outputs: its tables by name, as a folder of chunks keeps them.
        note: what the progress bar says beside rate and time left.
    """

    number: int
    rows: int
    outputs: Mapping[str, pa.Table]
    note: str = ""


def outputs_of(table: pa.Table, set_aside: Mapping[int, str] | None = None) -> dict[str, pa.Table]:
    """The outputs of a chunk of INPUT.

    Args:
        table: the results.
        set_aside: rows of INPUT that have none, and why; see `Target.aside`.
    """
    row, error = pa.array(set_aside or (), pa.int64()), pa.array((set_aside or {}).values(), pa.string())
    return {RESULTS: table, SET_ASIDE: pa.table({"row": row, "error": error})}


Making = Callable[[Iterator[tuple[int, pa.Table]]], Iterator[Made]]
"""(number, rows of INPUT) of each chunk that is missing, to those chunks made, in any order."""


def run(
    source: RowSource,
    rows: int,
    work: Work,
    target: Target,
    *,
    making: Callable[[int], Making] | None = None,
    chunk_rows: int,
    made_from: dict,
    about: Contract,
    origin: Origin | None = None,
    watch: Watch | None = None,
) -> int:
    """Work through `source` and write `target`.

    Args:
        rows: how many there are.
        making: who does the work, told the rows of a chunk; None: this process, chunk after chunk.
        chunk_rows: input rows a chunk; what is lost at most when the process is killed.
        made_from: whatever decides the results, JSON-able; chunks made from something else are not mixed in.
        about: a contract of the pair, for the sidecar of a parquet file.
        origin: where the activations were read, for the same; None: as the contract says.
        watch: is shown all results, whichever run made them.
    Returns:
        How many rows have no results; `Target.aside` names them.
    Raises:
        InputError: the folder holds unfinished work of another kind, or of a process that still runs.
        SetAsideError: no row has results.
    """
    target.refuse_early()
    facts = {"rows": rows, "chunk_rows": chunk_rows, "nla_sdk": __version__} | made_from
    busy = f"Another process is writing {target}; wait for it, or pass another -o."
    with locked(target.chunks, busy):
        _claim(target, facts)
        chunks = ChunkFolder(target.chunks, "{index:08d}.{output}.parquet", "Run the same command again.")
        make = here(work, chunk_rows) if making is None else making(chunk_rows)
        _work(source, make, target, chunks, rows, chunk_rows)
        _merge(target, chunks, made_from, about, origin or _promised(about), watch)
        target.deliver()
        chunks.remove()
    target.clear()
    return chunks.rows(SET_ASIDE)


def here(work: Work, chunk_rows: int) -> Making:
    """Chunk after chunk in this process."""

    def make(given: Iterator[tuple[int, pa.Table]]) -> Iterator[Made]:
        for number, table in given:
            yield Made(number, table.num_rows, outputs_of(work(table, number * chunk_rows)))

    return make


def _claim(target: Target, facts: dict) -> None:
    """Make the folder this job's: by its own manifest, or by refusing or clearing away another job's work."""
    file = target.chunks / MADE_FROM
    facts = json.loads(json.dumps(facts))
    there = _read_facts(file)
    if there == facts:
        return
    if others := foreign(target.chunks):
        raise InputError(
            f"{target.chunks} is where unfinished work is kept, and it holds {others[0]}, which is none. Move that "
            "away, or pass another -o."
        )
    if there == {} and not target.overwrite:
        raise InputError(
            f"{file} is damaged, so nobody knows what the unfinished work beside it was made from. Pass --overwrite to "
            "start over, or another -o."
        )
    if there is not None and not target.overwrite:
        raise InputError(
            f"{target.chunks} holds unfinished work that was made from something else "
            f"({'; '.join(_differences(there, facts))}). Repeat that command to finish it, pass another -o, or "
            "pass --overwrite to start over."
        )
    for leftover in target.chunks.iterdir():
        if leftover.name != LOCK:
            leftover.unlink()
    write_json(file, facts)


def _read_facts(file: Path) -> dict | None:
    """What a folder's chunks were made from; None: nobody says. Torn facts are {}, which no work is made from."""
    try:
        found = parse_json(file.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _differences(there: dict, here: dict, path: str = "") -> Iterator[str]:
    for key in [*there, *(key for key in here if key not in there)]:
        was, now = there.get(key), here.get(key)
        if isinstance(was, dict) and isinstance(now, dict):
            yield from _differences(was, now, f"{path}{key}.")
        elif was != now:
            yield f"{path}{key}: {was} there, {now} here"


def _work(source: RowSource, make: Making, target: Target, chunks: ChunkFolder, rows: int, chunk_rows: int) -> None:
    """Make the chunks that are not there yet."""
    missing = [number for number in range(-(-rows // chunk_rows)) if not chunks.is_whole(number)]
    if not missing:
        return
    start = missing[0] * chunk_rows
    done = rows - sum(min(chunk_rows, rows - number * chunk_rows) for number in missing)
    bar = progress_bar(rows, "row", target.out.name, done=done)
    with bar:
        if done:
            say(f"{done} of {rows} rows are there already; going on")
        wanted = set(missing)
        numbered = enumerate(source.batches(chunk_rows, start), missing[0])
        try:
            for made in make((number, table) for number, table in numbered if number in wanted):
                chunks.write(made.number, made.outputs)
                done += made.rows
                bar.set_postfix_str(made.note, refresh=False)
                bar.update(made.rows)
        except KeyboardInterrupt:
            kept = f"{done} of {rows} rows are kept in {target.chunks}. Run the same command again to go on."
            raise KeyboardInterrupt(
                f"stopped; {kept}" if done else "stopped; no rows were done yet. Run the same command again."
            ) from None


def _promised(about: Contract) -> Origin:
    return Origin(about.layer, about.base_model, about.base_revision, about.extraction_precision)


def _merge(
    target: Target, chunks: ChunkFolder, made_from: dict, about: Contract, origin: Origin, watch: Watch | None
) -> None:
    """Chunks → OUT and, beside a parquet file, its sidecar; rows without results are listed beside them."""
    _list_aside(target, chunks)
    schemas = [pq.read_schema(file) for file in chunks.files(RESULTS)]
    schema = unified(schemas, f"{target} cannot be one table, a column changes its type")
    rows = chunks.rows(RESULTS)
    tables = (_shown(conform(table, schema), watch) for table in chunks.tables(RESULTS))
    with atomic(target.out) as sibling:
        write_tables(sibling, target.form, tables, rows=rows, vectors=target.vectors, hidden=target.hidden)
        if target.form == "parquet":  # the sidecar first, as a table without one has no history
            facts = {**origin.facts(), "d_model": about.d_model}
            about_file = {"rows": rows, "sha256": sha256_of(sibling), "code_version": f"nla-sdk {__version__}"}
            about_file |= {"rows_set_aside": aside} if (aside := chunks.rows(SET_ASIDE)) else {}
            sidecar = {"kind": "nla_dataset", **facts, "provenance": made_from, **about_file}
            Contract.from_dict({key: value for key, value in sidecar.items() if value is not None}).save(target.out)


def _list_aside(target: Target, chunks: ChunkFolder) -> None:
    """Write which rows have no results; where all have some, an older list goes."""
    if not (count := chunks.rows(SET_ASIDE)):
        target.aside.unlink(missing_ok=True)
        return
    with atomic(target.aside) as sibling:
        write_tables(sibling, "jsonl", chunks.tables(SET_ASIDE), rows=count, vectors=None)
    if not chunks.rows(RESULTS):
        chunks.remove()  # so that the same command tries again
        raise SetAsideError(f"None of {count} rows could be done; {target} is not written, {target.aside} says why.")


def _shown(table: pa.Table, watch: Watch | None) -> pa.Table:
    if watch is not None:
        watch(table)
    return table
