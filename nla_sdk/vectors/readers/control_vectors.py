"""Control vectors in GGUF files, of repeng or of llama.cpp's cvector-generator: `direction.N`, [d] each.

The two are one format with another meaning of N, and nothing in the file says whose it is but how each of them happens
to write it: the type of layer_count, the order of the tensors, whose name of the architecture the hint is.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...errors import DamagedFileError, InputError, first_line
from ...model.weights.files import damage
from ..arrays import file_of
from ..faults import Question, VectorFileError
from ..kinds import Found, Stated
from ..places import Place

if TYPE_CHECKING:
    from ...halves.conversion.fields import Reader

ARCHITECTURE = "controlvector"
REPENG, LLAMA = "repeng", "llama.cpp"
BACK = {REPENG: 0, LLAMA: 1}
"""direction.N is the output of block N − this."""
MAKERS = ("repeng: direction.N is the output of block N", "llama.cpp: direction.N is the output of block N − 1")
SIGNS = ("+: as they are (of --method mean: towards its positive examples)", "-: turned round", "±: both, a row each")
NAME = re.compile(r"direction\.(\d{1,6})")


@dataclass(frozen=True)
class Directions:
    """What a file holds: N → [d] float32, memory-mapped, in the file's order; its hint; its marks."""

    rows: dict[int, np.ndarray]
    hint: str | None
    marks: dict[str, str]

    @property
    def maker(self) -> str | None:
        """Whose file it is, where its marks agree."""
        makers = set(self.marks.values())
        return makers.pop() if len(makers) == 1 else None


def read(place: Place, stated: Stated) -> Found | None:
    """All directions, or with a layer those of that layer; None: it is no GGUF file.

    Raises:
        DamagedFileError: it is cut short or not what its header says.
        VectorFileError: it holds a model, or something else.
        InputError: no such maker, no such layer.
    """
    name = file_of(place, stated, (".gguf",))
    if name is None:
        return None
    if stated.maker not in (None, *BACK):
        raise InputError(f"maker={stated.maker!r}: expected {REPENG!r} or {LLAMA!r}.")
    held = _directions(place.open(name), place.name)
    maker = stated.maker or held.maker
    marks = "; ".join(f"{mark} is {of}'s" for mark, of in held.marks.items()) or "nothing tells"
    questions = [] if maker else [Question("maker", f"the marks of both: {marks}" if held.marks else marks, MAKERS)]
    if maker == LLAMA and stated.sign is None:
        questions.append(Question("sign", "the sign that llama.cpp's PCA gives is random", SIGNS))
    numbers = list(held.rows)
    assumed = []
    if maker:
        how = "as told" if stated.maker else marks
        assumed.append(f"written by {maker} ({how}): {dict(zip(BACK, MAKERS, strict=True))[maker].partition(': ')[2]}")
    if maker == REPENG:
        assumed += [
            "a direction's + is towards its positive examples",
            f"block {max(numbers)} is not the model's last one, which repeng's default takes too, after the final norm",
        ]
    found = Found(
        tool=f"control vector of {maker}" if maker else "control vector",
        count=len(numbers),
        width=len(held.rows[numbers[0]]),
        read=lambda rows: np.stack([held.rows[numbers[row]] for row in rows]).astype(np.float32),
        kind=stated.kind or "direction",
        layer=tuple(number - BACK[maker] for number in numbers) if maker else None,
        model=stated.model or held.hint,
        labels=tuple(f"direction.{number}" for number in numbers),
        assumed=tuple(assumed),
        questions=tuple(questions),
        unknown=("how they were made (a component of PCA, a difference of means), and how long they were then",),
    )
    return found.at(stated.layer, place.name) if maker else found


