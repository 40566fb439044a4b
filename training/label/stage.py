"""The label stage: every split's texts → one table of labels per label set, row for row.

Reads `<out>/split/{av_sft,ar_sft,validation,eval}.parquet` (never their vectors), writes
`<out>/labels/<set>/<split>.parquet`. The tables of two sets differ in their labels only, so a labeler is ablated by
building from another set: nothing is labelled again.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from nla_sdk.errors import InputError
from nla_sdk.io.chunks import Chunks, is_finished
from nla_sdk.io.files import sha256_of
from nla_sdk.io.progress import progress_bar
from nla_sdk.io.sidecars import CARRIED, read_sidecar
from nla_sdk.io.tables import batches_of, open_parquet, require_texts
from nla_sdk.jobs.cluster.stages import Spread

from ..configs.config import Config
from ..configs.label import LabelSet, ProviderSettings
from ..runs.results import keep
from .budget import Budget, Prices, check_priced
from .cache import Cache, default_path
from .cluster.actors import Labelling, Making, by_actors
from .faults import LabelError
from .passes import SCHEMA, Passes, label_rows, prompt_sha256

READ = ("row_id", "doc_id", "detokenized_text_truncated", "next_tokens")
NO_LABEL = ("failed", "none")
GIVE_UP = 20
"""A chunk of at least this many rows that all failed is an outage, not bad luck: the stage stops."""


@dataclass(frozen=True)
class Table:
    """One table to make."""

    label_set: LabelSet
    split: str
    source: Path
    target: Path
    chunks: Chunks


def run(
    config: Config, *, overwrite: bool = False, push_dataset: str | None = None, spread: Spread | None = None
) -> Path:
    """Label; returns the folder of the label sets.

    Args:
        spread: gives the actors that ask the providers; None: this process does.
    Raises:
        InputError: a split, price or label file is missing or malformed.
        LabelError: labelling cannot go on; what was done is kept, and the same call goes on from there.
        ClusterError: there are no such actors, or a chunk has ended two of them.
    """
    folder, settings = config.out / "labels", config.label
    prices = Prices.load(settings.prices)
    if settings.max_usd is not None:
        everyone = (provider for each in settings.sets for provider in (*each.providers, *each.auditors))
        check_priced(everyone, prices, settings.prices)
    budget, cache = Budget(settings.max_usd, settings.max_calls), None
    file = (settings.cache or default_path()).absolute()
    try:
        for label_set in settings.sets:
            tables = [_table(config, label_set, split) for split in label_set.splits if split in config.split.names]
            todo = [
                table for table in tables if not is_finished(table.target, table.chunks.identity, overwrite=overwrite)
            ]
            for table in tables:
                if table not in todo:
                    keep(config, table.target, push_dataset)
                    table.chunks.remove()
            if not todo:
                continue
            with ExitStack() as stack:
                if spread is None:
                    cache = cache or Cache(file)
                    passes = Passes(label_set, settings, prices, cache, budget, config.marker)
                    make, answers = partial(_here, stack.enter_context(closing(passes))), cache
                else:
                    unit = Labelling(label_set, settings, prices, config.marker)
                    make, answers = stack.enter_context(by_actors(spread, unit, file, budget))
                for table in todo:
                    with table.chunks.kept_on_stop(f"label {table.label_set.name}/{table.split}"):
                        _make(config, table, make, push_dataset)
                    answers.forget(table.chunks.identity)
    finally:
        if cache is not None:
            cache.close()
        if budget.calls:
            print(
                f"{budget.calls} calls, {budget.faults} of them faults, ${budget.usd:.4f}", file=sys.stderr, flush=True
            )
    return folder


def _table(config: Config, label_set: LabelSet, split: str) -> Table:
    source = config.out / "split" / f"{split}.parquet"
    if not source.is_file():
        raise InputError(f"{source} does not exist: run `python -m training.data.split` first.")
    facts = {
        "set": label_set.name,
        "split": split,
        "input": sha256_of(source),
        "providers": [_facts(provider) for provider in label_set.providers],
        "auditors": [_facts(auditor) for auditor in label_set.auditors],
        "prompts": _prompts(label_set),
        "marker": config.marker,
        "rows_per_chunk": config.label.rows_per_chunk,
    }
    target = config.out / "labels" / label_set.name / f"{split}.parquet"
    return Table(label_set, split, source, target, Chunks(config.out / "chunks", "label", facts))


def _facts(provider: ProviderSettings) -> dict:
    """What labels depend on; how long to wait and where the program is are not of it."""
    facts = provider.model_dump(mode="json", exclude={"timeout", "command", "key_env", "path"})
    if provider.path is not None:
        if not provider.path.is_file():
            raise InputError(f"Cannot read the labels {provider.path}: no such file.")
        facts["sha256"] = sha256_of(provider.path)
    return facts


def _prompts(label_set: LabelSet) -> list[str]:
    auditors = label_set.auditors or [None]
    return [prompt_sha256(labeler, auditor) for labeler in label_set.providers for auditor in auditors]


def _make(config: Config, table: Table, make: Making, push_dataset: str | None) -> None:
    """One table, chunk by chunk."""
    file, chunks, name = open_parquet(table.source), table.chunks, f"{table.label_set.name}/{table.split}"
    columns = _columns(file, table.source)
    bar = progress_bar(file.metadata.num_rows, "row", f"label {name}")

    def given() -> Iterator[tuple[int, pa.Table]]:
        first = 0
        for index, batch in enumerate(batches_of(table.source, config.label.rows_per_chunk, columns)):
            if chunks.has(index):
                bar.update(batch.num_rows)
            else:
                require_texts(batch, columns[:1], str(table.source), first)
                yield index, pa.table(batch)
            first += batch.num_rows

    with closing(bar):
        for index, made in make(chunks.identity, given(), bar):
            notes = [note for status, note in _statuses(made) if status == "failed"]
            if len(notes) == len(made) and (len(made) >= GIVE_UP or len(made) == file.metadata.num_rows):
                raise LabelError(
                    f"{name}: none of {len(made)} rows could be labelled, the last one because: {notes[-1]}. "
                    "Everything done before is kept."
                )
            chunks.write(index, {"labels": made})
    about = _about(chunks.tables("labels"))
    if about["rows_by_status"] and set(about["rows_by_status"]) == {"failed"}:
        chunks.remove()
        raise LabelError(f"{name}: no row could be labelled: {next(iter(about['rows_without_label']))}.")
    source = read_sidecar(table.source)
    meta = {key: source[key] for key in CARRIED if key in source} | {
        "inputs": {table.source.name: sha256_of(table.source)},
        "split": table.split,
        "label_set": table.label_set.name,
        "providers": [provider.name for provider in table.label_set.providers],
        "auditors": [auditor.name for auditor in table.label_set.auditors],
        **about,
    }
    chunks.finish("labels", table.target, meta, schema=SCHEMA)
    keep(config, table.target, push_dataset)
    chunks.remove()
    _report(name, about, table.target)


def _here(passes: Passes, run: str, given: Iterator[tuple[int, pa.Table]], bar: tqdm) -> Iterator[tuple[int, pa.Table]]:
    """Chunks of rows to chunks of labels, in this process."""
    passes.run = run

    def show() -> None:
        if passes.calls:
            bar.set_postfix(usd=f"{passes.budget.usd:.4f}", faults=passes.budget.faults, refresh=False)
        bar.update(1)

    for index, rows in given:
        yield index, pa.Table.from_pylist(label_rows(rows.to_pylist(), passes, show), schema=SCHEMA)


def _columns(file: pq.ParquetFile, path: Path) -> list[str]:
    names = file.schema_arrow.names
    if missing := [name for name in READ if name not in names and name != "next_tokens"]:
        raise InputError(f"{path} has no column {', '.join(missing)} (it has {', '.join(names)}): make it again.")
    return [name for name in READ if name in names]


def _about(tables: Iterable[pa.Table]) -> dict:
    """What the sidecar says of a finished table's labels."""
    statuses: Counter[str] = Counter()
    labelers: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    tokens, cost = 0, 0.0
    for table in tables:
        statuses.update(table["label_status"].to_pylist())
        labelers.update(name for name in table["labeler_model"].to_pylist() if name)
        for status, note in _statuses(table):
            if status in NO_LABEL:
                reasons[note] += 1
        tokens += sum(table["tokens"].to_pylist())
        cost += sum(usd or 0.0 for usd in table["cost_usd"].to_pylist())
    return {
        "rows_by_status": dict(sorted(statuses.items())),
        "rows_by_labeler": dict(sorted(labelers.items())),
        "rows_without_label": dict(sorted(reasons.most_common(10), key=lambda pair: (-pair[1], pair[0]))),
        "tokens": tokens,
        "cost_usd": round(cost, 6),
    }


def _statuses(table: pa.Table) -> Iterator[tuple[str, Any]]:
    """Of each row, and the note beside it."""
    return zip(table["label_status"].to_pylist(), table["label_note"].to_pylist(), strict=True)


def _report(name: str, about: dict, target: Path) -> None:
    statuses = ", ".join(f"{count} {status}" for status, count in about["rows_by_status"].items())
    print(f"{name}: {statuses or 'no rows'}", file=sys.stderr, flush=True)
    for reason, count in about["rows_without_label"].items():
        print(f"  {count} without a label: {reason}", file=sys.stderr, flush=True)
    if about["rows_by_status"].get("failed"):
        print(
            f"  To try the failed ones again, delete {target} and run the same command: the rest comes from the cache.",
            file=sys.stderr,
            flush=True,
        )
