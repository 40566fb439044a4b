"""Stage 1: activations → splits, by document. `python -m training.data.split --config training/configs/demo.yaml`

Which split a document belongs to is decided by a hash of its id and the seed, so no document is ever in two splits and
runs on other machines, shards and other layers agree. A text that came up before, in whatever document, is dropped: a
copy under another id would carry held-out text into training. Reads `<out>/activations_L<layer>.parquet`, writes
`<out>/split/{av_sft,ar_sft,rl,eval}.parquet`, chunk by chunk.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from nla_sdk.errors import InputError
from nla_sdk.io.chunks import Chunks, is_finished
from nla_sdk.io.files import hash64, sha256_of
from nla_sdk.io.progress import progress_bar
from nla_sdk.io.sidecars import CARRIED, read_sidecar

from ..configs.command import data_stage, run_command
from ..configs.config import Config
from ..configs.data import Split
from ..runs.results import keep

SPLITS = ("av_sft", "ar_sft", "rl", "eval")
NOT_IDS = {"", "none", "null", "nan", "na", "n/a", "unknown"}


def share_of(doc_id: str, seed: int | str = 0) -> float:
    """A number in [0, 1) that depends on the document and the seed only."""
    return hash64(f"{seed}|{doc_id}") / 2**64


def split_of(doc_id: str, shares: Split, seed: int = 0) -> str | None:
    """`"eval"`, `"av_sft"`, `"ar_sft"` or `"rl"`; None where the shares leave the document out.

    Example:
        >>> split_of("wiki_valid001", Split())
        'av_sft'
    """
    share, end = share_of(doc_id, seed), 0.0
    for name in ("eval", "av_sft", "ar_sft", "rl"):
        end += getattr(shares, name)
        if share < end:
            return name
    return None


def check_doc_ids(path: Path) -> int:
    """How many documents the table `path` has.

    Raises:
        InputError: no doc_id column, a row without a usable one, or one document only: it cannot be split by document.
    """
    file = pq.ParquetFile(path)
    if "doc_id" not in file.schema_arrow.names:
        raise InputError(
            f"{path} has no doc_id column (it has {', '.join(file.schema_arrow.names)}), so its rows cannot be split "
            "by document: add one that names each row's source document."
        )
    documents: set[str] = set()
    at = 0
    for batch in file.iter_batches(columns=["doc_id"]):
        for doc_id in batch["doc_id"].to_pylist():
            if doc_id is None or str(doc_id).strip().lower() in NOT_IDS:
                raise InputError(
                    f"{path}, row {at}: doc_id is {doc_id!r}, which names no document. Rows of one document must share "
                    "an id of their own, or training rows end up in the eval split."
                )
            documents.add(str(doc_id))
            at += 1
    if len(documents) < 2:
        raise InputError(
            f"{path} has {len(documents)} document(s) in {at} rows: nothing is left to hold out. doc_id must name the "
            "document of each row."
        )
    return len(documents)


def run(config: Config, *, overwrite: bool = False, push_dataset: str | None = None) -> Path:
    """Split; returns the folder of the four tables."""
    source = config.activations
    if not source.is_file():
        raise InputError(f"{source} does not exist: run `python -m training.data.extract` first.")
    folder = config.out / "split"
    facts = {"shares": config.split.model_dump(), "seed": config.seed, "activations": sha256_of(source)}
    chunks = Chunks(config.out / "chunks", "split", facts)
    paths = {name: folder / f"{name}.parquet" for name in SPLITS}
    missing = {
        name: path for name, path in paths.items() if not is_finished(path, chunks.identity, overwrite=overwrite)
    }
    if missing:
        _make(config, source, chunks, missing, facts)
    for path in paths.values():
        keep(config, path, push_dataset)
    chunks.remove()
    return folder


def _make(config: Config, source: Path, chunks: Chunks, paths: dict[str, Path], facts: dict) -> None:
    """Make what chunks are missing, then the tables of `paths`."""
    documents = check_doc_ids(source)
    file = pq.ParquetFile(source)
    seen: set[int] = set()
    bar = progress_bar(file.metadata.num_rows, "row", "split")
    for index in range(file.num_row_groups):
        # Which texts came before is needed of every chunk, so finished ones are read for their text column only.
        columns = ["detokenized_text_truncated"] if chunks.has(index) else None
        table = file.read_row_group(index, columns=columns)
        fresh = np.zeros(table.num_rows, dtype=bool)
        for at, text in enumerate(table["detokenized_text_truncated"].to_pylist()):
            key = hash64(text)
            fresh[at] = key not in seen
            seen.add(key)
        if not chunks.has(index):
            names = np.array(
                [split_of(str(doc_id), config.split, config.seed) or "" for doc_id in table["doc_id"].to_pylist()]
            )
            chunks.write(
                index,
                {name: table.filter(pa.array(fresh & (names == name))) for name in SPLITS},
                {"duplicate_text": int((~fresh).sum()), "in_no_split": int((fresh & (names == "")).sum())},
            )
        bar.update(table.num_rows)
    bar.close()
    about = read_sidecar(source)
    meta = {key: about[key] for key in CARRIED if key in about} | {
        "inputs": {source.name: facts["activations"]},
        "config": facts["shares"],
        "seed": config.seed,
        "documents": documents,
    }
    for name in ("av_sft", "ar_sft", "eval"):
        if not chunks.rows(name):
            raise InputError(
                f"No row of {source.name} ({documents} documents) fell into the split {name}: use more documents, or a "
                "larger share."
            )
    for name, path in paths.items():
        chunks.finish(name, path, {**meta, "split": name}, schema=file.schema_arrow)


if __name__ == "__main__":
    run_command(data_stage(run))
