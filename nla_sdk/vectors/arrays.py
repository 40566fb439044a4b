"""Arrays by name out of safetensors, .npy, .npz and torch files: told by their headers, read when asked for."""

from __future__ import annotations

import io
import pickletools
import re
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from ..errors import DamagedFileError, LoadError, UnsafeFileError, first_line
from ..model.weights.files import damage, read_tensors
from .faults import SiteError, VectorFileError
from .kinds import RESIDUAL, Stated
from .places import Place

SUFFIXES = (".safetensors", ".npy", ".npz", ".pt", ".pth", ".bin")
PICKLES = (".pkl", ".pickle")
OTHERS = (".gguf", ".parquet", ".jsonl", ".ndjson", *PICKLES)
FLOATS = ("float16", "bfloat16", "float32", "float64", "float8_e4m3fn", "float8_e5m2")
BFLOAT16 = "V2"
"""What numpy calls the dtype of a .npy file that ml_dtypes' bfloat16 was saved in: two bytes, and no word of what."""
TWO_BYTES = ("bfloat16", "float16")
MOST_UNPACKED = 200
"""How many times its packed size an array of numbers may have; more is a file that was made to fill memory."""
UNPACKED_FREELY = 64 << 20  # bytes; smaller ones may be as repetitive as they like


@dataclass(frozen=True)
class Entry:
    """An array of a file.

    Attributes:
        shape, dtype: as its header says: float32, bfloat16, V2, int64.
        rows: numbers of the array seen as [-1, d] → float32 [k, d]; of `V2` its second argument says what it is.
    """

    shape: tuple[int, ...]
    dtype: str
    rows: Callable[[Sequence[int], str | None], np.ndarray]

    @property
    def is_float(self) -> bool:
        return self.dtype in FLOATS

    @property
    def count(self) -> int:
        """Rows of the array seen as [-1, d]."""
        return int(np.prod(self.shape[:-1], dtype=object)) if self.shape else 0


def file_of(place: Place, stated: Stated, suffixes: Sequence[str]) -> str | None:
    """The file that a reference means: the one it names, or the only one in its folder that may hold vectors; None:
    it has another suffix.

    Raises:
        VectorFileError: the folder holds several.
        SiteError: the caller says that they are of another site.
    """
    found = [place.file] if place.file is not None else [name for name in place.names if "/" not in name]
    found = [name for name in found if name.lower().endswith((*SUFFIXES, *OTHERS))]
    mine = [name for name in found if name.lower().endswith(tuple(suffixes))]
    if mine and len(found) > 1:
        raise VectorFileError(f"{place.name} holds {', '.join(found[:5])}{', …' if found[5:] else ''}; name the file.")
    if mine and stated.site not in (None, RESIDUAL):
        raise SiteError(f"{place.name}: site={stated.site!r} is not the residual stream, the only one that is read.")
    return mine[0] if mine else None


def arrays_of(path: Path) -> Mapping[str, Entry]:
    """All arrays of a file, by name; of a bare array its name is "".

    Raises:
        DamagedFileError: it is cut short, or its headers and its bytes tell different sizes.
        UnsafeFileError: a pickle that would run code.
        VectorFileError: it holds no arrays.
    """
    if wrong := damage(path):
        raise wrong
    suffix = path.suffix.lower()
    if suffix == ".safetensors":
        return _safetensors(path)
    if suffix == ".npy":
        with path.open("rb") as file:
            return {"": _npy(path, file)}
    return _npz(path) if suffix == ".npz" else _torch(path)


# --- safetensors --------------------------------------------------------------------------------------------------
def _safetensors(path: Path) -> dict[str, Entry]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            parts = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            return {
                name: Entry(tuple(part.get_shape()), _dtype(part.get_dtype()), _from_safetensors(path, name))
                for name, part in parts.items()
            }
    except SafetensorError as error:
        raise DamagedFileError(f"{path} is not a readable safetensors file: {first_line(error)}.") from error


def _dtype(name: str) -> str:
    """safetensors' name of a dtype, as numpy and torch call it."""
    known = {"BF": "bfloat", "F": "float", "I": "int", "U": "uint", "C": "complex"}
    letters = name.rstrip("0123456789")
    eighth = {"F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2"}
    return eighth.get(name) or (known[letters] + name[len(letters) :] if letters in known else name)


