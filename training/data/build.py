"""Stage 3: activations and labels → training tables. `python -m training.data.build --config …`

Reads the splits, every label set and the `build.published` datasets; writes
`<out>/{av_sft,ar_sft,rl,validation,eval}.parquet` in the reference pipeline's column names, one row per activation and
usable label. A row goes for a reason that its table's sidecar counts; the ids of the first too-long rows stand there
too. Beside them: `statistics.json` and `activation_mean.safetensors`, what a contract needs to know of the activations,
and a report on the labels (`label_report.json`, `label_report.png`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from tqdm import tqdm

from nla_sdk.errors import ChunkError, InputError, LoadError, first_line
from nla_sdk.halves.fetch import fetch_base
from nla_sdk.io.chunks import Chunks, identity_of, is_finished
from nla_sdk.io.files import hash64, sha256_of
from nla_sdk.io.parsing import parse_json
from nla_sdk.io.progress import progress_bar
from nla_sdk.io.sidecars import CARRIED, read_sidecar
from nla_sdk.io.tables import open_parquet, read_vectors
from nla_sdk.io.text import fault_of

from ..configs.command import data_stage, run_command
from ..configs.config import Config
from ..configs.data import Build
from ..runs.results import keep
from .statistics import MEAN_FILE, STATISTICS_FILE, measure, pair_id_of
from .tables import report as label_report
from .tables.choosing import Head, by_families, spread
from .tables.columns import USABLE, Block, prompt_column, schema, table_of
from .tables.fitness import Fitness
from .tables.labelled import ROWS_PER_BLOCK, LabelledSplit, in_steps
from .tables.published import PublishedTable
from .tables.splits import HELD_OUT, SPLITS, Documents, is_held_out, no_other

TRAINING = ("av_sft", "ar_sft", "rl")
TOO_LONG_SHOWN = 20  # row ids of too-long rows in a sidecar
TOO_LONG = pa.schema([("row_id", pa.string()), ("reason", pa.string())])


def run(config: Config, *, overwrite: bool = False, push_dataset: str | None = None) -> Path:
    """Build the tables; returns the folder they are in."""
    no_other(config.out, config.split.names, overwrite=overwrite)
    build = _Build(config)
    tables = {name: _Table(build, name) for name in build.names}
    for table in tables.values():
        if not is_finished(table.path, table.chunks.identity, overwrite=overwrite):
            with table.chunks.kept_on_stop(f"build {table.name}"):
                table.make()
            dropped = ", ".join(f"{reason} {count:,}" for reason, count in table.chunks.drops().items() if count)
            tqdm.write(f"{table.path.name}: {table.chunks.rows('rows'):,} rows; dropped: {dropped or 'none'}")
        keep(config, table.path, push_dataset)
    identity = identity_of({name: table.chunks.identity for name, table in tables.items()})
    if (
        not _is_current(config.out / STATISTICS_FILE, identity, overwrite)
        or not (config.out / MEAN_FILE).is_file()
        or "mean" not in parse_json((config.out / STATISTICS_FILE).read_bytes())  # is not robust yet
    ):
        _measure(build, identity)
    labelled = [table.path for name, table in tables.items() if name != "rl"]
    if not _is_current(config.out / label_report.FILE, identity, overwrite):
        label_report.write(labelled, config.out, identity)
    for table in tables.values():
        table.chunks.remove()
    return config.out


class _Build:
    """What all tables share: where rows come from, and which documents are held out."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self._base = fetch_base(config.base).path
        self.d_model, self._vocabulary = _sizes(self._base)
        self.names = [name for name in SPLITS if name in config.split.names]
        here = [(config.out / "split" / f"{name}.parquet").is_file() for name in self.names]
        # Published rows alone make tables too; a split that is there in part is a mistake.
        self.alone = bool(config.build.published) and not any(here)
        self.splits = {} if self.alone else {name: LabelledSplit(config, name) for name in self.names}
        self.published = [PublishedTable(entry, config, self.d_model) for entry in config.build.published]
        self.about: dict[str, Any] = {"base_model": config.base_id, "d_model": self.d_model, "layer": config.layer}
        if not self.alone:
            self.about |= self._about_splits()
        self._hashes = {path: digest for one in self.published for path, digest in one.hashes.items()}
        self._held_out_texts: dict[str, set[int]] = {}
        self._documents = Documents(config.split, config.seed)

    @cached_property
    def fitness(self) -> Fitness:
        """The verified contracts; the tokenizer takes seconds to load, and finished tables need none."""
        return Fitness(self.config, _tokenizer(self._base), self.d_model, self._vocabulary)

    def _about_splits(self) -> dict[str, Any]:
        """What the split's sidecar says of its activations, held against config and base."""
        path = self.splits["av_sft"].path
        found = read_sidecar(path)
        for name, expected in self.about.items():
            if found.get(name, expected) != expected:
                raise InputError(
                    f"{path} was made with {name} {found[name]!r}, but the config and its base say {expected!r}. Run "
                    "the stages from `python -m training.data.extract` on with one config."
                )
        return {name: found[name] for name in CARRIED if name in found}

    def feeds(self, name: str) -> list[LabelledSplit | PublishedTable]:
        """Where the rows of a table come from, in order."""
        own: list[LabelledSplit | PublishedTable] = [self.splits[name]] if self.splits else []
        if name in HELD_OUT:
            return own or [one for one in self.published if one.entry.split != "rl"]
        return own + [one for one in self.published if one.entry.split == name]

    def sha256(self, path: Path) -> str:
        if path not in self._hashes:
            self._hashes[path] = sha256_of(path)
        return self._hashes[path]

    def is_held_out(self, doc_id: str) -> bool:
        return is_held_out(doc_id, self.config.split, self.config.seed)

    def held_out_texts(self, split: str) -> set[int]:
        """Keys of the texts of a held-out split: a published copy under another document id would leak them."""
        if split not in self._held_out_texts:
            self._held_out_texts[split] = {hash64(head.text) for head in self._heads(split) if head.text is not None}
        return self._held_out_texts[split]

    def _heads(self, split: str) -> Iterator[Head]:
        """The activations of a held-out split, without vectors."""
        for feed in self.feeds(split):
            for head in feed.heads():
                if isinstance(feed, LabelledSplit) or self._documents.split_of(head.doc_id, head.family) == split:
                    yield head

    def chosen(self, split: str) -> set[str]:
        """row_ids of a held-out table's activations, of those with a label: as `build.balance` says."""
        settings = self.config.build
        count = settings.eval_rows if split == "eval" else settings.validation_rows
        usable = (head for head in self._heads(split) if head.usable)
        if settings.balance == "families":
            return by_families(((head.row_id, head.doc_id, head.family) for head in usable), count)
        return spread(((head.row_id, head.doc_id) for head in usable), count)


