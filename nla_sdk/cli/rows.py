"""What the four commands on rows do alike: open INPUT, load the pair, work through it, write or print."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from ..imports import uncollected
from ..io.progress import progress_bar, say
from ..jobs.faults import SetAsideError
from .options import EngineOptions, OutputOptions, PairOptions, VectorOptions
from .terminal import ClaimSummary, RowTable
from .vectors.inputs import names_vectors, open_vectors, shown_as

if TYPE_CHECKING:
    import pyarrow as pa

    from ..io.origins import Origin, RowFacts
    from ..io.rows.row_source import RowSource
    from ..jobs.cluster.pool import Pool
    from ..jobs.local import Target
    from ..jobs.unit import Unit
    from ..jobs.work import Work

ROWS_PER_CHUNK = {"explain": 64, "round_trip": 64, "extract": 64, "reconstruct": 512}
"""What a killed run loses at most; the first two are a batch of the AV's, about a minute on a laptop."""
CHUNKS_OF_A_SERVER = 8
"""So many chunks are one where a server writes, which is idle while the last rows of one end."""
LOOKED_FOR = {
    "explain": ("activation_vector", "text"),
    "round_trip": ("activation_vector", "text"),
    "extract": ("text", "detokenized_text_truncated"),
    "reconstruct": ("api_explanation", "explanation"),
}
"""Columns of INPUT that are read, in this order, unless --column names one."""


def form_of(output: OutputOptions) -> str | None:
    """The form of results: of a file what `--format` or its suffix says, else jsonl, table, or None for a table too.

    Raises:
        InputError: a table in a file, or on stdout what is for files.
    """
    from ..io.rows import formats

    form = "jsonl" if output.json else output.format and output.format.value
    if output.out is not None and form != "table":
        return formats.pick_format(output.out, form)
    if output.out is not None or form not in (None, "table", "jsonl"):
        raise InputError(
            "Tables are for the terminal; parquet, npy, csv, json are for files: give -o and one of these."
        )
    return form


def process(
    command: str,
    given: str,
    pair_options: PairOptions,
    output: OutputOptions,
    engine: EngineOptions,
    positions: str | None = None,
    options: dict[str, Any] | None = None,
    watch: Callable[[pa.Table], None] | None = None,
    vectors: VectorOptions | None = None,
    *,
    check: bool = False,
) -> None:
    """Do one of the four.

    Args:
        command: its name, that of a function of nla_sdk.jobs.work.
        given: INPUT.
        options: its options beside `positions`.
        watch: is shown every table of results.
        vectors: what INPUT's vectors are; None: it holds texts.
        check: whether the claims of explanations are checked.
    """
    with uncollected():
        from ..io.files import sha256_of
        from ..io.origins import facts_of_rows
        from ..io.rows import sources
        from ..jobs import local as jobs
        from ..jobs.facts import Told
        from ..jobs.unit import Unit
        from ..jobs.vectors import VectorRows
        from ..jobs.work import origin_of

    options = options or {}
    if vectors is not None and names_vectors(given, said=vectors.needed_for(given), as_text=output.as_text):
        where = {"layer": options.pop("layer", None), "column": output.column}
        source = open_vectors(given, vectors, **where, local_files_only=pair_options.local_files_only)
    else:
        kinds = (sources.TEXTS,) if vectors is None else (sources.VECTORS, sources.TEXTS)
        source = sources.open_source(
            given,
            LOOKED_FOR[command],
            column=output.column,
            holds=kinds,
            lines=command == "reconstruct",
            as_text=output.as_text,
        )
    if vectors is not None:
        options |= shown_as(source, vectors)
    result = {"extract": "activation_vector", "reconstruct": "reconstruction"}.get(command)
    hidden = {source.column, "activation_vector"} if source.holds == sources.VECTORS else {"activation_vector"}
    hidden = sorted(hidden - {result})
    form, target = form_of(output), None
    if output.out is not None:
        target = jobs.Target.at(output.out, str(form), result, hidden, output.overwrite)
        target.refuse_early()
    spread = engine.refuse_early(output.out)
    said: list[RowFacts] = []
    count = source.check(
        empty_texts=command == "reconstruct", watch=lambda table, first: said.extend(facts_of_rows(table, first))
    )
    options |= {} if positions is None else {"positions": parse_positions(positions)}
    told = pair_options.told()
    size = chunk_rows(command, source.holds, options.get("positions"))
    size *= CHUNKS_OF_A_SERVER if told.get("av_engine") else 1
    unit = Unit(command, Told.of(source), told, options, check)

    def read_by(reads: Origin, types: Sequence[str] | None = None) -> Origin | None:
        if command == "reconstruct" or (types is None and isinstance(source, VectorRows)):  # these may name a type
            return None
        how = {"layer": options.get("layer"), "force": options.get("force", False)}
        return origin_of(reads, source, said, types=types or (), **how)

    with ExitStack() as stack:
        with _kept_on_stop(target):
            pool = stack.enter_context(opened(unit, engine, read_by)) if spread else None
            about = unit.about() if pool is None else pool.about
            origin = read_by(about.origin, about.types)
        if pool is None:
            unit.prepare()
        claims = ClaimSummary(about.calibration) if check else None
        watch = _watched_by(watch, claims and claims.add)
        if target is None:
            print_rows(command, source, count, unit, size, hidden, as_json=form == "jsonl", vectors=result, watch=watch)
            if claims is not None:
                say(str(claims))
            return
        made_from = {
            "command": command.replace("_", "-"),
            "input": source.identity() | {"column": source.column},
            "options": options,
            "pair": dict(unit.identity() if pool is None else pool.identity),
        }
        if check:
            made_from["check"] = "receipts only" if about.calibration is None else about.calibration.digest()
        if options.get("mean"):
            made_from["mean"] = sha256_of(Path(options["mean"]))
        set_aside = jobs.run(
            source,
            count,
            unit,
            target,
            making=pool and pool.making,
            chunk_rows=size,
            made_from=made_from,
            about=about.contract,
            origin=origin,
            watch=watch,
        )
        if pool is not None:
            say(pool.summary())
    if claims is not None:
        say(str(claims))
    say(f"wrote {output.out}")
    if set_aside:
        raise SetAsideError(
            f"{set_aside} of {count} rows are not in {output.out}: each ended two actors by itself. Which, and how, "
            f"says {target.aside}."
        )


