"""Long work on a file, in pieces that are kept: kill it at any moment, run it again, and it goes on.

Results are written as numbered chunk files into `<out>.chunks/`, each under its final name only when it is whole, with
a manifest of what they were made from. When the last one is there they are merged into OUT, which appears whole or not
at all, and the folder goes.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from .. import __version__
from ..contract import Contract
from ..errors import InputError
from ..io.progress import progress_bar, say
from ..io.streams import Source, sha256_of, sync, write_tables
from .work import Work

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Target:
    """Where results go.

    Attributes:
        out: the final file.
        form: its format: "parquet", "jsonl", "json" or "npy".
        vectors: the column that a .npy file holds; None if there is none.
        hidden: columns left out of JSON.
        overwrite: replace `out`, and unfinished work on something else.
    """

    out: Path
    form: str
    vectors: str | None = None
    hidden: Sequence[str] = ()
    overwrite: bool = False

    @property
    def chunks(self) -> Path:
        """The folder of unfinished work."""
        return self.out.with_name(f"{self.out.name}.chunks")

    def refuse_early(self) -> None:
        """Say at once what would only fail after the work is done.

        Raises:
            InputError: the file exists, its folder does not, or its format cannot hold the results.
        """
        if self.form == "npy" and self.vectors is None:
            raise InputError(f"{self.out}: .npy holds vectors only; write explanations to .parquet, .jsonl or .json.")
        if self.out.is_dir():
            raise InputError(f"{self.out} is a folder; expected a file name.")
        if self.out.exists() and not self.overwrite:
            raise InputError(f"{self.out} exists already. Pass --overwrite to replace it, or another -o.")
        if not self.out.absolute().parent.is_dir():
            raise InputError(f"The folder {self.out.parent} does not exist; make it first.")


def run(
    source: Source,
    rows: int,
    work: Work,
    target: Target,
    *,
    chunk_rows: int,
    made_from: dict,
    about: Contract,
    watch: Callable[[pa.Table], None] | None = None,
) -> None:
    """Work through `source` and write `target`.

    Args:
        rows: how many there are.
        chunk_rows: input rows a chunk; what is lost at most when the process is killed.
        made_from: whatever decides the results, JSON-able; chunks made from something else are not mixed in.
        about: a contract of the pair, for the sidecar of a parquet file.
        watch: is shown all results, whichever run made them.
    Raises:
        InputError: the folder holds unfinished work of another kind, or of a process that still runs.
    """
    from filelock import FileLock, Timeout

    target.refuse_early()
    manifest = {"rows": rows, "chunk_rows": chunk_rows, "nla_sdk": __version__} | made_from
    target.chunks.mkdir(exist_ok=True)
    finished = False
    lock = FileLock(target.chunks / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise InputError(f"Another process is writing {target.out}; wait for it, or pass another -o.") from None
    try:
        _claim(target, manifest)
        numbers = range(-(-rows // chunk_rows))
        _work(source, work, target, rows, chunk_rows, numbers)
        _merge(target, [_chunk(target, number) for number in numbers], made_from, about, watch)
        finished = True
    finally:
        lock.release()
        if finished or not any(target.chunks.glob("*.parquet")):  # done, or nothing to keep
            shutil.rmtree(target.chunks, ignore_errors=True)


def _claim(target: Target, manifest: dict) -> None:
    """Make the folder this job's: by its own manifest, or by refusing or clearing away another job's work."""
    file = target.chunks / MANIFEST
    manifest = json.loads(json.dumps(manifest))
    found = json.loads(file.read_text(encoding="utf-8")) if file.exists() else None
    if found is not None and found != manifest:
        if not target.overwrite:
            raise InputError(
                f"{target.chunks} holds unfinished work that was made from something else "
                f"({'; '.join(_differences(found, manifest))}). Repeat that command to finish it, pass another -o, or "
                "pass --overwrite to start over."
            )
        found = None
    if found is None:
        for leftover in target.chunks.iterdir():
            if leftover.name != ".lock":
                leftover.unlink()
        temporary = file.with_suffix(".tmp")
        temporary.write_text(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        sync(temporary)
        os.replace(temporary, file)
    for leftover in target.chunks.glob("*.tmp"):
        leftover.unlink()


def _differences(found: dict, wanted: dict, path: str = "") -> Iterator[str]:
    for key in [*found, *(key for key in wanted if key not in found)]:
        was, now = found.get(key), wanted.get(key)
        if isinstance(was, dict) and isinstance(now, dict):
            yield from _differences(was, now, f"{path}{key}.")
        elif was != now:
            yield f"{path}{key}: {was} there, {now} here"


def _chunk(target: Target, number: int) -> Path:
    return target.chunks / f"{number:08d}.parquet"


def _is_whole(chunk: Path) -> bool:
    try:
        pq.read_metadata(chunk)
    except (FileNotFoundError, pa.ArrowInvalid):
        return False
    return True


def _work(source: Source, work: Work, target: Target, rows: int, chunk_rows: int, numbers: range) -> None:
    """Make the chunks that are not there yet."""
    missing = [number for number in numbers if not _is_whole(_chunk(target, number))]
    if not missing:
        return
    start = missing[0] * chunk_rows
    done = rows - sum(min(chunk_rows, rows - number * chunk_rows) for number in missing)
    bar = progress_bar(rows, "row", target.out.name, done=done)
    with bar:
        if done:
            say(f"{done} of {rows} rows are there already; going on")
        wanted = set(missing)
        try:
            for number, table in enumerate(source.batches(chunk_rows, start), missing[0]):
                if number not in wanted:
                    continue
                temporary = _chunk(target, number).with_suffix(".tmp")
                pq.write_table(work(table, number * chunk_rows), temporary)
                sync(temporary)
                os.replace(temporary, _chunk(target, number))
                done += table.num_rows
                bar.update(table.num_rows)
        except KeyboardInterrupt:
            kept = f"{done} of {rows} rows are kept in {target.chunks}. Run the same command again to go on."
            raise KeyboardInterrupt(f"stopped; {kept}" if done else "stopped; no rows were done yet.") from None


def _merge(target: Target, chunks: Sequence[Path], made_from: dict, about: Contract, watch) -> None:
    """Chunks → OUT and, beside a parquet file, its sidecar."""
    try:
        schema = pa.unify_schemas([pq.read_schema(chunk) for chunk in chunks], promote_options="permissive")
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise InputError(f"{target.out} cannot be one table, a column changes its type: {error}") from None
    rows = sum(pq.read_metadata(chunk).num_rows for chunk in chunks)
    tables = (_shown(_as(schema, pq.read_table(chunk)), watch) for chunk in chunks)
    merged = target.chunks / "merged.tmp"
    write_tables(merged, target.form, tables, rows=rows, vectors=target.vectors, hidden=target.hidden)
    if target.form == "parquet":
        facts = {"base_model": about.base_model, "base_revision": about.base_revision, "d_model": about.d_model}
        told = {"rows": rows, "sha256": sha256_of(merged), "code_version": f"nla-sdk {__version__}"}
        sidecar = {"kind": "nla_dataset", **facts, "layer": about.layer, "provenance": made_from, **told}
        Contract.from_dict({key: value for key, value in sidecar.items() if value is not None}).save(target.out)
    os.replace(merged, target.out)
    sync(target.out.absolute().parent)


def _shown(table: pa.Table, watch) -> pa.Table:
    if watch is not None:
        watch(table)
    return table


def _as(schema: pa.Schema, table: pa.Table) -> pa.Table:
    """`table` with the schema's columns, null where it has none."""
    columns = [
        table[field.name].cast(field.type) if field.name in table.column_names else pa.nulls(table.num_rows, field.type)
        for field in schema
    ]
    return pa.table(columns, schema=schema)
