"""Writing so that nothing half-written is ever left under a final name, and telling files and texts apart by hash."""

from __future__ import annotations

import glob
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil


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


def sync(path: Path) -> None:
    """Have a file, or a folder's list of names, on the disk. Windows cannot sync folders."""
    if path.is_dir() and os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY if os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in bounded memory."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def write_json(path: Path, value) -> None:
    with atomic(path) as sibling:
        sibling.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
