"""Arrays in safetensors, .npy, .npz and torch files: of bare ones nothing is said, so nearly all is asked."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ...errors import ActivationShapeError, InputError
from ...model.statistics.means import FORMAT as MEAN_FORMAT
from ...model.weights.files import read_header
from ..arrays import BFLOAT16, PICKLES, SUFFIXES, TWO_BYTES, Entry, arrays_of, file_of, refuse_pickle
from ..faults import Question, SiteError, VectorFileError
from ..kinds import Found, Stated, as_layers
from ..places import Place
from .captures import captured, token_labels, two_axes

STEERING = re.compile(r"(decoder_block|self_attn|mlp|input_layernorm|post_attention_layernorm)\.(\d+)")
"""Names in what `arrays.EXPORTS` writes of a steering-vectors object: its layer_type and its key."""
KIND = (
    "activation: a token's residual stream",
    "direction: a steering vector, a dictionary's row, a probe",
    "difference: of two activations or two means",
)
TYPES = tuple(f"{name}: {what}" for name, what in zip(TWO_BYTES, ("most likely; of ml_dtypes", "half"), strict=True))
FIRST_ONLY = ("of nnsight: output[0] of a batch is its first prompt only",)
LAYER = "the block, from 0, whose output they are of; -1: the embeddings"


def read(place: Place, stated: Stated) -> Found | None:
    """The rows of one [n, d] array, arrays of [d] by name, or a cache of hooks; None: it is no such file.

    Raises:
        UnsafeFileError: a pickle; says what exports it.
        VectorFileError, ActivationShapeError: no array of vectors, or one of something else.
        SiteError: a steering vector of another site.
    """
    if (pickled := file_of(place, stated, PICKLES)) is not None:
        raise refuse_pickle(place.open(pickled))
    name = file_of(place, stated, SUFFIXES)
    if name is None:
        return None
    arrays = arrays_of(place.open(name))
    if name.endswith(".safetensors"):
        _refuse_mean(place.open(name), place.name)
    if (found := captured(arrays, place, stated)) is not None:
        return found
    usable = _usable(arrays, stated, place.name)
    shapes = {entry.shape for entry in usable.values()}
    if len(usable) == 1 or (len(shapes) == 1 and all(len(shape) == 1 for shape in shapes)):
        return _found(place, stated, usable, ())
    choices = tuple(f"{one}: {entry.dtype} {list(entry.shape)}" for one, entry in list(usable.items())[:12])
    first = dict(list(usable.items())[:1])
    return _found(place, stated, first, (Question("column", "it holds several arrays", choices),))


def _refuse_mean(path: Path, name: str) -> None:
    """Refuse the file of a mean, which is no vector to be explained but what is taken off vectors.

    Raises:
        VectorFileError: says what it is for.
    """
    if read_header(path).get("__metadata__", {}).get("format") == MEAN_FORMAT:
        raise VectorFileError(f"{name} is a mean of activations that nla mean wrote; pass it as --mean (mean=).")


def _usable(arrays: Mapping[str, Entry], stated: Stated, name: str) -> dict[str, Entry]:
    """The arrays that may hold vectors, or the one that the caller names.

    Raises:
        VectorFileError, ActivationShapeError: there are none.
    """
    if stated.column is not None:
        if stated.column not in arrays:
            raise InputError(f"{name} has no array {stated.column!r}; it has {_told(arrays)}.")
        arrays = {stated.column: arrays[stated.column]}
    if not arrays:
        raise VectorFileError(f"{name} holds no arrays.")
    floats = {one: entry for one, entry in arrays.items() if entry.is_float or entry.dtype == BFLOAT16}
    usable = {one: entry for one, entry in floats.items() if 1 <= len(entry.shape) <= 3 and 0 not in entry.shape}
    if not usable:
        raise _refusal(arrays, name)
    return usable


def _told(arrays: Mapping[str, Entry]) -> str:
    told = [f"{name or 'an array'} {entry.dtype} {list(entry.shape)}" for name, entry in list(arrays.items())[:6]]
    return ", ".join(told) + (", …" if len(arrays) > 6 else "")


def _refusal(arrays: Mapping[str, Entry], name: str) -> VectorFileError | ActivationShapeError:
    if any(entry.is_float for entry in arrays.values()):
        return ActivationShapeError(
            f"{name} holds {_told(arrays)}; expected [n, d], vectors of [d], or activations of [batch, seq, d]. Save "
            "array.reshape(-1, d), or the part that is meant."
        )
    halves = any(entry.dtype in ("uint16", "int16") for entry in arrays.values())
    return VectorFileError(
        f"{name} holds {_told(arrays)}; expected floating-point numbers."
        + (" Bits of bfloat16? Save tensor.view(torch.bfloat16).float()." if halves else "")
    )


def _found(place: Place, stated: Stated, chosen: Mapping[str, Entry], asked: tuple[Question, ...]) -> Found:
    names, entries = tuple(chosen), tuple(chosen.values())
    first, single = entries[0], len(entries[0].shape) == 1
    if named := _steering(names, place.name):
        tool, layer, kind = "steering-vectors, exported", named, stated.kind or "direction"
        assumed = ["N of decoder_block.N is the block whose output they are added to"]
    else:
        tool, layer, kind = "bare arrays", as_layers(stated.layer, len(entries) if single else first.count), stated.kind
        assumed = ["of the residual stream"]
    questions = [*asked]
    if kind is None:
        questions.append(Question("kind", "bare numbers", KIND))
    if layer is None:
        questions.append(Question("layer", f"bare numbers; {LAYER}"))
    if any(entry.dtype == BFLOAT16 for entry in entries):
        if stated.dtype is None:
            questions.append(Question("dtype", "numpy wrote |V2, two bytes of no type", TYPES))
        assumed += [f"|V2 is {stated.dtype}"] if stated.dtype else []
        if stated.dtype not in (None, *TWO_BYTES):
            raise InputError(f"dtype={stated.dtype!r}: expected {' or '.join(map(repr, TWO_BYTES))}.")
    elif stated.dtype is not None:
        raise InputError(f"{place.name} says its dtype ({first.dtype}); leave dtype={stated.dtype!r} out.")
    labels = tuple(name or "#0" for name in names) if single else None
    if kind == "activation" and not single:
        labels = token_labels(first.shape, place.name)
        assumed += [*two_axes(first.shape), *(FIRST_ONLY if len(first.shape) == 2 else ())]
    elif len(first.shape) == 3 and kind is not None and not asked:
        raise ActivationShapeError(
            f"{place.name} has shape {list(first.shape)}; a {kind} is a row of [n, d]: save array.reshape(-1, "
            f"{first.shape[-1]}), or the part that is meant. Only activations may be [batch, seq, d]."
        )

    def rows(wanted: Sequence[int]) -> np.ndarray:
        if not single:
            return first.rows(wanted, stated.dtype)
        return np.concatenate([entries[row].rows([0], stated.dtype) for row in wanted])

    found = Found(
        tool=tool,
        count=len(entries) if single else first.count,
        width=first.shape[-1],
        read=rows,
        kind=kind,
        layer=layer,
        model=stated.model,
        labels=labels,
        array=None if single else names[0] or None,
        assumed=tuple(assumed),
        questions=tuple(questions),
        unknown=() if stated.model else ("the model they are of",),
    )
    return found.at(stated.layer, place.name) if named else found


def _steering(names: Sequence[str], place: str) -> tuple[int, ...] | None:
    """The layer of each vector of an exported steering-vectors object; None: it is none.

    Raises:
        SiteError: they are of a part of the block.
    """
    matches = [STEERING.fullmatch(name) for name in names]
    if not all(matches) or not matches:
        return None
    if other := [match[1] for match in matches if match and match[1] != "decoder_block"]:
        raise SiteError(
            f"{place} holds steering vectors of {other[0]}, which is not the residual stream after a block. Train them "
            'with layer_type="decoder_block".'
        )
    return tuple(int(match[2]) for match in matches if match)
