"""Rows of a tensor in a safetensors file on the Hub: its header, then the bytes of the rows, by HTTP Range."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from ..errors import DamagedFileError, RepositoryError
from ..halves.hub.errors import hub_errors
from ..io.progress import progress_bar
from ..model.weights.files import LONGEST_HEADER, parse_header
from .arrays import of_bfloat16
from .faults import VectorFileError
from .places import FLOATS

FIRST = 4096  # bytes of the first request: the header of a dictionary's file is shorter
LARGEST = 1 << 25  # bytes of one request: what a cut connection costs
AT_ONCE = 8  # requests under way: what one takes is mostly waiting
ATTEMPTS = 3  # for an answer that breaks off; refusals of the moment are tried again by the client

_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})")


class NoRangesError(RepositoryError):
    """A server gave a whole file, or other bytes than were asked for, where a part of it was."""

    remedy = "Nothing at first: the file is then downloaded whole. HF_ENDPOINT may name a mirror that has no parts."


class RangedRows:
    """A tensor of which only the rows asked for are transferred; `Rows` of `places`.

    Args:
        url: of the file at a commit.
        repo: whose file it is, as `hub_errors` names it.
        name: for messages.
        headers: with the token, which the client takes no further than to the Hub itself.
    Attributes:
        shape: of the tensor.
    Raises:
        NoRangesError: not to be had in parts.
        DamagedFileError, VectorFileError: the header does not fit the file, or tells of no such tensor.
        OfflineError, …: as `hub_errors`.
    """

    def __init__(self, url: str, tensor: str, *, repo: str, name: str, headers: Mapping[str, str]) -> None:
        self._url, self._repo, self._name, self._headers = url, repo, name, headers
        start, size = self._get(0, FIRST)
        length = int.from_bytes(start[:8], "little")
        if len(start) < 8 or not 2 <= length <= min(LONGEST_HEADER, size - 8):
            raise DamagedFileError(f"{name} has {size:,} bytes and does not begin with a safetensors header.")
        if len(start) < 8 + length:
            start += self._get(len(start), 8 + length)[0]
        try:
            header = parse_header(start[8 : 8 + length])
        except ValueError as error:
            raise DamagedFileError(f"{name} is not a readable safetensors file: {error}.") from error
        header.pop("__metadata__", None)
        if tensor not in header:
            held = ", ".join(sorted(header)[:8]) or "nothing"
            raise VectorFileError(f"{name} holds no tensor {tensor}; it holds {held}.")
        self.shape, self._dtype, self._start = _laid_out(header[tensor], size - 8 - length, f"{name}: {tensor}")
        self._start += 8 + length

    def __call__(self, rows: Sequence[int]) -> np.ndarray:
        wanted = np.unique(np.asarray(rows, dtype=np.int64))
        stride = math.prod(self.shape[1:]) * np.dtype(FLOATS[self._dtype]).itemsize
        held = np.empty((len(wanted), *self.shape[1:]), np.float32)
        if not held.size:
            return held

        def put(run: tuple[int, int]) -> int:
            first, end = run
            at = self._start + int(wanted[first]) * stride
            data, _ = self._get(at, at + (end - first) * stride)
            held[first:end] = _floats(data, self._dtype).reshape(end - first, *self.shape[1:])
            return end - first

        with ThreadPoolExecutor(AT_ONCE) as pool, progress_bar(len(wanted), "row", "from the Hub") as bar:
            for done in pool.map(put, _runs(wanted, max(1, LARGEST // max(1, stride)))):
                bar.update(done)
        return held[np.searchsorted(wanted, np.asarray(rows, dtype=np.int64))]

    def _get(self, first: int, end: int) -> tuple[bytes, int]:
        """Bytes `first` to `end` (or to the file's end), and how many the file has."""
        from huggingface_hub import constants, errors
        from huggingface_hub.utils import hf_raise_for_status, http_stream_backoff

        headers = {**self._headers, "Range": f"bytes={first}-{end - 1}", "Accept-Encoding": "identity"}
        broken: Exception | None = None
        with hub_errors(self._repo):
            for _ in range(ATTEMPTS):
                with http_stream_backoff(
                    "GET", self._url, headers=headers, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT
                ) as answer:
                    if answer.status_code != 416:
                        hf_raise_for_status(answer)
                    stated = _RANGE.fullmatch(answer.headers.get("content-range") or "")
                    if answer.status_code != 206 or not stated:  # nothing of a whole file is read
                        raise NoRangesError(f"{self._name} is not given in parts (status {answer.status_code}).")
                    begin, last, size = map(int, stated.groups())
                    if (begin, last) != (first, min(end, size) - 1):
                        raise NoRangesError(f"{self._name}: {stated[0]} was sent, bytes {first}-{end - 1} asked for.")
                    # Caught inside: the client would take an error that leaves the block for one of its own, and break.
                    try:
                        data = answer.read()
                    except errors.HTTPError as error:  # pyright: ignore[reportPrivateImportUsage]
                        broken = error
                        continue
                    if len(data) == last + 1 - first:
                        return data, size
            raise broken or NoRangesError(f"{self._name}: fewer bytes were sent than announced, {ATTEMPTS} times.")


def _laid_out(entry: Mapping[str, Any], room: int, what: str) -> tuple[tuple[int, ...], str, int]:
    """A header's entry as shape, dtype and start, once it is seen to fit into the file.

    Args:
        room: bytes of the file behind its header.
    """
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in FLOATS:
        raise VectorFileError(f"{what} has dtype {dtype}; {', '.join(FLOATS)} are read.")
    sound = isinstance(shape, list) and isinstance(offsets, list) and bool(shape) and len(offsets) == 2
    sound = sound and all(type(number) is int and number >= 0 for number in (*shape, *offsets))
    if not sound or not offsets[0] + math.prod(shape) * np.dtype(FLOATS[dtype]).itemsize == offsets[1] <= room:
        raise DamagedFileError(
            f"{what}: dtype {dtype}, shape {shape} and bytes {offsets} do not fit together, or not into the file's "
            f"{room:,} bytes. It is damaged."
        )
    return tuple(shape), dtype, offsets[0]


def _floats(data: bytes, dtype: str) -> np.ndarray:
    """Little-endian bytes → float32."""
    found = np.frombuffer(data, FLOATS[dtype])
    if dtype == "BF16":
        return of_bfloat16(found)
    with np.errstate(over="ignore"):  # beyond float32: infinity, which is refused by its own name
        return found.astype(np.float32)


def _runs(rows: np.ndarray, most: int) -> Iterator[tuple[int, int]]:
    """Ascending rows as runs of neighbours (positions from, to), none longer than `most`.

    Example:
        >>> list(_runs(np.array([3, 4, 5, 9]), 2))
        [(0, 2), (2, 3), (3, 4)]
    """
    first = 0
    for end in range(1, len(rows) + 1):
        if end == len(rows) or rows[end] != rows[end - 1] + 1 or end - first == most:
            yield first, end
            first = end
