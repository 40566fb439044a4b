"""A dictionary as large as real ones that takes no room: a sparse file, of which some rows are written."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

ROWS, WIDTH = 65_536, 1536


def header(tensors: Mapping[str, tuple[str, Sequence[int], int]]) -> tuple[bytes, dict[str, int]]:
    """The header of a safetensors file with its length before it, and where each tensor begins in the file.

    Args:
        tensors: name → dtype, shape, bytes.
    """
    entries, at = {}, 0
    for name, (dtype, shape, size) in tensors.items():
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    start = 8 + len(text)
    return len(text).to_bytes(8, "little") + text, {
        name: start + entry["data_offsets"][0] for name, entry in entries.items()
    }


def dictionary(file: Path, rows: Mapping[int, np.ndarray], count: int = ROWS, width: int = WIDTH) -> Path:
    """W_enc and W_dec, float32 [count, width], all zeros but for the rows given."""
    size = 4 * count * width
    start, places = header({"W_enc": ("F32", (width, count), size), "W_dec": ("F32", (count, width), size)})
    with file.open("wb") as opened:
        opened.truncate(len(start) + 2 * size)
        opened.write(start)
        for row, values in rows.items():
            opened.seek(places["W_dec"] + 4 * width * row)
            opened.write(np.asarray(values, "<f4").tobytes())
    return file