def _directions(path: Path, name: str) -> Directions:
    if wrong := damage(path):
        raise wrong
    with path.open("rb") as file:
        magic, version = file.read(4), file.read(4)
    if magic != b"GGUF":
        raise DamagedFileError(f"{path} is no GGUF file: it does not begin with GGUF. Download it again.")
    # No tool here writes them, and of damaged ones gguf (0.19) may never be done.
    if version[:2] == b"\0\0":
        raise VectorFileError(f"{name} is written for big-endian machines; write it for little-endian ones.")
    try:
        from ...halves.conversion.fields import Reader
    except ImportError:
        raise VectorFileError(f"{name} is a GGUF file, which the package gguf reads: pip install gguf.") from None
    try:
        file = Reader(path)
        architecture = file.value("general.architecture")
        if architecture != ARCHITECTURE:
            raise VectorFileError(
                f"{name} is the GGUF file of a model ({architecture}); expected control vectors "
                f"(general.architecture = {ARCHITECTURE})."
            )
        return _told(file, path)
    except (DamagedFileError, VectorFileError):
        raise
    except Exception as error:  # gguf looks at nothing before it reads: what a damaged file raises has no end
        raise DamagedFileError(f"{path} is a damaged GGUF file ({first_line(error)}). Download it again.") from error


def _told(file: Reader, path: Path) -> Directions:
    """The directions, once it is seen that they lie where llama.cpp would read them."""
    from gguf import GGMLQuantizationType

    rows, end = {}, file.data_offset
    for tensor in file.tensors:
        match, is_vector = NAME.fullmatch(tensor.name), len(tensor.shape) == 1 and len(tensor.data) > 0
        # Both write F32 only; within its alignment a short row of another type takes no other room.
        if not match or not is_vector or tensor.tensor_type != GGMLQuantizationType.F32:
            shape = [int(size) for size in tensor.shape]
            raise VectorFileError(
                f"{path} holds {tensor.name} ({tensor.tensor_type.name} {shape}); expected direction.N, F32 [d]."
            )
        # As llama.cpp reads them: one after the other, with nothing between but what aligns them.
        if tensor.data_offset != end:
            raise DamagedFileError(f"{path}: {tensor.name} lies at byte {tensor.data_offset:,}, expected {end:,}.")
        end += -(-tensor.n_bytes // file.alignment) * file.alignment
        rows[int(match[1])] = tensor.data
    last = file.tensors[-1] if file.tensors else None
    size = path.stat().st_size
    if last is None or not last.data_offset + last.n_bytes <= size <= end:
        raise DamagedFileError(f"{path} has {size:,} bytes; its header tells of {len(rows)} directions, {end:,} bytes.")
    if len({len(row) for row in rows.values()}) > 1 or len(rows) < len(file.tensors):
        raise VectorFileError(f"{path} holds directions of several widths, or two of one number.")
    key = f"{ARCHITECTURE}.model_hint"
    hint = file.value(key) if file.get_field(key) else None
    hint = hint if isinstance(hint, str) else None
    return Directions(rows, hint, _marks(file, list(rows), hint))


def _marks(file: Reader, numbers: list[int], hint: str | None) -> dict[str, str]:
    """What shows whose file it is → whose."""
    from gguf import MODEL_ARCH_NAMES, GGUFValueType
    from transformers import CONFIG_MAPPING

    marks = {}
    if count := file.get_field(f"{ARCHITECTURE}.layer_count"):
        of = {GGUFValueType.UINT32: REPENG, GGUFValueType.INT32: LLAMA}.get(count.types[0])
        marks |= {f"layer_count of {count.types[0].name}": of} if of else {}
    if len(numbers) > 1 and numbers == sorted(numbers):
        marks["ascending order"] = LLAMA
    if len(numbers) > 1 and numbers == sorted(numbers, reverse=True):
        marks["descending order"] = REPENG
    if hint is not None and (hint in CONFIG_MAPPING) != (hint in set(MODEL_ARCH_NAMES.values())):
        marks[f"hint {hint}"] = REPENG if hint in CONFIG_MAPPING else LLAMA
    return marks
