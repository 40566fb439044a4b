"""What the scripts beside this file share: the rows they write, and where; it needs numpy only."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

FILES = Path(__file__).parent.parent / "files"
WIDTH = 6
IDS = ["ada", "bea", "cleo", "dora", "eva"]
NULL = 2  # the row without a vector


def rows(seed: int = 17, count: int = len(IDS), width: int = WIDTH) -> np.ndarray:
    """Random rows, float32 [count, width], exact in float16 too."""
    return np.random.default_rng(seed).normal(size=(count, width)).astype(np.float16).astype(np.float32)


def folder(tool: str) -> Path:
    """Where a tool's files go."""
    (FILES / tool).mkdir(parents=True, exist_ok=True)
    return FILES / tool


def expect(tool: str, expected: dict[str, dict]) -> None:
    """Keep what is to be read of each file: `rows` (null: none), and what else is known of it."""
    listed = {}
    for name, said in expected.items():
        nulls = said.pop("null", [])
        listed[name] = {key: value.tolist() if isinstance(value, np.ndarray) else value for key, value in said.items()}
        for row in nulls:
            listed[name]["rows"][row] = None
    text = json.dumps(listed, indent=1)
    (FILES / tool / "expected.json").write_text(text + "\n", encoding="utf-8")
    for file in (FILES / tool).iterdir():
        assert file.stat().st_size <= 20_000, f"{file} has {file.stat().st_size} bytes"
