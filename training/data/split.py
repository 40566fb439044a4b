"""Stage 1: activations → splits, by document. `python -m training.data.split --config training/configs/demo.yaml`

Which split a document belongs to is decided by a hash of its id and the seed, so no document is ever in two splits and
runs on other machines, shards and other layers agree. A text that came up before, in whatever document, is dropped: a
copy under another id would carry held-out text into training. Reads `<out>/activations_L<layer>.parquet`, writes
`<out>/split/{av_sft,ar_sft,rl,validation,eval}.parquet`, chunk by chunk.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa

from nla_sdk.errors import InputError
from nla_sdk.io.chunks import Chunks, is_finished
from nla_sdk.io.files import hash64, sha256_of
from nla_sdk.io.progress import progress_bar
from nla_sdk.io.sidecars import CARRIED, read_sidecar
from nla_sdk.io.tables import open_parquet, parquet_of, require_texts, texts_of
from nla_sdk.io.text import fault_of

from ..configs.command import data_stage, run_command
from ..configs.config import Config
from ..runs.results import keep
from .tables.splits import check_documents, no_other, split_of


def run(config: Config, *, overwrite: bool = False, push_dataset: str | None = None) -> Path:
    """Split; returns the folder of the tables.

    Raises:
        InputError: there are no activations, a row names no document, a document is of two families with different
            shares, or a split gets no row.
        ChunkError: a table is there that was made with other settings.
    """
    source = config.activations
    if not source.is_file():
        raise InputError(f"{source} does not exist: run `python -m training.data.extract` first.")
    folder = config.out / "split"
    facts = {"shares": config.split.facts(), "seed": config.seed, "activations": sha256_of(source)}
    chunks = Chunks(config.out / "chunks", "split", facts)
    paths = {name: folder / f"{name}.parquet" for name in config.split.names}
    no_other(folder, paths, overwrite=overwrite)
    missing = {
        name: path for name, path in paths.items() if not is_finished(path, chunks.identity, overwrite=overwrite)
    }
    if missing:
        with chunks.kept_on_stop("split"):
            _make(config, source, chunks, missing, facts)
    for path in paths.values():
        keep(config, path, push_dataset)
    chunks.remove()
    return folder


def _make(config: Config, source: Path, chunks: Chunks, paths: dict[str, Path], facts: dict) -> None:
    """Make what chunks are missing, then the tables of `paths`."""
    documents = check_documents(source, config.split, config.seed)
    file = open_parquet(source)
    seen: set[int] = set()
    if "detokenized_text_truncated" not in file.schema_arrow.names:
        raise InputError(f"{source} has no column detokenized_text_truncated, by which copies of a text are found.")
    bar, first = progress_bar(file.metadata.num_rows, "row", "split"), 0
    for index in range(file.num_row_groups):
        # Which texts came before is needed of every chunk, so finished ones are read for their text column only.
        columns = ["detokenized_text_truncated"] if chunks.has(index) else None
        with parquet_of(source):
            table = file.read_row_group(index, columns=columns)
        require_texts(table, ["detokenized_text_truncated"], str(source), bar.n)
        fresh = np.zeros(table.num_rows, dtype=bool)
        texts = texts_of(table, "detokenized_text_truncated", name=str(source), first=first)
        for at, text in enumerate(texts):
            if text is None:
                raise InputError(f"{source}, row {first + at}: detokenized_text_truncated is null; expected a text.")
            key = hash64(text)
            fresh[at] = key not in seen
            seen.add(key)
        if not chunks.has(index):
            broken = [fault for at, text in enumerate(texts) if fresh[at] and (fault := fault_of(text))]
            fresh &= np.array([fault_of(text) is None for text in texts])
            ids = [str(doc_id) for doc_id in table["doc_id"].to_pylist()]
            families = table["source_family"].to_pylist() if config.split.families else [None] * len(ids)
            names = np.array(
                [
                    split_of(doc_id, config.split, config.seed, family) or ""
                    for doc_id, family in zip(ids, families, strict=True)
                ]
            )
            chunks.write(
                index,
                {name: table.filter(pa.array(fresh & (names == name))) for name in config.split.names},
                {
                    "duplicate_text": int((~fresh).sum()) - len(broken),
                    "in_no_split": int((fresh & (names == "")).sum()),
                    **Counter(broken),
                },
            )
        first += table.num_rows
        bar.update(table.num_rows)
    bar.close()
    about = read_sidecar(source)
    meta = {key: about[key] for key in CARRIED if key in about} | {
        "inputs": {source.name: facts["activations"]},
        "config": facts["shares"],
        "seed": config.seed,
        "documents": documents,
    }
    for name in config.split.names:
        if name != "rl" and not chunks.rows(name):
            without = " (split.validation: 0 lets trainers choose by eval)" if name == "validation" else ""
            raise InputError(
                f"No row of {source.name} ({documents} documents) fell into the split {name}: use more documents, or a "
                f"larger share{without}."
            )
    for name, path in paths.items():
        chunks.finish(name, path, {**meta, "split": name}, schema=file.schema_arrow)


if __name__ == "__main__":
    run_command(data_stage(run))
