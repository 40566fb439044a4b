"""A reference to its vectors: the place found, the reader that knows its files asked, what is open asked for."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from ..errors import InputError, NonFiniteActivationError, ZeroActivationError
from ..halves.hub.listing import listed
from .faults import VectorFileError, unstated
from .kinds import Found, Kind, Stated, Vectors, as_kind, as_layer, as_sign
from .places import Place
from .references import Reference

Reader = Callable[[Place, Stated], "Found | None"]
"""None: the files are not of its kind. Raises where they are, and cannot be used."""


def readers() -> Sequence[Reader]:
    """The surest first: what has a config of its own before what is a bare tensor."""
    from .readers import control_vectors, dictionary_learning, gemma_scope, sae_lens, sparsify, tables, tensors

    dictionaries = (sae_lens.read, sparsify.read, gemma_scope.read_second, gemma_scope.read, dictionary_learning.read)
    return (*dictionaries, control_vectors.read, tables.read, tensors.read)


def load(
    ref: str | os.PathLike,
    *,
    kind: Kind | None = None,
    layer: int | Sequence[int] | None = None,
    model: str | None = None,
    maker: str | None = None,
    sign: str | None = None,
    centred: bool | None = None,
    site: str | None = None,
    column: str | None = None,
    dtype: str | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
) -> Vectors:
    """Vectors out of a file, a folder or a repository of another tool (docs/vectors.md lists them).

    Nothing is guessed: what the files do not say is an error that lists the choices.

    Args:
        ref: path or Hub id, with `#12`, `#3:9`, `#3,7`, `#name` for some of the rows and `@layer`.
        kind, layer, model, maker, sign, centred, site, column, dtype: what the files do not say; see `Stated`.
        revision, token, local_files_only: of the Hub.
    Raises:
        UnstatedVectorError: names all that must be told. SiteError: not of the residual stream.
        VectorFileError, UnsafeFileError, DamagedFileError: what cannot be read, and why.
        NonFiniteActivationError, ZeroActivationError: a row is no direction.
        InputError, MissingRepositoryError, GatedRepositoryError, OfflineError: as of any reference.
    Example:
        >>> load("my-sae#12").vectors.shape  # doctest: +SKIP
        torch.Size([1, 2304])
    """
    import torch

    stated = Stated(kind and as_kind(kind), as_layer(layer), model, maker, as_sign(sign), centred, site, column, dtype)
    reference, place, found = look(ref, stated, revision=revision, token=token, local_files_only=local_files_only)
    if found.questions:
        raise unstated(place.name, found.questions)
    rows = reference.rows(found.count, found.labels, found.numbers)
    labels = tuple(found.labels[row] if found.labels else f"#{row}" for row in rows)
    if gone := [label for row, label in zip(rows, labels, strict=True) if row in found.missing]:
        raise VectorFileError(
            f"{place.name} holds no vector in {gone[0]} ({len(gone)} of the rows asked for are null); "
            "name the others with #."
        )
    array = np.ascontiguousarray(found.read(rows), dtype=np.float32)
    overflow = "holds NaN or infinity (float16 overflows above 65504)"
    for wrong, error, why in (
        (~np.isfinite(array).all(axis=1), NonFiniteActivationError, overflow),
        (~array.any(axis=1), ZeroActivationError, "is all zeros and has no direction"),
    ):
        if wrong.any():
            raise error(f"{place.name}: {labels[int(np.argmax(wrong))]} {why}.")
    assert found.kind is not None and found.layer is not None, "or there would be questions"
    of_rows = found.layer if isinstance(found.layer, int) else tuple(found.layer[row] for row in rows)
    vectors = Vectors(
        torch.from_numpy(array),
        found.kind,
        of_rows if isinstance(of_rows, int) or len(set(of_rows)) > 1 else of_rows[0],
        found.site,
        labels,
        found.model,
        f"{place.name} ({found.tool})",
        found.assumed,
        found.unknown,
    )
    return vectors.signed(stated.sign)


def look(
    ref: str | os.PathLike,
    stated: Stated | None = None,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
) -> tuple[Reference, Place, Found]:
    """What is there, without reading a vector: for `load` and `nla vectors`.

    Raises:
        as `load`, but for what is open: that is in `Found.questions`.
    """
    from .local import local_place
    from .readers import tensors

    reference, stated = Reference.of(os.fspath(ref)), stated or Stated()
    if reference.layer is not None:
        if stated.layer not in (None, reference.layer):
            raise InputError(f"{ref} says layer {reference.layer}, layer= says {stated.layer}; say one.")
        stated = replace(stated, layer=reference.layer)
    place = local_place(reference.place)
    if place is None:
        from .hub import hub_place

        place = hub_place(reference.place, revision=revision, token=token, local_files_only=local_files_only)
    for reader in readers():
        if (found := reader(place, stated)) is not None:
            # #name names an array, one of several or the only one; #3 is a row, of the one that column= says.
            several = any(one.fact == "column" for one in found.questions)
            if reader is tensors.read and reference.is_name and (several or reference.select == found.array):
                found = reader(place, replace(stated, column=reference.select))
                assert found is not None, "it is the same file"
                reference = replace(reference, select=None)
            return reference, place, found
    if found := place.dictionaries:
        raise VectorFileError(f"{place.name} holds dictionaries in folders; name one of them: {listed(found)}.")
    raise VectorFileError(
        f"{place.name} is of no kind that is read here (it holds {listed(place.names, 5)}); see docs/vectors.md."
    )
