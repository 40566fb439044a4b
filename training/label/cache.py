"""Completions that were paid for: one SQLite file, shared between runs, committed and fsynced before a row counts.

`completions` is keyed by SHA-256 of (text, prompt, model): any run that asks the same gets the same, for nothing.
`accepted` says which completion a (run, row, pass) was given, so that a killed run that had fallen back to another
provider ends with the table it would have had; it is cleared when that table is finished.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import threading
import time
from pathlib import Path

from nla_sdk.halves.demo_base import cache_root

from .faults import LabelError
from .providers.protocol import Completion

_SCHEMA = """
CREATE TABLE IF NOT EXISTS completions (key TEXT PRIMARY KEY, value TEXT NOT NULL, made REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS accepted (
    run TEXT, row_id TEXT, step TEXT, key TEXT NOT NULL, provider INTEGER NOT NULL,
    PRIMARY KEY (run, row_id, step)
) WITHOUT ROWID;
"""


def default_path() -> Path:
    """`labels.sqlite` in this SDK's cache folder."""
    return cache_root() / "labels.sqlite"


def key_of(text: str, prompt: str, model: str) -> str:
    """SHA-256 of the three, delimited so that no two triples share a key."""
    return hashlib.sha256(json.dumps([text, prompt, model], ensure_ascii=True).encode()).hexdigest()


class Cache:
    """The file. Safe for many threads and processes.

    Raises:
        LabelError: it cannot be opened or is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, timeout=60, isolation_level=None, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")  # fsync at every commit: what is paid for stays
            self._db.executescript(_SCHEMA)
        except (OSError, sqlite3.Error) as error:
            raise self._unusable(error) from error

    def get(self, key: str) -> Completion | None:
        """The completion bought under this key (`key_of`), by whichever run."""
        row = self._do("SELECT value FROM completions WHERE key = ?", key)
        return Completion(**json.loads(row[0])) if row else None

    def accept(self, key: str, completion: Completion, run: str, row_id: str, step: str, provider: int) -> None:
        """Keep a completion as the one that this run's row has for this pass; returns once it is on the disk."""
        value = json.dumps(vars(completion), ensure_ascii=False)
        with self._lock:
            try:
                self._db.execute("BEGIN IMMEDIATE")
                self._db.execute("INSERT OR IGNORE INTO completions VALUES (?, ?, ?)", (key, value, time.time()))
                self._db.execute(
                    "INSERT OR IGNORE INTO accepted VALUES (?, ?, ?, ?, ?)", (run, row_id, step, key, provider)
                )
                self._db.execute("COMMIT")
            except sqlite3.Error as error:
                raise self._unusable(error) from error

    def accepted(self, run: str, row_id: str, step: str) -> tuple[int, Completion] | None:
        """Which provider this run's row was given for this pass, and its completion."""
        row = self._do(
            "SELECT provider, value FROM accepted JOIN completions USING (key) "
            "WHERE run = ? AND row_id = ? AND step = ?",
            run,
            row_id,
            step,
        )
        return (row[0], Completion(**json.loads(row[1]))) if row else None

    def forget(self, run: str) -> None:
        """Drop what `accepted` says of a finished run; its completions stay."""
        self._do("DELETE FROM accepted WHERE run = ?", run)

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()

    def _do(self, statement: str, *values):
        with self._lock:
            try:
                return self._db.execute(statement, values).fetchone()
            except sqlite3.Error as error:
                raise self._unusable(error) from error

    def _unusable(self, error: Exception) -> LabelError:
        return LabelError(
            f"The label cache {self.path} cannot be used ({error}). Move it away, or name another one in the config "
            "(`label: cache:`)."
        )
