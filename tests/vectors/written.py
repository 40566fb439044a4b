"""The files that other tools wrote, with what is to be read of them: kept in files/, made by make/."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

FILES = Path(__file__).parent / "files"


def expected(tool: str, name: str) -> dict:
    """What its maker knew of a file: `rows` float32 [n, d] (NaN: null), and `labels`, `layer` or `layers`."""
    said = json.loads((FILES / tool / "expected.json").read_text(encoding="utf-8"))[name]
    width = len(next(row for row in said["rows"] if row is not None))
    rows = [[np.nan] * width if row is None else row for row in said["rows"]]
    return said | {"rows": np.array(rows, dtype=np.float32)}


def same(vectors, rows: np.ndarray) -> bool:
    """Whether vectors are rows, to 1e-6."""
    return vectors.vectors.shape == rows.shape and bool(np.abs(vectors.vectors.numpy() - rows).max() <= 1e-6)
