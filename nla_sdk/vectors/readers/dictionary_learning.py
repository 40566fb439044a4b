"""dictionary-learning: `ae.pt` beside `config.json`; the tensor's name says whether directions are columns or rows."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from ...errors import DamagedFileError
from ...model.weights.files import damage, read_tensors, tensors_by_name
from ..faults import SiteError, VectorFileError
from ..kinds import Found, Stated
from ..places import Place, json_object
from .sites import dictionary, part, text

CONFIG, WEIGHTS = "config.json", "ae.pt"
_CHECKPOINT = re.compile(r"ae_\d+\.pt")
"""In the folder `checkpoints`, the config in the one above."""
COLUMNS, ROWS = "decoder.weight", "W_dec"
"""[d_in, dictionary] of torch's Linear; [dictionary, d_in] of the JumpReLU and Matryoshka classes."""


def read(place: Place, stated: Stated) -> Found | None:
    """A dictionary of dictionary-learning. Layer, module and side of it stand in free text there: they are asked for.

    Raises:
        SiteError: a transcoder or crosscoder. UnsafeFileError, DamagedFileError, VectorFileError: no such file.
    """
    checkpoint = place.file if place.file and _CHECKPOINT.fullmatch(place.file) else None
    if not (place.has(WEIGHTS) or checkpoint):
        return None
    file = checkpoint or WEIGHTS
    above = place.outer(CONFIG) if checkpoint else place.open(CONFIG) if place.has(CONFIG) else None
    config = json_object(above) if above else {}
    trainer, buffer = part(config, "trainer"), part(config, "buffer")
    io = text(buffer, "io")
    if io not in (None, "in", "out"):
        raise SiteError(f"{place.name} maps one site to another (buffer.io is {io!r}); its rows are of neither stream.")
    decoder, which = _decoder(place, file)
    named, layer = text(trainer, "submodule_name"), trainer.get("layer")
    module = f"submodule_name {named!r} is free text" if named else f"{CONFIG} names no module"
    typed = f"trainer.layer {layer!r} was typed in" if layer is not None else f"{CONFIG} has no trainer.layer"
    return dictionary(
        place,
        stated,
        "dictionary-learning",
        _Held(decoder),
        None,
        silence=f"{module}, of which buffer.io {io!r} was read" if io else module,
        layer_silence=f"{typed}; read is what goes in there, the output of the block before" if io == "in" else typed,
        width=trainer.get("activation_dim"),
        model=text(trainer, "lm_name"),
        assumed=(f"directions are the {which}",),
    )


class _Held:
    """Rows of an array in memory."""

    def __init__(self, array: np.ndarray) -> None:
        self._array, self.shape = array, array.shape

    def __call__(self, rows: Sequence[int]) -> np.ndarray:
        return self._array[list(rows)]


def _decoder(place: Place, file: str) -> tuple[np.ndarray, str]:
    """The directions as rows, float32, and where they stood."""
    import torch

    path = place.open(file)
    if wrong := damage(path):
        raise wrong
    tensors = read_tensors(path, DamagedFileError)
    if not tensors_by_name(tensors):
        raise VectorFileError(f"{place.name}: {file} holds something else than tensors by name.")
    held = {str(name).removeprefix("_orig_mod."): tensor for name, tensor in tensors.items()}  # of torch.compile
    names = [name for name in (COLUMNS, ROWS) if name in held]
    if len(names) != 1:
        raise VectorFileError(
            f"{place.name}: {file} holds {', '.join(sorted(held)[:8]) or 'nothing'}; expected one decoder, "
            f"{COLUMNS} or {ROWS}."
        )
    tensor = held[names[0]].detach()
    if tensor.ndim == 3:
        raise SiteError(f"{place.name} is a crosscoder: each of its directions is one for several layers.")
    stored = tensor.layout == torch.strided and not tensor.is_meta  # one that was expanded holds less than it shows
    whole = stored and tensor.untyped_storage().nbytes() >= tensor.numel() * tensor.element_size()
    if tensor.ndim != 2 or not tensor.is_floating_point() or not whole:
        raise VectorFileError(
            f"{place.name}: {names[0]} is {tensor.dtype}, {list(tensor.shape)}; expected a whole matrix."
        )
    array = tensor.float().numpy()
    return (array.T, f"columns of {COLUMNS}") if names[0] == COLUMNS else (array, f"rows of {ROWS}")
