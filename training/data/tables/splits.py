"""Which split a document is of: decided by a hash of its id and the seed, the same in every run, shard and layer."""

from __future__ import annotations

from collections.abc import Container
from pathlib import Path

from nla_sdk.contract import sidecar_path
from nla_sdk.errors import ChunkError, InputError
from nla_sdk.io.files import hash64
from nla_sdk.io.progress import say
from nla_sdk.io.tables import open_parquet, parquet_of

from ...configs.data import Split

HELD_OUT = ("validation", "eval")
SPLITS = ("av_sft", "ar_sft", "rl", *HELD_OUT)
"""All that there may be; those of a run are `Split.names`."""
NOT_IDS = {"", "none", "null", "nan", "na", "n/a", "unknown"}


def share_of(doc_id: str, seed: int | str = 0) -> float:
    """A number in [0, 1) that depends on the document and the seed only."""
    return hash64(f"{seed}|{doc_id}") / 2**64


def split_of(doc_id: str, shares: Split, seed: int = 0, family: str | None = None) -> str | None:
    """`"eval"`, `"validation"`, `"av_sft"`, `"ar_sft"` or `"rl"`; None where the shares leave the document out.

    Args:
        family: of the document, where `shares` have some for it; None: not known. Whether a document of unknown family
            may be trained on says `is_held_out`.

    Example:
        >>> split_of("wiki_valid001", Split())
        'av_sft'
    """
    share, end = share_of(doc_id, seed), 0.0
    for name, part in shares.of_family(family).items():
        end += part
        if share < end:
            return name
    return None


def is_held_out(doc_id: str, shares: Split, seed: int = 0) -> bool:
    """Whether the document is held out if it is of any family: of somebody else's rows nobody knows what theirs is
    called here."""
    return share_of(doc_id, seed) < shares.held_out_of_any()


class Documents:
    """The split of each document, by what its rows say of its family.

    Example:
        >>> documents = Documents(Split(families={"code": {"eval": 0.3}}), seed=0)
        >>> documents.split_of("wiki_valid001", "wikipedia")
        'av_sft'
    """

    def __init__(self, shares: Split, seed: int) -> None:
        self.shares, self.seed = shares, seed
        self._families: dict[str, str | None] = {}

    def split_of(self, doc_id: str, family: str | None) -> str | None:
        """As the function.

        Raises:
            InputError: an earlier row of the document had a family with other shares: it would be in two splits.
        """
        if self.shares.families:
            before = self._families.setdefault(doc_id, family)
            if before != family and self.shares.of_family(before) != self.shares.of_family(family):
                raise InputError(
                    f"Document {doc_id!r} has rows of the families {before!r} and {family!r}, of which split.families "
                    "has other shares: no document may be in two splits. Give all its rows one source_family, or each "
                    "family's texts a doc_id of their own."
                )
        return split_of(doc_id, self.shares, self.seed, family)


def no_other(folder: Path, wanted: Container[str], *, overwrite: bool) -> None:
    """See that `folder` holds no table of a split that is not among `wanted`: of its documents some are trained on now.

    Raises:
        ChunkError: it does, and `overwrite` does not say that it may go.
    """
    for path in (folder / f"{name}.parquet" for name in SPLITS if name not in wanted):
        if path.is_file() and not overwrite:
            raise ChunkError(
                f"{path} exists and was made with other settings; the shares of this config have no {path.stem}. "
                "Nothing is overwritten: use --overwrite, or another `out:`."
            )
        path.unlink(missing_ok=True)
        sidecar_path(path).unlink(missing_ok=True)


def check_documents(path: Path, shares: Split, seed: int) -> int:
    """How many documents the table `path` has.

    Raises:
        InputError: no doc_id column, a row without a usable one, or one document only: it cannot be split by document;
            or a document of two families, see `Documents`.
    """
    file = open_parquet(path)
    if "doc_id" not in file.schema_arrow.names:
        raise InputError(
            f"{path} has no doc_id column (it has {', '.join(file.schema_arrow.names)}), so its rows cannot be split "
            "by document: add one that names each row's source document."
        )
    columns = ["doc_id"]
    if shares.families:
        if "source_family" not in file.schema_arrow.names:
            raise InputError(f"{path} has no column source_family, by which split.families has shares.")
        columns.append("source_family")
    known, families, documents = Documents(shares, seed), set(), set()
    at = 0
    with parquet_of(path):
        for batch in file.iter_batches(columns=columns):
            rows = batch.to_pylist()
            for row in rows:
                doc_id, family = row["doc_id"], row.get("source_family")
                if doc_id is None or str(doc_id).strip().lower() in NOT_IDS:
                    raise InputError(
                        f"{path}, row {at}: doc_id is {doc_id!r}, which names no document. Rows of one document must "
                        "share an id of their own, or training rows end up in the eval split."
                    )
                known.split_of(str(doc_id), family)
                documents.add(str(doc_id))
                families.add(family)
                at += 1
    if len(documents) < 2:
        raise InputError(
            f"{path} has {len(documents)} document(s) in {at} rows: nothing is left to hold out. doc_id must name the "
            "document of each row."
        )
    if absent := [family for family in shares.families if family not in families]:
        there = ", ".join(sorted(map(str, families - {None}))) or "none"
        say(f"{path.name} has no row of the families {', '.join(absent)} of split.families; it has: {there}")
    return len(documents)