class _Table:
    """One output table: its chunks, and which rows go into it."""

    def __init__(self, build: _Build, name: str) -> None:
        self.build, self.name, config = build, name, build.config
        self.path = config.out / f"{name}.parquet"
        self.feeds = build.feeds(name)
        # Whose texts must stay out of published rows; what eval and validation both have is of eval.
        others = build.names if build.published and name != "eval" else []
        self.watched = [one for one in HELD_OUT if one in others and one != name]
        watched = [build.splits[one] for one in self.watched if build.splits]
        files = {key: path for feed in [*self.feeds, *watched] for key, path in feed.files().items()}
        self.facts = {
            "table": name,
            "build": _choice(config.build, name),
            "rows_per_block": ROWS_PER_BLOCK,
            "split": config.split.facts(),
            "seed": config.seed,
            "base": config.base_id,
            "layer": config.layer,
            "marker": config.marker,
            "av": [config.av.template, config.av.max_length],
            "ar": [config.ar.template, config.ar.max_length, config.ar.tables],
            "inputs": {key: build.sha256(path) for key, path in files.items()},
        }
        self.chunks = Chunks(config.out / "chunks", "build", self.facts)

    def make(self) -> None:
        """Make what chunks are missing, then the table and its sidecar."""
        build, config = self.build, self.build.config
        chosen = build.chosen(self.name) if self.name in HELD_OUT else None
        prompt = prompt_column(config.av.template)
        seen: set[int] = set()
        index = own = 0
        bar = progress_bar(sum(feed.rows for feed in self.feeds), "row", self.name)
        for feed in self.feeds:
            for block in feed.blocks():
                drops: Counter[str] = Counter()
                picked = list(self._candidates(feed, block, chosen, seen, drops))
                if not self.chunks.has(index):
                    picked, too_long = self._fitting(block, picked, drops)
                    self.chunks.write(index, {"rows": table_of(block, picked, prompt), "too_long": too_long}, drops)
                index += 1
                bar.update(len(block.rows))
            if isinstance(feed, LabelledSplit):
                own = self.chunks.rows("rows")
        bar.close()
        if not self.chunks.rows("rows") and self.name != "rl":
            raise InputError(
                f"No row is left for {self.path.name}; dropped: {self.chunks.drops() or 'nothing'}. Label more rows, "
                "or see the reasons."
            )
        published = [feed.facts() for feed in self.feeds if isinstance(feed, PublishedTable)]
        contract = build.fitness.av.to_dict() | build.fitness.ar.to_dict()
        wanted = ("injection_char", "injection_token_id", "injection_left_neighbor_id", "injection_right_neighbor_id")
        wanted += ("injection", "mse_scale", "av_template", "ar_template", "critic_suffix_ids", "prompt_style")
        meta = {
            **build.about,
            **{key: contract[key] for key in wanted if key in contract},
            "bos": build.fitness.av.bos,
            "ar": {"bos": build.fitness.ar.ar_bos},
            "split": self.name,
            "inputs": self.facts["inputs"],
            "config": {key: self.facts[key] for key in ("build", "seed", "ar")},
            "rows_published": self.chunks.rows("rows") - own,
        }
        if published:
            meta["published"] = published
        too_long = (row for table in self.chunks.tables("too_long") for row in table.to_pylist())
        if shown := list(islice(too_long, TOO_LONG_SHOWN)):
            meta["too_long_rows"] = shown
        empty = schema(build.d_model, labelled=self.name != "rl")
        self.chunks.finish("rows", self.path, meta, schema=empty)

    def _candidates(
        self,
        feed: LabelledSplit | PublishedTable,
        block: Block,
        chosen: set[str] | None,
        seen: set[int],
        drops: Counter,
    ) -> Iterator[tuple[int, dict | None]]:
        """(row of the block, label) of what is left before tokens are counted; counts the rest in `drops`."""
        finite = np.isfinite(block.vectors).all(axis=1) & (block.vectors != 0).any(axis=1)
        foreign = isinstance(feed, PublishedTable)
        for at, (row, labels) in enumerate(zip(block.rows, block.labels, strict=True)):
            if chosen is not None and row["row_id"] not in chosen:
                continue
            text = row["detokenized_text_truncated"]
            if text is not None and (fault := fault_of(text)):
                drops[fault] += 1
                continue
            if foreign and chosen is None and self.build.is_held_out(row["doc_id"]):
                drops["heldout_document"] += 1
                continue
            if foreign and text is not None and self._is_watched(text):
                drops["heldout_text"] += 1
                continue
            if not finite[at]:
                drops["bad_vector"] += 1
                continue
            about = text if text is not None else block.vectors[at].tobytes().hex()
            for label in [None] if self.name == "rl" else labels:
                if label is not None and label["label_status"] not in USABLE:
                    drops[label["label_status"]] += 1
                    continue
                explanation = (label["api_explanation"] or "") if label else ""
                reason = self.build.fitness.wording(explanation) if label else None
                if reason is None:
                    key = hash64(f"{about}\0{explanation}")
                    reason = "duplicate" if key in seen else None
                    seen.add(key)
                if reason is not None:
                    drops[reason] += 1
                    continue
                yield at, label

    def _is_watched(self, text: str) -> bool:
        return any(hash64(text) in self.build.held_out_texts(split) for split in self.watched)

    def _fitting(self, block: Block, picked: list, drops: Counter) -> tuple[list, pa.Table]:
        """Those of `picked` that fit the trainers' prompts, and the rows that are too long."""
        if self.name == "rl":
            return picked, TOO_LONG.empty_table()
        reasons = self.build.fitness.of_table(self.name, [label["api_explanation"] for _, label in picked])
        drops.update(reason for reason in reasons if reason)
        long = [
            {"row_id": block.rows[at]["row_id"], "reason": reason}
            for (at, _), reason in zip(picked, reasons, strict=True)
            if reason in ("too_long_av", "too_long_ar")
        ]
        fitting = [one for one, reason in zip(picked, reasons, strict=True) if reason is None]
        return fitting, pa.Table.from_pylist(long, schema=TOO_LONG)


