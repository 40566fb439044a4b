"""Good files made bad where a format has structure: cut, grown, bits turned, fields and shapes that lie.

Numbers themselves are left alone: most formats do not notice another number, and neither can a reader.
"""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import numpy as np

Spans = list[tuple[int, int]]
"""Bytes of a file that are structure: (first, end)."""
EXTREMES = (0, 1, 7, 2**15, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1, 2**64 - 1)
LIES = ("0", "-1", "1", "7", "65536", "4294967296", "9223372036854775807", "1e999", "null", '"a"', "[]")


def structure(path: Path) -> Spans:
    """What of a file is structure."""
    data = path.read_bytes()
    suffix = path.suffix
    if suffix == ".safetensors":
        return [(0, 8 + int.from_bytes(data[:8], "little"))]
    if suffix == ".npy":
        with path.open("rb") as file:
            np.lib.format.read_magic(file)
            np.lib.format.read_array_header_1_0(file)
            return [(0, file.tell())]
    if suffix == ".gguf":
        from gguf import GGUFReader

        return [(0, GGUFReader(path).data_offset)]
    if suffix == ".parquet":
        return _parquet(path, data)
    if suffix == ".jsonl":
        return [(at, at + 1) for at, byte in enumerate(data) if chr(byte) not in "0123456789.-eE+"]
    if data[:2] == b"PK":
        return _zip(data)
    if suffix == ".pt":  # torch's old format: the numbers come last
        import torch

        return [(0, len(data) - sum(one.nbytes for one in torch.load(path).values() if isinstance(one, torch.Tensor)))]
    return [(0, len(data))]


def _parquet(path: Path, data: bytes) -> Spans:
    import pyarrow.parquet as pq

    found = pq.ParquetFile(path).metadata
    spans = [(0, 4), (len(data) - 8 - int.from_bytes(data[-8:-4], "little"), len(data))]
    for group in range(found.num_row_groups):
        for column in range(found.num_columns):
            chunk = found.row_group(group).column(column)
            begins = chunk.data_page_offset
            spans.append((begins, begins + 12))  # a page's header
    return spans


def _zip(data: bytes) -> Spans:
    """All but the numbers of torch's storages, which torch reads without looking at their checksum."""
    numbers = []
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        for info in archive.infolist():
            if re.search(r"/data/\d+$", info.filename):
                name, extra = (int.from_bytes(data[info.header_offset + at :][:2], "little") for at in (26, 28))
                begins = info.header_offset + 30 + name + extra
                numbers.append((begins, begins + info.file_size))
    spans, at = [], 0
    for begins, end in sorted(numbers):
        spans.append((at, begins))
        at = end
    return [*spans, (at, len(data))]


# --- ways to be bad -----------------------------------------------------------------------------------------------
def _places(spans: Spans, random: Random) -> int:
    begins, end = random.choices(spans, [end - begins for begins, end in spans])[0]
    return random.randrange(begins, end)


def cut(data: bytearray, spans: Spans, random: Random) -> bytes:
    return bytes(data[: random.randrange(len(data))])


def grown(data: bytearray, spans: Spans, random: Random) -> bytes:
    return bytes(data) + random.choice([random.randbytes(random.randrange(1, 80)), bytes(data), b"\0" * 64])


def bits_turned(data: bytearray, spans: Spans, random: Random) -> bytes:
    for _ in range(random.randrange(1, 4)):
        data[_places(spans, random)] ^= 1 << random.randrange(8)
    return bytes(data)


def bytes_changed(data: bytearray, spans: Spans, random: Random) -> bytes:
    for _ in range(random.randrange(1, 6)):
        data[_places(spans, random)] = random.randrange(256)
    return bytes(data)


def blanked(data: bytearray, spans: Spans, random: Random) -> bytes:
    begins, end = random.choice(spans)
    first = random.randrange(begins, end)
    last = min(end, first + random.randrange(1, 40))
    data[first:last] = bytes(last - first)
    return bytes(data)


def number_lied(data: bytearray, spans: Spans, random: Random) -> bytes:
    """A binary integer of 4 or 8 bytes, of any meaning, that is another."""
    size = random.choice((4, 8))
    begins, end = random.choice(spans)
    at = random.randrange(begins, max(begins + 1, end - size))
    written = min(size, end - at)
    data[at : at + written] = (random.choice(EXTREMES) % 2 ** (8 * size)).to_bytes(size, "little")[:written]
    return bytes(data)


def text_lied(data: bytearray, spans: Spans, random: Random) -> bytes:
    """A number in a text (a header's shape, a config's layer) that is another; the file may change its size."""
    found = [
        match
        for match in re.finditer(rb"\d+", bytes(data))
        if any(begins <= match.start() and match.end() <= end for begins, end in spans)
    ]
    if not found:
        return bytes_changed(data, spans, random)
    chosen = random.choice(found)
    data[chosen.start() : chosen.end()] = random.choice(LIES).encode()
    return bytes(data)


def piece_lost(data: bytearray, spans: Spans, random: Random) -> bytes:
    begins, end = random.choice(spans)
    first = random.randrange(begins, end)
    del data[first : min(end, first + random.randrange(1, 20))]
    return bytes(data)


WAYS: tuple[Callable[[bytearray, Spans, Random], bytes], ...] = (
    cut,
    grown,
    bits_turned,
    bytes_changed,
    blanked,
    number_lied,
    text_lied,
    piece_lost,
)


def malformed(path: Path, seeds: range) -> Iterator[tuple[str, bytes]]:
    """(how, the file's bytes made bad) once a seed; what came out as it was is made bad once more."""
    good, spans = path.read_bytes(), structure(path)
    for seed in seeds:
        random = Random(f"{path.name} {seed}")
        while True:
            way = random.choice(WAYS)
            if (bad := way(bytearray(good), spans, random)) != good:
                break
        yield f"{path.name}, {way.__name__}, seed {seed}", bad
