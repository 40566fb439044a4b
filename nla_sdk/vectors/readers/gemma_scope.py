"""Gemma Scope: `params.npz`, layer and site in repository and path. Gemma Scope 2: `params.safetensors`, a config."""

from __future__ import annotations

import lzma
import math
import re
import zlib
from collections.abc import Sequence
from pathlib import Path
from zipfile import BadZipFile, ZipFile

import numpy as np

from ...errors import DamagedFileError, first_line
from ...model.weights.files import damage
from ..faults import SiteError, VectorFileError
from ..kinds import Found, Stated
from ..places import Place, Rows
from .sites import Changed, dictionary, text

ARCHIVE, DECODER = "params.npz", "W_dec"
CONFIG, WEIGHTS, SECOND_DECODER = "config.json", "params.safetensors", "w_dec"
_FIRST = re.compile(r"(?:^|--)gemma-scope-(\d+b)-(pt|it)-(res|att|mlp|transcoders)")
_OTHERS = {
    "att": "the heads' outputs before the output projection",
    "mlp": "what an MLP adds to the stream",
    "transcoders": "what an MLP writes for what it reads (transcoders)",
}
_UNREADABLE = (BadZipFile, zlib.error, lzma.LZMAError, ValueError, KeyError, EOFError, OSError, RuntimeError)
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
_SECOND = {  # the folder of Gemma Scope 2 → what it is of, where no config says it
    "resid_post": "output",
    "attn_out": "self_attn.o_proj.input",
    "mlp_out": "post_feedforward_layernorm.output",
    "transcoder": "pre_feedforward_layernorm.output",
    "clt": "pre_feedforward_layernorm.output",
}


def read(place: Place, stated: Stated) -> Found | None:
    """A dictionary of Gemma Scope, first release.

    Raises:
        SiteError: of another site than the residual stream. VectorFileError, DamagedFileError: no such file.
    """
    if not place.has(ARCHIVE):
        return None
    parts, site, model = place.path.parts, None, None
    layer = next((found[1] for part in reversed(parts) if (found := re.fullmatch(r"layer_(\d{1,4})", part))), None)
    embedding = layer is None and "embedding" in parts
    repository = next((found for part in reversed(parts) if (found := _FIRST.search(part))), None)
    if repository is not None:
        size, trained, of = repository.groups()
        if of != "res":
            raise SiteError(f"{place.name} is of {_OTHERS[of]}. Take the repository whose name ends in -res.")
        model = f"google/gemma-2-{size}{'-it' if trained == 'it' else ''}"
        site = "embed_tokens" if embedding else layer and f"layers.{layer}"
    path = place.open(ARCHIVE)
    if repository is None and f"{DECODER}.npy" not in _members(path):
        return None  # somebody's own arrays
    rows: Rows = _Archived(path, DECODER, place.name)
    assumed: tuple[str, ...] = ()
    if embedding:
        rows = Changed(rows, lambda found: found * np.float32(math.sqrt(found.shape[-1])))
        assumed = ("embeddings times √d_model, as the model reads them",)
    said = [f"layer_{layer}"] if layer else ["embedding"] if embedding else []
    return dictionary(
        place,
        stated,
        "Gemma Scope",
        rows,
        site,
        silence=f"its repository's name and its path would, and here they say {' '.join(said) or 'nothing'}",
        model=model,
        assumed=assumed,
    )


