"""Weight files from outside: whether one is damaged, what its header says, an adapter's tensors whatever holds them."""

from __future__ import annotations

import pickle
import struct
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard, TypeVar

from ...errors import DamagedFileError, LoadError, MissingFileError, UnsafeFileError, first_line
from ...io.parsing import parse_json
from ...io.text import ENCODING, LFS_POINTER

if TYPE_CHECKING:
    import torch

ADAPTER_WEIGHTS = "adapter_model.safetensors"
ADAPTER_INDEX = "adapter_model.safetensors.index.json"
ADAPTER_PICKLE = "adapter_model.bin"
AR_ADAPTER = "ar_lora_value_head.safetensors"
"""An AR's LoRA and its head in one file, without a config, as EasyNLA writes it."""
BESIDE_A_LORA = ("value_head.", "linear_head.")
"""What the keys of the head in it begin with."""
HEAD_FILES = ("linear_head.safetensors", "linear_head.pt", "value_head.safetensors", "value_head.pt", AR_ADAPTER)
LAYER_HEAD_FILES = ("value_heads.safetensors", "value_heads.pt")
LONGEST_HEADER = 100_000_000
"""Bytes of a safetensors header; the format allows no more."""
Value = TypeVar("Value")


def damage(path: Path) -> DamagedFileError | None:
    """What is wrong with a file that can be told from its first bytes and its size; None: nothing.

    Args:
        path: a file that exists; of `*.safetensors` the header is held against the size.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(512)
    if size == 0:
        return DamagedFileError(f"{path} is empty (0 bytes): its download was cut off. Download it again.")
    if start.startswith(LFS_POINTER.encode()):
        return DamagedFileError(
            f"{path} is a Git LFS pointer, not the file itself: run git lfs pull there, or download it again."
        )
    if start.lstrip().removeprefix(b"\xef\xbb\xbf").lower().startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return DamagedFileError(f"{path} is a web page that was saved in the file's place. Download it again.")
    if path.suffix == ".safetensors" and (wrong := _header_fault(path, size)):
        return DamagedFileError(f"{path} is not a readable safetensors file: {wrong}. Download it again.")
    return None


def _header_fault(path: Path, size: int) -> str | None:
    try:
        header = read_header(path)
    except ValueError as error:
        return str(error)
    ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    whole = _header_end(path) + max(ends, default=0)
    if size < whole:
        return f"it was cut short, {size:,} of {whole:,} bytes are there"
    return f"it has {size:,} bytes, its header tells of {whole:,}" if size > whole else None


def _header_end(path: Path) -> int:
    with path.open("rb") as file:
        return 8 + int.from_bytes(file.read(8), "little")


def read_header(path: Path) -> dict[str, Any]:
    """The header of a safetensors file: tensor name → dtype, shape, data_offsets.

    Raises:
        ValueError: it is none.
    """
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= LONGEST_HEADER:
            raise ValueError("it does not begin with a header")
        text = file.read(length)
    if len(text) < length:
        raise ValueError("it was cut short within its header")
    return parse_header(text)


def parse_header(text: bytes) -> dict[str, Any]:
    """A safetensors header from its text.

    Raises:
        ValueError: it is none.
    """
    try:
        header = parse_json(text)
        for name, entry in header.items():
            if name != "__metadata__":
                entry["dtype"], entry["shape"]
                if not all(isinstance(at, int) for at in entry["data_offsets"]) or len(entry["data_offsets"]) != 2:
                    raise ValueError("an offset is no number")
    except (ValueError, TypeError, KeyError, IndexError, AttributeError):
        raise ValueError("its header is no safetensors header") from None
    return header


@dataclass(frozen=True)
class AdapterTensors:
    """The tensors of an adapter: their shapes, and each when it is asked for."""

    files: tuple[Path, ...]
    shapes: dict[str, tuple[int, ...]]
    get: Callable[[str], torch.Tensor]


def adapter_files(folder: Path) -> tuple[Path, ...]:
    """The files that hold an adapter's tensors: one safetensors file, shards that an index lists, a pickle, or
    an AR's with its head beside them.

    Raises:
        MissingFileError: there is none, or a shard is missing.
        DamagedFileError: the index is no index.
    """
    if (folder / ADAPTER_WEIGHTS).is_file():
        return (folder / ADAPTER_WEIGHTS,)
    index = folder / ADAPTER_INDEX
    shards = {path.name for path in folder.glob("adapter_model-*-of-*.safetensors")}
    if index.is_file():
        try:
            names = set(parse_json(index.read_text(encoding=ENCODING))["weight_map"].values())
            if not all(isinstance(name, str) and Path(name).name == name for name in names):
                raise ValueError("a shard's name is no file name")
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise damage(index) or DamagedFileError(f"{index} lists no shards ({first_line(error)}).") from error
    else:
        counts = {int(name.rsplit("-of-", 1)[1].split(".")[0]) for name in shards if name.split("-")[-1][:1].isdigit()}
        names = (
            {f"adapter_model-{at:05d}-of-{max(counts):05d}.safetensors" for at in range(1, max(counts) + 1)}
            if counts
            else set()
        )
    if missing := sorted(name for name in names if not (folder / name).is_file()):
        raise MissingFileError(
            f"{folder} lacks {', '.join(missing[:4])}: {len(missing)} of the adapter's {len(names)} shards."
        )
    if names:
        return tuple(folder / name for name in sorted(names))
    for name in (ADAPTER_PICKLE, AR_ADAPTER):
        if (folder / name).is_file():
            return (folder / name,)
    raise MissingFileError(f"{folder} holds no {ADAPTER_WEIGHTS}; expected a PEFT LoRA adapter.")


@contextmanager
def open_adapter(folder: Path) -> Iterator[AdapterTensors]:
    """The adapter's tensors, opened and not read; of a pickle they are read as bare tensors.

    Raises:
        MissingFileError: there are none.
        DamagedFileError: a file that is no weights, or cut short.
        UnsafeFileError: a pickle that would run code.
    """
    from safetensors import SafetensorError, safe_open

    files = adapter_files(folder)
    for file in files:
        if wrong := damage(file):
            raise wrong
    if files[0].suffix == ".bin":
        tensors = read_tensors(files[0], DamagedFileError)
        if not tensors_by_name(tensors):
            raise DamagedFileError(f"{files[0]} holds something else than tensors by name; expected a PEFT adapter.")
        yield AdapterTensors(files, {key: tuple(tensor.shape) for key, tensor in tensors.items()}, tensors.__getitem__)
        return
    from contextlib import ExitStack

    with ExitStack() as stack:
        where, shapes = {}, {}
        for file in files:
            try:
                opened = stack.enter_context(safe_open(file, framework="pt"))
                for key in opened.keys():  # noqa: SIM118
                    if file.name == AR_ADAPTER and key.startswith(BESIDE_A_LORA):
                        continue
                    if key in where:
                        raise DamagedFileError(f"{file} holds {key}, which another shard holds too.")
                    where[key], shapes[key] = opened, tuple(opened.get_slice(key).get_shape())
            except SafetensorError as error:
                raise DamagedFileError(
                    f"{file} is not a readable safetensors file: {first_line(error)}. Download it again."
                ) from error
        yield AdapterTensors(files, shapes, lambda key: where[key].get_tensor(key))


UNREADABLE = (
    *(RuntimeError, EOFError, OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError),
    *(AssertionError, struct.error),  # of files in the format that torch had before 1.6
)
"""What torch raises of damaged files, besides what pickle does; and zipfile, besides its own BadZipFile."""


def read_tensors(path: Path, error: type[LoadError]) -> object:
    """What a small file of tensors holds, read without running code: of `.safetensors` a dict, of `.npy` its array as
    a tensor, of anything else what torch unpickles with `weights_only=True`.

    Args:
        error: the class of what is raised for a file that cannot be read.
    Raises:
        UnsafeFileError: a pickle that would run code.
    """
    import torch

    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except SafetensorError as wrong:
            raise error(f"{path} is not a readable safetensors file: {wrong}") from wrong
    if path.suffix == ".npy":
        import numpy as np

        try:
            return torch.from_numpy(np.load(path, allow_pickle=False))
        except (ValueError, TypeError, EOFError, OSError) as wrong:
            raise error(f"{path} is no readable array of numbers: {first_line(wrong)}. Download it again.") from wrong
    if wrong := _records_fault(path):
        raise error(f"{path} is not a readable torch file: {wrong}. Download it again.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of an unusual pickle protocol, which is refused next
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as wrong:
        with path.open("rb") as file:
            start = file.read(24)
        if not start.startswith((b"PK", b"\x80")):
            raise error(
                f"{path} is no torch file: it starts with {start!r} (a Git LFS pointer or a web page in its place?). "
                "Download it again."
            ) from wrong
        raise UnsafeFileError(
            f"{path} is a pickle that would run code when read; only tensors are accepted, so it is refused. Ask its "
            f"author for {path.stem}.safetensors; do not open the file with weights_only=False: reading it would run "
            "code."
        ) from wrong
    except UNREADABLE as wrong:
        raise error(f"{path} is not a readable torch file: {first_line(wrong)}. Download it again.") from wrong


def _records_fault(path: Path) -> str | None:
    """What of a torch file's records does not end where the next one begins; None: nothing, or it is no zip file.

    torch (2.13) finds a record's numbers by the header before them and looks at no checksum: where that header lies,
    it reads others.
    """
    try:
        if not zipfile.is_zipfile(path):
            return None
        with zipfile.ZipFile(path) as archive, path.open("rb") as file:
            records = sorted(archive.infolist(), key=lambda record: record.header_offset)
            ends = [*(record.header_offset for record in records[1:]), archive.start_dir]
            for record, end in zip(records, ends, strict=True):
                file.seek(record.header_offset + 26)
                file.seek(sum(struct.unpack("<HH", file.read(4))) + record.compress_size, 1)
                left, described = end - file.tell(), record.flag_bits & 8  # by its checksum and its sizes, behind it
                if left not in ((16, 24) if described else (0,)) or (described and file.read(4) != b"PK\x07\x08"):
                    return f"{record.filename} does not end where the next record begins"
    except (zipfile.BadZipFile, *UNREADABLE) as error:
        return first_line(error)
    return None


def tensors_by_name(found: object) -> TypeGuard[dict[object, torch.Tensor]]:
    """Whether what a file holds is tensors by name, as a state dict is."""
    import torch

    return isinstance(found, dict) and all(isinstance(tensor, torch.Tensor) for tensor in found.values())


def by_layer(values: Mapping[object, Value]) -> dict[int, Value] | None:
    """Values whose keys tell a layer, by that layer: `23`, `"23"`, `"value_head.23.weight"`; None: they do not.

    Example:
        >>> by_layer({"value_head.4.weight": "a", 10: "b"})
        {4: 'a', 10: 'b'}
    """
    found: dict[int, Value] = {}
    for key, value in values.items():
        numbers = [part for part in str(key).split(".") if part.isascii() and part.isdigit()]
        if len(numbers) != 1 or int(numbers[0]) in found:
            return None
        found[int(numbers[0])] = value
    return found or None