def _from_safetensors(path: Path, name: str) -> Callable[[Sequence[int], str | None], np.ndarray]:
    def rows(wanted: Sequence[int], as_dtype: str | None) -> np.ndarray:
        from safetensors import safe_open

        with safe_open(path, "pt") as file:
            return _torch_rows(file.get_tensor(name), wanted)

    return rows


def _torch_rows(tensor: Any, wanted: Sequence[int]) -> np.ndarray:
    rows = tensor.reshape(-1, tensor.shape[-1])
    whole = rows if rows.element_size() > 1 else rows.float()  # torch takes no rows out of float8
    return whole[list(wanted)].float().numpy()


# --- numpy --------------------------------------------------------------------------------------------------------
def _npy(path: Path, file: IO[bytes], size: int | None = None, name: str = "") -> Entry:
    """The array of a .npy file, or of one in an archive (of `size` bytes, unpacked)."""
    what = f"{path}{f' ({name})' if name else ''}"
    try:
        version = np.lib.format.read_magic(file)
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
        shape, _, dtype = read(file)
        begins = file.tell()
        if dtype.hasobject:
            raise UnsafeFileError(
                f"{what} holds Python objects, which are a pickle that would run code when read; refused. Where it was "
                f'written: np.save("{path.stem}.npy", np.stack(array).astype(np.float32)).'
            )
        # Python's numbers: numpy's overflow without a word.
        told = begins + int(np.prod(shape, dtype=object)) * dtype.itemsize
        has = path.stat().st_size if size is None else size
        if dtype.names or dtype.subdtype or min(shape, default=0) < 0 or told != has:
            raise DamagedFileError(f"{what} has {has:,} bytes; its header tells of {dtype} {shape}: {told:,} bytes.")
    except (UnsafeFileError, DamagedFileError):
        raise
    except Exception as error:  # numpy has Python parse the header: what a damaged one raises has no end
        raise DamagedFileError(f"{what} is no readable array of numbers: {first_line(error)}.") from error

    def rows(wanted: Sequence[int], as_dtype: str | None) -> np.ndarray:
        try:
            if size is None:
                array = np.load(path, mmap_mode="r", allow_pickle=False)
            else:
                with np.load(path, allow_pickle=False) as archive:
                    array = archive[name]
        except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise DamagedFileError(f"{what} is no readable array of numbers: {first_line(error)}.") from error
        found = array.reshape(-1, array.shape[-1])[list(wanted)]
        if dtype.kind == "V" and as_dtype is not None:
            found = of_bfloat16(found.view(np.uint16)) if as_dtype == "bfloat16" else found.view(np.float16)
        with np.errstate(over="ignore"):  # a float64 above float32's range is infinite, which is refused by its row
            return found.astype(np.float32)

    return Entry(tuple(map(int, shape)), BFLOAT16 if dtype.str == "|V2" else dtype.name, rows)