def opened(unit: Unit, engine: EngineOptions, read_by: Callable[[Origin], object]) -> AbstractContextManager[Pool]:
    """The actors of a cluster, once all that can be refused without them has been; a dry run ends here.

    Args:
        read_by: holds INPUT against what a pair reads.
    """
    with uncollected():
        from ..jobs.identity import Lying
        from ..model.statistics.means import ActivationMean

    lying = Lying.find(unit.pair)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # said again once a pair is loaded, and more is known of it
        read_by(lying.origin)
    if mean := unit.options.get("mean"):  # a file of this machine
        unit = replace(unit, options={**unit.options, "mean": ActivationMean.load(mean)})
    return engine.opened(unit, lying)


def _watched_by(*watches: Callable[[pa.Table], None] | None) -> Callable[[pa.Table], None]:
    """All of them as one."""

    def watch(table: pa.Table) -> None:
        for one in watches:
            if one is not None:
                one(table)

    return watch


@contextmanager
def _kept_on_stop(target: Target | None) -> Iterator[None]:
    """Ctrl-C while the pair is loaded: what an earlier run kept is still there."""
    try:
        yield
    except KeyboardInterrupt:
        kept = "no row was done yet"
        if target is not None and target.chunks.is_dir():
            kept = f"what was done before is kept in {target.chunks}"
        raise KeyboardInterrupt(f"stopped while loading the pair; {kept}. Run the same command again.") from None


@contextmanager
def _printed_on_stop(done: Callable[[], int], count: int | None) -> Iterator[None]:
    """Ctrl-C while results are printed: those above are all there is, unless they go to a file."""
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"stopped; {done()} of {count} rows are printed and nothing is kept. With -o FILE what is done is kept, "
            "and the same command goes on from there."
        ) from None


def print_rows(
    command: str,
    source: RowSource,
    count: int | None,
    work: Work,
    size: int,
    hidden: list[str],
    *,
    as_json: bool,
    vectors: str | None,
    watch: Callable[[pa.Table], None] | None,
) -> None:
    """Work through INPUT and print the results as they come."""
    from ..io.rows import formats

    text = "detokenized_text_truncated" if command == "extract" else source.column
    table = RowTable(command, text=text, vectors=vectors)
    first = printed = 0
    with (
        _printed_on_stop(lambda: printed, count),
        progress_bar(count, "row", source.name, shown=sys.stderr.isatty(), leave=False) as bar,
    ):
        for batch in source.batches(size):
            results = work(batch, first)
            first += batch.num_rows
            if not bar.disable:
                bar.clear()
            if as_json:
                for line in formats.json_lines(results, hidden):
                    print(line)
            else:
                table.print(results)
            sys.stdout.flush()
            printed = first
            bar.update(batch.num_rows)
            if watch is not None:
                watch(results)


def parse_positions(text: str) -> int | str | list[int]:
    """`-1`, `all` or `3,7,-1`, as `NLAPair.extract` takes them."""
    if text == "all":
        return text
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        raise InputError(f"--positions {text:.60}: expected -1, all, or a list of numbers such as 3,7,-1.") from None
    return numbers[0] if len(numbers) == 1 else numbers


def chunk_rows(command: str, holds: str, positions: int | str | list[int] | None) -> int:
    """Rows of INPUT a chunk: fewer where each is a text that is read at several positions."""
    size = ROWS_PER_CHUNK[command]
    if holds == "vectors" or positions is None or isinstance(positions, int):
        return size
    if positions == "all":
        return 8 if command == "extract" else 1
    return max(1, size // len(positions))
