"""Chunked output: work that is done stays done, and the finished table is the same however often it was interrupted.

A stage writes one file per (chunk, output) into a folder of its own, named after what the chunks depend on, so that
chunks of other settings never mix in. `manifest.jsonl` in that folder has one line per finished chunk, appended and
fsynced after the chunk's files are in place. When all chunks are there, `finish` streams them into the final table, one
chunk in memory at a time, and `results/` gets a copy.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ChunkError
from .files import atomic, sha256_of
from .formats import encoding_of, write_stream
from .sidecars import read_sidecar

if TYPE_CHECKING:
    import pyarrow as pa

MANIFEST = "manifest.jsonl"


def identity_of(facts: Mapping[str, Any]) -> str:
    """A short name for everything a stage's chunks depend on: the same facts, the same name."""
    text = json.dumps(facts, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class Chunks:
    """The finished chunks of one run of one stage.

    Args:
        parent: where chunk folders are kept (`<out>/chunks`).
        stage: the stage's name.
        facts: what the chunks depend on: settings and SHA-256s of the inputs. Other facts, another folder.

    Example:
        >>> chunks = Chunks(out / "chunks", "split", {"seed": 0})  # doctest: +SKIP
        >>> for index, table in enumerate(parts):
        ...     if not chunks.has(index):
        ...         chunks.write(index, {"eval": table}, drops={"duplicate": 3})
        >>> chunks.finish("eval", out / "split" / "eval.parquet", {"stage": "split"})
    """

    def __init__(self, parent: Path, stage: str, facts: Mapping[str, Any]) -> None:
        self.stage, self.identity = stage, identity_of(facts)
        self.folder = parent / f"{stage}-{self.identity}"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.done: dict[int, dict] = {}
        manifest = self.folder / MANIFEST
        if manifest.is_file():
            whole, _, torn = manifest.read_text(encoding="utf-8").rpartition("\n")
            for line in whole.splitlines():
                record = json.loads(line)
                self.done[record["chunk"]] = record
            if torn:  # killed within the append: that chunk is made again
                with atomic(manifest) as sibling:
                    sibling.write_text(whole + "\n" if whole else "", encoding="utf-8")

    def has(self, index: int) -> bool:
        """Whether chunk `index` is finished, with all its files."""
        record = self.done.get(index)
        return record is not None and all((self.folder / one["file"]).is_file() for one in record["outputs"].values())

    def write(self, index: int, outputs: Mapping[str, pa.Table], drops: Mapping[str, int] | None = None) -> None:
        """Put chunk `index` in place: a table per output (empty ones are noted, not written) and what was dropped."""
        import pyarrow.parquet as pq

        record: dict[str, Any] = {"chunk": index, "outputs": {}, "drops": dict(drops or {})}
        for name, table in outputs.items():
            if not table.num_rows:
                continue
            file = self.folder / f"{index:07d}.{name}.parquet"
            with atomic(file) as sibling:
                pq.write_table(table, sibling, **encoding_of(table.schema))
                digest = sha256_of(sibling)
            record["outputs"][name] = {"file": file.name, "rows": table.num_rows, "sha256": digest}
        with (self.folder / MANIFEST).open("a", encoding="utf-8") as manifest:
            manifest.write(json.dumps(record, ensure_ascii=False) + "\n")
            manifest.flush()
            os.fsync(manifest.fileno())
        self.done[index] = record

    def drops(self) -> dict[str, int]:
        """How many rows were dropped, by reason, over all finished chunks."""
        total: Counter[str] = Counter()
        for record in self.done.values():
            total.update(record["drops"])
        return dict(sorted(total.items()))

    def rows(self, output: str) -> int:
        return sum(record["outputs"].get(output, {}).get("rows", 0) for record in self.done.values())

    def tables(self, output: str) -> Iterable[pa.Table]:
        """The chunks of one output in order, each checked against the manifest's hash."""
        import pyarrow.parquet as pq

        for index in sorted(self.done):
            about = self.done[index]["outputs"].get(output)
            if about is None:
                continue
            path = self.folder / about["file"]
            if not path.is_file() or sha256_of(path) != about["sha256"]:
                raise ChunkError(
                    f"{path} is missing or damaged. Remove {self.folder} and run training.{self.stage} again."
                )
            yield pq.read_table(path)

    def finish(self, output: str, path: Path, meta: Mapping[str, Any], schema: pa.Schema | None = None) -> Path:
        """Stream all chunks of `output` into `path` and its sidecar: the same bytes whatever interruptions there were.

        Args:
            meta: goes into `<path>.nla_meta.yaml`, beside row count, drops, hash and code version.
            schema: of the table if no chunk has rows of this output; without one that is an error.
        """
        return write_stream(path, self.tables(output), self.sidecar(meta), schema)

    def sidecar(self, meta: Mapping[str, Any]) -> dict:
        """`meta` with what this run of the stage says of itself."""
        return {**meta, "stage": self.stage, "identity": self.identity, "drops": self.drops()}

    def remove(self) -> None:
        """Delete the chunks, once the finished tables are in place."""
        shutil.rmtree(self.folder, ignore_errors=True)
        with suppress(OSError):  # chunks of other runs are still there
            self.folder.parent.rmdir()


def is_finished(path: Path, identity: str, *, overwrite: bool = False) -> bool:
    """Whether `path` was finished by a run of this identity, so that there is nothing to do.

    Raises:
        ChunkError: it was made with other settings or inputs and `overwrite` is off.
    """
    if not path.is_file():
        return False
    sidecar = read_sidecar(path)
    if sidecar.get("identity") == identity and sidecar.get("sha256") == sha256_of(path):
        return True
    if overwrite:
        return False
    raise ChunkError(
        f"{path} is there already, made with other settings or inputs. Nothing is overwritten: pass --overwrite, or "
        "give the config another `out:`."
    )