def of_bfloat16(bits: np.ndarray) -> np.ndarray:
    """uint16 → float32: a bfloat16 is its upper half."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def _npz(path: Path) -> dict[str, Entry]:
    try:
        with zipfile.ZipFile(path) as archive:
            found = {}
            for info in archive.infolist():
                if not info.filename.endswith(".npy"):
                    continue
                if info.file_size > max(UNPACKED_FREELY, MOST_UNPACKED * info.compress_size):
                    raise DamagedFileError(
                        f"{path}: {info.filename} unpacks to {info.file_size:,} bytes from {info.compress_size:,}, as "
                        "no array of numbers does."
                    )
                name = info.filename.removesuffix(".npy")
                with archive.open(info) as file:
                    found[name] = _npy(path, file, info.file_size, name)
            return found
    except (DamagedFileError, UnsafeFileError):
        raise
    except Exception as error:  # zipfile, zlib, lzma and struct have each their own
        raise DamagedFileError(f"{path} is no readable .npz archive: {first_line(error)}.") from error


# --- torch --------------------------------------------------------------------------------------------------------
def _torch(path: Path) -> dict[str, Entry]:
    import torch

    try:
        held = read_tensors(path, DamagedFileError)
    except UnsafeFileError as error:
        raise refuse_pickle(path) from error
    if isinstance(held, torch.Tensor):
        held = {"": held}
    if isinstance(held, (list, tuple)):
        held = dict(enumerate(held))
    named = held.items() if isinstance(held, dict) else ()
    tensors = {str(name): one for name, one in named if isinstance(one, torch.Tensor)}
    if not tensors:
        raise VectorFileError(f"{path} holds a {type(held).__name__} without tensors; expected tensors by name.")
    for name, tensor in tensors.items():
        stored = tensor.layout == torch.strided and not tensor.is_meta and not tensor.is_quantized
        # A stride of 0 makes any number of rows of one that is stored.
        if not stored or tensor.untyped_storage().nbytes() < tensor.numel() * tensor.element_size():
            raise VectorFileError(
                f"{path}: {name or 'its tensor'} {tuple(tensor.shape)} does not hold all its numbers (it is sparse, "
                "quantised, expanded or without data). Save tensor.to_dense().contiguous()."
            )
    return {
        name: Entry(
            tuple(tensor.shape),
            str(tensor.dtype).removeprefix("torch."),
            lambda wanted, as_dtype, tensor=tensor: _torch_rows(tensor.detach(), wanted),
        )
        for name, tensor in tensors.items()
    }


EXPORTS = {
    "steering_vectors": "save_file({{f'{{v.layer_type}}.{{k}}': t.contiguous() "
    "for k, t in v.layer_activations.items()}}, '{stem}.safetensors')",
    "": "save_file({{'vectors': torch.as_tensor(v)}}, '{stem}.safetensors')",
}
"""What writes the tensors of a pickled object `v`, by the package of its class; "": of an array or a list."""


def refuse_pickle(path: Path) -> LoadError:
    """The error of a pickle, which is never opened: what it is, told from its opcodes without running one, and the line
    that exports it; of one that is cut short, that it is."""
    found = _pickled(path)
    if found is None:
        return DamagedFileError(f"{path} is damaged: its pickle is cut short. Download it again.")
    package, of = found
    plain = Path(path.name if re.fullmatch(r"[\w. -]+", path.name) else f"FILE{path.suffix}")  # it goes into a shell
    load = "torch.load('{0}', weights_only=False)" if _is_torch(path) else "pickle.load(open('{0}', 'rb'))"
    line = (
        f"import pickle, torch; from safetensors.torch import save_file; v = {load.format(plain.name)}; "
        + EXPORTS.get(package, EXPORTS[""]).format(stem=plain.stem)
    )
    return UnsafeFileError(
        f"{path} is a pickle{f' of {of}' if of else ''} that would run code when read, so it is refused. Whoever wrote "
        f'it exports it (reading it runs its code: only where you trust its author): python -c "{line}"'
    )


def _is_torch(path: Path) -> bool:
    return path.suffix.lower() not in PICKLES or zipfile.is_zipfile(path)


def _pickled(path: Path) -> tuple[str, str] | None:
    """Package and class of the first object in a pickle that is neither torch's nor Python's; "" where none shows;
    None: the pickle has no end."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                code = archive.read(next(name for name in archive.namelist() if name.endswith("/data.pkl")))
        else:
            with path.open("rb") as file:
                code = file.read(MOST_CODE)
        stream, strings = io.BytesIO(code[:MOST_CODE]), []
        for _ in range(PICKLES_OF_OLD):
            for opcode, argument, _ in pickletools.genops(stream):
                if opcode.name == "GLOBAL":
                    strings = str(argument).split(" ")
                elif "UNICODE" in opcode.name:
                    strings = [*strings[-1:], str(argument)]
                if opcode.name in ("GLOBAL", "STACK_GLOBAL") and len(strings) == 2:
                    package = strings[0].split(".")[0]
                    if package not in PLAIN:
                        return package, f"{strings[0]}.{strings[1]}"
            if len(code) == stream.tell():
                break
    except Exception:  # whatever pickletools says of what is none
        return ("", "") if path.stat().st_size > MOST_CODE else None
    return "", ""


MOST_CODE = 1 << 20  # bytes of a pickle that are looked through for the name of its class
PICKLES_OF_OLD = 4  # a magic number, a version, the system, the object: torch's format before 1.6
PLAIN = ("torch", "collections", "builtins", "__builtin__", "numpy", "copyreg", "copy_reg")
