"""Writing so that nothing half-written is ever left under a final name, and telling files and texts apart by hash."""

from __future__ import annotations

import glob
import hashlib
import json
import os
import platform
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import psutil

FORGOTTEN = 7 * 24 * 3600
"""Seconds after which a temporary file is nobody's: no write takes a week, and a container that is started again has
another host name, so that nobody else would ever clear away what it left."""

_LEFTOVER = re.compile(r"\.(?P<host>[0-9a-f]{8})-(?P<pid>\d{1,10})-[0-9a-f]{8}\.tmp$")
_writing: set[str] = set()


@contextmanager
def atomic(path: Path, *, locked: bool = False) -> Iterator[Path]:
    """A temporary sibling to write a file or a folder to; renamed to `path`, on the disk, when the block ends well.

    When it doesn't, the sibling is removed and `path` is what it was. What killed runs left of this path is cleared
    away at the start.

    Args:
        path: the final name; its folder is made if need be.
        locked: the caller holds a lock on it, so that every leftover is of a killed run, on whichever host.
    Yields:
        A path beside it that does not exist yet.
    Example:
        >>> with atomic(folder / "log.jsonl") as sibling:  # doctest: +SKIP
        ...     sibling.write_text(text, encoding="utf-8")
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _clear_leftovers(path, locked)
    sibling = _sibling(path)
    _writing.add(sibling.name)
    try:
        yield sibling
        for item in [*sibling.rglob("*"), sibling]:
            sync(item)
        if sibling.is_dir() and path.is_dir():
            # Moved away whole, then removed: a kill within rmtree would leave half a folder under the final name.
            old = _sibling(path)
            os.replace(path, old)
            try:
                os.replace(sibling, path)
            except BaseException:
                os.replace(old, path)
                raise
            shutil.rmtree(old, ignore_errors=True)
        else:
            os.replace(sibling, path)
        sync(path.parent)
    finally:
        _remove(sibling)
        _writing.discard(sibling.name)


def _sibling(path: Path) -> Path:
    """A hidden name of its own for every writer: two hosts on a shared disk may both have a process 7."""
    return path.with_name(f".{path.name}.{_host()}-{os.getpid()}-{secrets.token_hex(4)}.tmp")


def _host() -> str:
    return hashlib.sha256(platform.node().encode()).hexdigest()[:8]


def _clear_leftovers(path: Path, locked: bool) -> None:
    """Remove what killed writers of `path` left; what is not certainly dead, or not of our naming, stays."""
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        named = _LEFTOVER.fullmatch(leftover.name.removeprefix(f".{path.name}"))
        if named is None:
            continue
        with suppress(OSError):  # gone meanwhile, or another user's
            here, pid = named["host"] == _host(), int(named["pid"])
            # In a container that is started again, we may have the very pid of the one that was killed.
            dead = here and (leftover.name not in _writing if pid == os.getpid() else not psutil.pid_exists(pid))
            if locked or dead or time.time() - leftover.stat().st_mtime > FORGOTTEN:
                _remove(leftover)


def _remove(item: Path) -> None:
    if item.is_dir() and not item.is_symlink():
        shutil.rmtree(item, ignore_errors=True)
    else:
        item.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Have a file, or a folder's list of names, on the disk; folders only where the system can (Windows cannot)."""
    folder = path.is_dir()
    if folder and os.name == "nt":
        return
    # Some network and FUSE disks sync no folders; a file that cannot be synced is an error.
    with suppress(OSError) if folder else nullcontext():
        descriptor = os.open(path, os.O_RDONLY if os.name != "nt" else os.O_RDWR)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def hash64(text: str) -> int:
    """64 bits of a text's SHA-256: enough to tell texts, ids and documents apart, in 8 bytes each."""
    # A document's name may hold half a surrogate pair; its texts are dropped, but not here.
    return int.from_bytes(hashlib.sha256(text.encode(errors="surrogatepass")).digest()[:8], "big")


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hex and in bounded memory."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def write_json(path: Path, value: Any) -> None:
    """Readable JSON, atomically."""
    with atomic(path) as sibling:
        sibling.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