def read_second(place: Place, stated: Stated) -> Found | None:
    """A dictionary of Gemma Scope 2.

    Raises:
        SiteError: of another site than the residual stream, or of several. VectorFileError: no such file.
    """
    if not place.has(WEIGHTS):
        return None
    config = place.json(CONFIG) if place.has(CONFIG) else {}
    said = config.get("hf_hook_point_in")
    if said is not None and not isinstance(said, str):
        raise SiteError(f"{place.name} reads several sites ({str(said)[:80]}); its directions are of no one layer.")
    site = text(config, "hf_hook_point_in") or _site_of(place)
    written = text(config, "hf_hook_point_out")
    if written not in (None, site):
        raise SiteError(
            f"{place.name} is a transcoder: its rows are what is written at {written} for what was read at {site}."
        )
    try:
        rows = place.matrix(WEIGHTS, SECOND_DECODER)
    except VectorFileError:
        if site is None:
            return None  # another tool's, by its names
        raise
    if len(rows.shape) == 3:
        raise SiteError(f"{place.name} is a cross-layer transcoder: each feature writes to several layers.")
    name = text(config, "model_name")
    return dictionary(
        place,
        stated,
        "Gemma Scope 2",
        rows,
        site,
        silence=f"{CONFIG} has {f'hf_hook_point_in {site}' if site else 'no hf_hook_point_in'}",
        model=name and _model(name),
        assumed=(f"model_name {name} is {_model(name)}",) if name and _model(name) != name else (),
    )


def _site_of(place: Place) -> str | None:
    """The site by folder names, `resid_post/layer_12_width_16k_l0_small`, as the repositories lay them out."""
    parts = place.path.parts
    layer = next((found[1] for part in reversed(parts) if (found := re.match(r"layer_(\d{1,4})_", part))), None)
    sites = {**_SECOND, **{f"{name}_all": site for name, site in _SECOND.items()}}
    folder = next((sites[part] for part in reversed(parts) if part in sites), None)
    return f"model.layers.{layer}.{folder}" if layer and folder else None


def _model(name: str) -> str:
    """The Hub id of what a config of Gemma Scope 2 calls a model.

    Example:
        >>> _model("gemma-v3-1b-it")
        'google/gemma-3-1b-it'
    """
    name = name.replace("-v3", "-3")
    name = name if "/" in name else f"google/{name}"
    return name.replace("-pt", "") if "270m" in name else name


def _members(path: Path) -> dict[str, int]:
    """What an archive holds: name → bytes, unpacked."""
    if wrong := damage(path):
        raise wrong
    try:
        with ZipFile(path) as archive:
            return {member.filename: member.file_size for member in archive.infolist()}
    except _UNREADABLE as error:
        raise DamagedFileError(f"{path} is no readable archive of arrays: {first_line(error)}.") from error


class _Archived:
    """Rows of an array in an .npz file, read one by one: what a header claims is never taken from memory."""

    def __init__(self, path: Path, array: str, name: str) -> None:
        self._path, self._member, sizes = path, f"{array}.npy", _members(path)
        if self._member not in sizes:
            held = ", ".join(sorted(sizes)[:8]) or "nothing"
            raise VectorFileError(f"{name}: {path.name} holds {held}; expected {array}.")
        try:
            with ZipFile(path) as archive, archive.open(self._member) as file:
                self.shape, fortran, self._dtype = _HEADERS[np.lib.format.read_magic(file)](file)
                self._start = file.tell()
        except _UNREADABLE as error:
            raise DamagedFileError(f"{path}: {self._member} is no readable array: {first_line(error)}.") from error
        whole = self._start + math.prod(self.shape) * self._dtype.itemsize
        if fortran or self._dtype.kind != "f" or sizes[self._member] != whole:
            raise VectorFileError(
                f"{name}: {array} is {self._dtype}, {list(self.shape)}{', by columns' if fortran else ''}, in "
                f"{sizes[self._member]:,} bytes; expected rows of floats, whole."
            )

    def __call__(self, rows: Sequence[int]) -> np.ndarray:
        stride = math.prod(self.shape[1:]) * self._dtype.itemsize
        held: dict[int, np.ndarray] = {}
        try:
            with ZipFile(self._path) as archive, archive.open(self._member) as file:
                for row in sorted(set(rows)):  # in one pass: what is compressed is not read twice
                    file.seek(self._start + row * stride)
                    held[row] = np.frombuffer(file.read(stride), self._dtype)
            found = np.stack([held[row] for row in rows])
        except _UNREADABLE as error:
            raise DamagedFileError(f"{self._path}: {self._member} is cut short: {first_line(error)}.") from error
        with np.errstate(over="ignore"):
            return found.astype(np.float32).reshape(len(rows), *self.shape[1:])
