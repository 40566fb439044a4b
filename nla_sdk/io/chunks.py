"""Work that is done stays done: the one store of finished chunks, behind `nla` jobs and the stages of training.

A chunk is a parquet file per output, put in place atomically. `manifest.jsonl` beside them has one line per finished
chunk, with the hashes of its files, appended and on the disk after they are in place; a chunk without a line is none.
The finished table is the same bytes however often the work was interrupted.

`nla` jobs keep one folder per output file (`ChunkFolder`), held by a lock; stages keep one per identity (`Chunks`), so
that chunks of other settings or inputs never mix in.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import ChunkError, InputError
from .files import atomic, sha256_of, sync
from .parsing import parse_json
from .rows.formats import encoding_of, write_stream
from .sidecars import read_sidecar

MANIFEST = "manifest.jsonl"
LOCK = ".lock"
OURS = re.compile(r"\d+(\.\w+)?\.parquet|manifest\.jsonl?|\.lock|\..+\.tmp")  # all that is ever put into such a folder


def identity_of(facts: Mapping[str, Any]) -> str:
    """A short name for everything a stage's chunks depend on: the same facts, the same name."""
    text = json.dumps(facts, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@contextmanager
def locked(folder: Path, refusal: str) -> Iterator[None]:
    """Hold `folder`, which is made if need be, for this process alone; it goes in the end if no chunks are in it.

    Raises:
        InputError: another process holds it; `refusal` is the message.
    """
    from filelock import FileLock, Timeout

    folder.mkdir(exist_ok=True)
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise InputError(refusal) from None
    try:
        yield
    finally:
        lock.release()  # first: Windows removes no open file
        if not any(folder.glob("*.parquet")) and not foreign(folder):
            shutil.rmtree(folder, ignore_errors=True)


def foreign(folder: Path) -> list[str]:
    """Names in a folder of chunks that are none of ours: somebody's folder happens to be called so."""
    items = folder.iterdir() if folder.is_dir() else ()
    return sorted(item.name for item in items if item.is_dir() or not OURS.fullmatch(item.name))


class ChunkFolder:
    """The finished chunks in one folder, which is made if need be.

    Args:
        names: how a chunk's file is called, by its `index` and `output`.
        remedy: what to do about a damaged chunk, for the message.
    """

    def __init__(self, folder: Path, names: str, remedy: str) -> None:
        self.folder, self.names, self.remedy = folder, names, remedy
        self.folder.mkdir(parents=True, exist_ok=True)
        self.done: dict[int, dict] = {}
        manifest = self.folder / MANIFEST
        if manifest.is_file():
            lines = manifest.read_bytes().split(b"\n")
            records = [(line, _record(line)) for line in lines[:-1]]
            self.done = {record["chunk"]: record for _, record in records if record is not None}
            # Killed within the append, or a disk that lost a block: the chunks of such lines are made again.
            if lines[-1] or any(record is None for _, record in records):
                kept = [line + b"\n" for line, record in records if record is not None]
                with atomic(manifest) as sibling:
                    sibling.write_bytes(b"".join(kept))

    def has(self, index: int) -> bool:
        """Whether chunk `index` is finished, with all its files."""
        record = self.done.get(index)
        return record is not None and all((self.folder / about["file"]).is_file() for about in _outputs(record))

    def is_whole(self, index: int) -> bool:
        """As `has`, and its files are those that were written: reads them all."""
        return self.has(index) and all(
            sha256_of(self.folder / about["file"]) == about["sha256"] for about in _outputs(self.done[index])
        )

    def write(self, index: int, outputs: Mapping[str, pa.Table], drops: Mapping[str, int] | None = None) -> None:
        """Put chunk `index` in place: a table per output (empty ones are noted, not written) and what was dropped."""
        record: dict[str, Any] = {"chunk": index, "outputs": {}, "drops": dict(drops or {})}
        for output, table in outputs.items():
            if not table.num_rows:
                continue
            file = self.folder / self.names.format(index=index, output=output)
            with atomic(file) as sibling:
                pq.write_table(table, sibling, **encoding_of(table.schema))
                digest = sha256_of(sibling)
            record["outputs"][output] = {"file": file.name, "rows": table.num_rows, "sha256": digest}
        # The files first, each on the disk under its name, then the line: killed in between, the chunk is made again.
        # The other way round a line could promise a file that the disk never got.
        with (self.folder / MANIFEST).open("a", encoding="utf-8") as manifest:
            manifest.write(json.dumps(record, ensure_ascii=False) + "\n")
        sync(self.folder / MANIFEST)
        self.done[index] = record

    def drops(self) -> dict[str, int]:
        """How many rows were dropped, by reason, over all finished chunks."""
        total: Counter[str] = Counter()
        for record in self.done.values():
            total.update(record["drops"])
        return dict(sorted(total.items()))

    def rows(self, output: str) -> int:
        """How many rows of one output there are."""
        return sum(about["rows"] for about in self._records(output))

    def files(self, output: str) -> list[Path]:
        """The chunk files of one output, in order; unread."""
        return [self.folder / about["file"] for about in self._records(output)]

    def tables(self, output: str) -> Iterator[pa.Table]:
        """The chunks of one output in order, each checked against the manifest's hash, one in memory at a time.

        Raises:
            ChunkError: one is missing or damaged.
        """
        for about in self._records(output):
            path = self.folder / about["file"]
            if not path.is_file() or sha256_of(path) != about["sha256"]:
                raise ChunkError(f"{path} is missing or damaged. {self.remedy}")
            yield pq.read_table(path)

    @contextmanager
    def kept_on_stop(self, what: str) -> Iterator[None]:
        """Ctrl-C inside the block says what is kept and how to go on.

        Args:
            what: is being done, in a word or two.
        """
        try:
            yield
        except KeyboardInterrupt as stop:
            if str(stop):  # somebody below knows more
                raise
            done = len(self.done)
            kept = f"{done} finished chunk{'s' * (done != 1)} kept in {self.folder}" if done else "nothing was done yet"
            how = "to go on" if done else "to start it"
            raise KeyboardInterrupt(f"stopped in {what}; {kept}. Run the same command again {how}.") from None

    def remove(self) -> None:
        """Delete the chunks, once the finished tables are in place."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _records(self, output: str) -> list[dict]:
        """Of each chunk with rows of this output, in order: its file, rows and sha256."""
        outputs = (self.done[index]["outputs"] for index in sorted(self.done))
        return [record[output] for record in outputs if output in record]


class Chunks(ChunkFolder):
    """The finished chunks of one run of one stage, in `<parent>/<stage>-<identity>`.

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
        folder = parent / f"{stage}-{self.identity}"
        super().__init__(folder, "{index:07d}.{output}.parquet", f"Remove {folder} and run the stage again.")

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
        """Delete the chunks, and the folder of all stages' chunks if these were the last."""
        super().remove()
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


def _record(line: bytes) -> dict[str, Any] | None:
    """What a line of a manifest says; None if it is no such line."""
    try:
        record = parse_json(line)
        files = [(output["file"], output["rows"] + 0, output["sha256"]) for output in _outputs(record)]
        whole = isinstance(record["chunk"], int) and isinstance(record["drops"], dict)
    except (ValueError, LookupError, TypeError, AttributeError):
        return None
    # A file is a bare name: no manifest sends anybody elsewhere on the disk.
    bare = all(isinstance(file, str) and Path(file).name == file for file, _, _ in files)
    return record if whole and bare else None


def _outputs(record: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
    return record["outputs"].values()
