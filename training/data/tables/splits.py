"""Which split a document is of: decided by a hash of its id and the seed, the same in every run, shard and layer."""

from __future__ import annotations

from pathlib import Path

from nla_sdk.errors import InputError
from nla_sdk.io.files import hash64
from nla_sdk.io.tables import open_parquet, parquet_of

from ...configs.data import Split

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
    file = open_parquet(path)
    if "doc_id" not in file.schema_arrow.names:
        raise InputError(
            f"{path} has no doc_id column (it has {', '.join(file.schema_arrow.names)}), so its rows cannot be split "
            "by document: add one that names each row's source document."
        )
    documents: set[str] = set()
    at = 0
    with parquet_of(path):
        for batch in file.iter_batches(columns=["doc_id"]):
            for doc_id in batch["doc_id"].to_pylist():
                if doc_id is None or str(doc_id).strip().lower() in NOT_IDS:
                    raise InputError(
                        f"{path}, row {at}: doc_id is {doc_id!r}, which names no document. Rows of one document must "
                        "share an id of their own, or training rows end up in the eval split."
                    )
                documents.add(str(doc_id))
                at += 1
    if len(documents) < 2:
        raise InputError(
            f"{path} has {len(documents)} document(s) in {at} rows: nothing is left to hold out. doc_id must name the "
            "document of each row."
        )
    return len(documents)
