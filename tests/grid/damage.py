"""Kinds of damage that are done to a file: what stands at its path instead."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

Damage = Callable[[Path], object]

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 123\n"
PAGE = b"<!DOCTYPE html>\n<html><head><title>404</title></head><body>Not found</body></html>\n"
GARBAGE = random.Random(0).randbytes(3000)
DEEP = 100_000
"""More levels than any parser goes down."""


def _with(content: bytes) -> Damage:
    def write(path: Path) -> None:
        path.unlink()  # it may be another world's too
        path.write_bytes(content)

    return write


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _loop(path: Path) -> None:
    path.unlink()
    os.symlink(path.name, path)


def _half(path: Path) -> None:
    _with(path.read_bytes()[: path.stat().st_size // 2])(path)


def _tail(path: Path) -> None:
    _with(path.read_bytes()[path.stat().st_size // 2 :])(path)


def _yaml_bomb() -> bytes:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    return "\n".join(lines).encode()


ANY: dict[str, Damage] = {
    "missing": Path.unlink,
    "a folder": _folder,
    "empty": _with(b""),
    "a git-lfs pointer": _with(POINTER),
    "an HTML page": _with(PAGE),
    "binary garbage": _with(GARBAGE),
    "cut in half": _half,
    "its second half": _tail,
    "a symlink loop": _loop,
}
GONE = ("missing", "a folder", "a symlink loop")
"""Kinds after which there is no such file: what lacks it may be named instead."""
JSON: dict[str, Damage] = {
    "no object": _with(b"[1, 2]\n"),
    "null": _with(b"null\n"),
    "a huge number": _with(b"9" * 5000 + b"\n"),
    "nested deeply": _with(b"[" * DEEP + b"\n"),
    "not UTF-8": _with(b'{"a": "\xff\xfe"}\n'),
}
YAML: dict[str, Damage] = {
    "no mapping": _with(b"- 1\n- 2\n"),
    "null": _with(b"null\n"),
    "a tab": _with(b"a:\n\t- b\n"),
    "nested deeply": _with(b"[" * DEEP),
    "not UTF-8": _with(b"a: \xff\xfe\n"),
    "a bomb": _with(_yaml_bomb()),
    "an impossible date": _with(b"a: 2026-13-45\n"),
    "a NUL": _with(b"a: \x00\n"),
    "code": _with(b"!!python/object/apply:os.system ['true']\n"),
    "itself": _with(b"&a [*a]\n"),
}


def _table(change: Callable[[pa.Table], pa.Table]) -> Damage:
    def write(path: Path) -> None:
        table = change(pq.read_table(path))
        path.unlink()
        pq.write_table(table, path)

    return write


def _nulls(table: pa.Table) -> pa.Table:
    return pa.table({name: pa.nulls(len(table), table[name].type) for name in table.column_names})


def _numbers(table: pa.Table) -> pa.Table:
    return pa.table({name: list(range(len(table))) for name in table.column_names})


PARQUET: dict[str, Damage] = {
    "no columns it needs": _table(lambda table: pa.table({"other": [1, 2]})),
    "no rows": _table(lambda table: table.slice(0, 0)),
    "nulls everywhere": _table(_nulls),
    "numbers everywhere": _table(_numbers),
}
OF_SUFFIX = {
    ".json": JSON,
    ".jsonl": JSON,
    ".yaml": YAML,
    ".parquet": PARQUET,
}


def of(name: str) -> dict[str, Damage]:
    """All that can be done to a file of this name."""
    kinds = ANY | OF_SUFFIX.get(Path(name).suffix, {})
    if Path(name).suffix == ".yaml":
        del kinds["cut in half"]  # mostly a whole file with fewer keys
    return kinds


def set_key(path: Path, key: str, value: object) -> None:
    """A key of a JSON or YAML file, by dotted name, set to a value."""
    text = path.read_text(encoding="utf-8")
    values = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    *above, last = key.split(".")
    inner = values
    for name in above:
        inner = inner[name]
    inner[last] = value
    path.unlink()
    dumped = json.dumps(values) if path.suffix == ".json" else yaml.safe_dump(values, allow_unicode=True)
    path.write_text(dumped, encoding="utf-8")


def remove(*paths: str) -> None:
    """Files and folders, gone."""
    for path in map(Path, paths):
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
