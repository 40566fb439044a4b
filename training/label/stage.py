"""The label stage: every split's texts → one table of labels per label set, row for row.

Reads `<out>/split/{av_sft,ar_sft,validation,eval}.parquet` (never their vectors), writes
`<out>/labels/<set>/<split>.parquet`. The tables of two sets differ in their labels only, so a labeler is ablated by
building from another set: nothing is labelled again.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from nla_sdk.errors import InputError
from nla_sdk.io.chunks import Chunks, is_finished
from nla_sdk.io.files import sha256_of
from nla_sdk.io.progress import progress_bar
from nla_sdk.io.sidecars import CARRIED, read_sidecar
from nla_sdk.io.tables import batches_of, open_parquet, require_texts

from ..configs.config import Config
from ..configs.label import LabelSet, ProviderSettings
from ..runs.results import keep
from .budget import Budget, Prices, check_priced
from .cache import Cache, default_path
from .faults import LabelError
from .parallel import in_parallel
from .passes import Passes, prompt_sha256

SCHEMA = pa.schema(
    [
        pa.field("row_id", pa.string(), nullable=False),
        pa.field("doc_id", pa.string()),
        pa.field("api_explanation", pa.string()),
        pa.field("label_status", pa.string(), nullable=False),
        pa.field("labeler_model", pa.string()),
        pa.field("auditor_model", pa.string()),
        pa.field("prompt_sha256", pa.string(), nullable=False),
        pa.field("tokens", pa.int32(), nullable=False),
        pa.field("cost_usd", pa.float64()),
        pa.field("label_note", pa.string()),
    ]
)
"""A label table: one row per row of the split, in its order. `api_explanation` is null unless the status is accepted or
repaired; the other statuses are rejected (by the auditor), failed (no provider answered) and none (not in the file)."""

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


def run(config: Config, *, overwrite: bool = False, push_dataset: str | None = None) -> Path:
    """Label; returns the folder of the label sets.

    Raises:
        InputError: a split, price or label file is missing or malformed.
        LabelError: labelling cannot go on; what was done is kept, and the same call goes on from there.
    """
    folder, settings = config.out / "labels", config.label
    prices = Prices.load(settings.prices)
    if settings.max_usd is not None:
        everyone = (provider for each in settings.sets for provider in (*each.providers, *each.auditors))
        check_priced(everyone, prices, settings.prices)
    budget, cache = Budget(settings.max_usd, settings.max_calls), None
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
            cache = cache or Cache(settings.cache or default_path())
            with closing(Passes(label_set, settings, prices, cache, budget, config.marker)) as passes:
                for table in todo:
                    with table.chunks.kept_on_stop(f"label {table.label_set.name}/{table.split}"):
                        _make(config, table, passes, push_dataset)
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


def _make(config: Config, table: Table, passes: Passes, push_dataset: str | None) -> None:
    """One table, chunk by chunk."""
    file, chunks, name = open_parquet(table.source), table.chunks, f"{table.label_set.name}/{table.split}"
    passes.run = chunks.identity
    bar = progress_bar(file.metadata.num_rows, "row", f"label {name}")
    with closing(bar):
        columns = _columns(file, table.source)
        batches = batches_of(table.source, config.label.rows_per_chunk, columns)
        for index, batch in enumerate(batches):
            if chunks.has(index):
                bar.update(batch.num_rows)
                continue
            require_texts(batch, columns[:1], str(table.source), bar.n)
            made = _label(batch.to_pylist(), passes, bar)
            failed = [row for row in made if row["label_status"] == "failed"]
            if len(failed) == len(made) and (len(made) >= GIVE_UP or len(made) == file.metadata.num_rows):
                raise LabelError(
                    f"{name}: none of {len(made)} rows could be labelled, the last one because: "
                    f"{failed[-1]['label_note']}. Everything done before is kept."
                )
            chunks.write(index, {"labels": pa.Table.from_pylist(made, schema=SCHEMA)})
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
    passes.cache.forget(chunks.identity)
    _report(name, about, table.target)


def _columns(file: pq.ParquetFile, path: Path) -> list[str]:
    names = file.schema_arrow.names
    if missing := [name for name in READ if name not in names and name != "next_tokens"]:
        raise InputError(f"{path} has no column {', '.join(missing)} (it has {', '.join(names)}): make it again.")
    return [name for name in READ if name in names]


def _label(rows: list[dict], passes: Passes, bar: tqdm) -> list[dict]:
    """The finished rows, in their order."""
    made: list[dict] = [{} for _ in rows]
    calls = bool(passes.auditors) or not all(labeler.settings.is_offline for labeler in passes.labelers)
    threads = passes.settings.concurrency if calls else 1
    with closing(in_parallel(passes.label, rows, threads, passes.stop)) as done:
        for index, labelled in done:
            made[index] = {"row_id": rows[index]["row_id"], "doc_id": rows[index]["doc_id"], **labelled}
            if calls:
                bar.set_postfix(usd=f"{passes.budget.usd:.4f}", faults=passes.budget.faults, refresh=False)
            bar.update(1)
    return made


def _about(tables: Iterable[pa.Table]) -> dict:
    """What the sidecar says of a finished table's labels."""
    statuses: Counter[str] = Counter()
    labelers: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    tokens, cost = 0, 0.0
    for table in tables:
        statuses.update(table["label_status"].to_pylist())
        labelers.update(name for name in table["labeler_model"].to_pylist() if name)
        for status, note in zip(table["label_status"].to_pylist(), table["label_note"].to_pylist(), strict=True):
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