def _choice(settings: Build, name: str) -> dict[str, Any]:
    """What of the section build a table depends on; of `balance` nothing where it is as before there was a choice."""
    if name not in HELD_OUT:
        return {}
    rows = "eval_rows" if name == "eval" else "validation_rows"
    return {rows: getattr(settings, rows)} | ({} if settings.balance == "documents" else {"balance": settings.balance})


def _measure(build: _Build, identity: str) -> None:
    """Statistics of the training activations: the own splits whole, and the published rows that were kept."""
    config = build.config

    def tables(columns: list[str]) -> Iterator[pa.Table]:
        for name in TRAINING:
            if build.splits:
                yield from in_steps(build.splits[name].path, columns)
            built = config.out / f"{name}.parquet"
            skipped = open_parquet(built).metadata.num_rows - read_sidecar(built)["rows_published"]
            for table in in_steps(built, columns):
                here = table.slice(min(skipped, table.num_rows))
                skipped = max(0, skipped - table.num_rows)
                if here.num_rows:
                    yield here

    def row_ids() -> Iterator[str]:
        for table in tables(["row_id"]):
            yield from table["row_id"].to_pylist()

    held_out, before = [], None
    for table in in_steps(config.out / "eval.parquet", ["row_id", "activation_vector"]):
        ids = table["row_id"].to_pylist()
        first = [at for at, row_id in enumerate(ids) if row_id != (ids[at - 1] if at else before)]
        before = ids[-1]
        held_out.append(read_vectors(table)[first])
    measure(
        config.out,
        lambda: (read_vectors(table) for table in tables(["activation_vector"])),
        np.concatenate(held_out),
        {
            "pair_id": pair_id_of(row_ids(), build.about["base_model"], config.layer),
            "extraction_precision": build.about.get("extraction_precision"),
            "identity": identity,
        },
    )


def _is_current(path: Path, identity: str, overwrite: bool) -> bool:
    """Whether a JSON file beside the tables was made from these tables. ChunkError: from others, and no --overwrite."""
    if not path.is_file():
        return False
    try:
        found = parse_json(path.read_bytes()).get("identity")
    except (ValueError, AttributeError):
        found = None
    if found == identity:
        return True
    if overwrite:
        return False
    raise ChunkError(
        f"{path} is there already, made from other tables. Nothing is overwritten: pass --overwrite, or give the "
        "config another `out:`."
    )


def _tokenizer(base: Path):
    from nla_sdk.model.weights.tokenizers import load_tokenizer

    return load_tokenizer(base)


def _sizes(base: Path) -> tuple[int, int]:
    """The base's d_model, and how many embeddings it has."""
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(base).get_text_config()
        return config.hidden_size, config.vocab_size
    except (OSError, ValueError) as error:
        raise LoadError(f"Could not load the config in {base}: {first_line(error)}") from error


if __name__ == "__main__":
    run_command(data_stage(run))
