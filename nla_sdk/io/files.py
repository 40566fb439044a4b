"""Writing so that nothing half-written is ever left under a final name, and saying what a file was made from."""

from __future__ import annotations

import glob
import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psutil
import yaml

from .. import __version__

# What every table says of its activations, carried from one stage's sidecar to the next.
CARRIED = ("base_model", "base_revision", "d_model", "layer", "extraction_precision")


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary sibling to write to; renamed to `path` when the block ends well, removed when it doesn't."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for stale in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):  # of a run that was killed
        if not psutil.pid_exists(int(stale.name.split(".")[-2])):
            shutil.rmtree(stale) if stale.is_dir() else stale.unlink(missing_ok=True)
    sibling = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield sibling
        for file in [sibling] if sibling.is_file() else [item for item in sibling.rglob("*") if item.is_file()]:
            with file.open("rb") as handle:
                os.fsync(handle.fileno())
        if sibling.is_dir() and path.is_dir():
            shutil.rmtree(path)
        os.replace(sibling, path)
    finally:
        if sibling.is_dir():
            shutil.rmtree(sibling, ignore_errors=True)
        else:
            sibling.unlink(missing_ok=True)


def hash64(text: str) -> int:
    """64 bits of a text's SHA-256: enough to tell texts, ids and documents apart, in 8 bytes each."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def sha256_of(path: Path) -> str:
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def code_version() -> str:
    """The commit this runs from, "+changes" if the tree differs from it; else the package version."""
    here = Path(__file__).parent
    try:
        commit = subprocess.run(
            ["git", "-C", here, "rev-parse", "HEAD"], capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()
        changes = subprocess.run(
            ["git", "-C", here, "status", "--porcelain", "--untracked-files=no"],
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        ).stdout.strip()
        return commit + ("+changes" if changes else "")
    except (OSError, subprocess.SubprocessError):
        return f"nla-sdk {__version__}"


def write_json(path: Path, value) -> None:
    with atomic(path) as sibling:
        sibling.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def sidecar_of(path: Path) -> Path:
    """Where the contract of the table `path` is."""
    return path.with_name(path.name + ".nla_meta.yaml")


def write_sidecar(path: Path, meta: Mapping) -> None:
    """`<path>.nla_meta.yaml`: kind, `meta` and the code version."""
    record = {"kind": "nla_dataset", **meta, "code_version": code_version()}
    with atomic(sidecar_of(path)) as sibling:
        sibling.write_text(yaml.safe_dump(record, sort_keys=False, allow_unicode=True), encoding="utf-8")


def read_sidecar(path: Path) -> dict:
    """What `write_sidecar` wrote beside the table `path`; {} if there is nothing."""
    try:
        found = yaml.safe_load(sidecar_of(path).read_text(encoding="utf-8"))
    except OSError:
        return {}
    return found if isinstance(found, dict) else {}


def vector_column(vectors):
    """float32 [n, d] → a FixedSizeList<float32>[d] column: variable lists overflow their offsets near 600k rows."""
    import numpy as np
    import pyarrow as pa

    array = np.ascontiguousarray(vectors, dtype=np.float32)
    return pa.FixedSizeListArray.from_arrays(pa.array(array.reshape(-1)), array.shape[1])


def read_vectors(table, column: str = "activation_vector"):
    """A FixedSizeList (or list) column → float32 [n, d]."""
    import numpy as np

    values = table[column].combine_chunks()
    flat = values.flatten().to_numpy(zero_copy_only=False)
    return np.asarray(flat, dtype=np.float32).reshape(len(values), -1)
