"""Vectors as a caller has them → rows for prompts: how many go into each, and which block each was read from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias, cast

import torch

from ..contract import Contract
from ..errors import ActivationShapeError, EmptyBatchError, InputError
from ..io.origins import Origin, check_origin
from ..model.injection import VectorsLike, as_vectors
from ..results import Activations
from ..sampling import whole_number
from ..vectors.kinds import Kind, Vectors
from .inputs import check_vector_input

Layers: TypeAlias = int | Sequence[int]
"""The block that all rows were read from, or that of each."""


@dataclass(frozen=True)
class Rows:
    """What is put to an AV, a prompt a row.

    Attributes:
        vectors: float32 [rows, d_model]; [rows, markers, d_model] where a prompt takes several; a list of
            [markers, d_model] where rows differ in their number.
        layers: the block that each row was read from, where it was said; None: the pair's own.
        single: whether the caller gave one row by itself, and gets one result by itself.
        kind: what they are; `vectors` is what reconstructions are compared with, whatever is shown.
        shown: of directions what the AV is given in place of `vectors` (`directions.shown`).
        directions: what it is given has no mean in it, and none is subtracted.
    """

    vectors: torch.Tensor | list[torch.Tensor]
    layers: list[int | None]
    single: bool
    kind: Kind = "activation"
    shown: torch.Tensor | list[torch.Tensor] | None = None
    directions: bool = False

    def __len__(self) -> int:
        return len(self.vectors)

    @property
    def flat(self) -> torch.Tensor:
        """All vectors, float32 [n, d_model]."""
        vectors = self.vectors if isinstance(self.vectors, torch.Tensor) else torch.cat(self.vectors)
        return vectors.reshape(-1, vectors.shape[-1])

    def of_layers(self, layer: Layers | None, *, force: bool = False) -> Rows:
        """The same rows, read from the blocks that the caller names.

        Args:
            force: believe the caller where Activations say another block.
        Raises:
            InputError: they are no whole numbers, not as many as rows, or not what Activations say of themselves.
        """
        layers = layer_of_each(layer, len(self), "rows")
        for row, (said, read) in enumerate(zip(layers, self.layers, strict=True)):
            if not force:
                refuse_other_layer(said, read, f"row {row} of the Activations was")
        return self if layer is None else replace(self, layers=layers)


def layer_of_each(layer: Layers | None, count: int, what: str) -> list[int | None]:
    """The block that each of `count` rows or texts (`what`) is read from; None of all where none is said.

    Raises:
        InputError: they are no whole numbers, or not as many.
    """
    if layer is None:
        return [None] * count
    if isinstance(layer, (str, Mapping)) or not hasattr(layer, "__iter__"):
        return [whole_number("layer", layer)] * count
    layers = [whole_number("layer", one) for one in layer]  # pyright: ignore[reportGeneralTypeIssues]
    if len(layers) != count:
        raise InputError(f"layer= names {len(layers)} layers for {count} {what}; expected one of each, or one.")
    return [*layers]


def refuse_other_layer(said: int | None, read: int | None, what: str) -> None:
    """Refuse a layer that a caller names of Activations that were read from another.

    Raises:
        InputError: names both.
    """
    if None not in (said, read) and said != read:
        raise InputError(
            f"layer={said}, but {what} read from layer {read}. Leave layer= out; force=True takes them as of {said}."
        )


def explained(activation: object, contract: Contract, origin: Origin, *, width: int, force: bool = False) -> Rows:
    """What `explain` takes: a row a vector; where the contract says that a prompt takes several, a row as many.

    Args:
        activation: with one marker (and where their number is `any`) [d_model] or [rows, d_model]; with k markers
            [k, d_model] or [rows, k, d_model]; where it is `any` [rows, k, d_model] too. `Activations`, or a list of
            them: one after the other, or, where the contract says which block each marker's vector is of, one a
            marker.
        origin: what the pair reads, for `Activations`.
        width: of a vector: `Assembly.d_model`, which is the contract's unless a map is from another model's.
        force: take those of another layer or model, with a warning.
    Raises:
        ActivationShapeError, NonFiniteActivationError, ZeroActivationError, EmptyBatchError, InputError,
        ForeignActivationError.
    """
    how = contract.injection
    if read := _reads(activation):
        if how is not None and how.layers is not None:
            return _a_marker_each(read, how.layers, origin, width, force)
        parts = [explained(one, contract, origin, width=width, force=force) for one in read]
        vectors = [one for part in parts for one in part.vectors]
        return Rows(stacked(vectors), [layer for part in parts for layer in part.layers], False)
    vectors, layer = bare(activation, contract, origin, force)
    markers = 1 if how is None else how.markers
    depth = _depth(vectors)
    if depth < 3 and markers in (1, "any"):
        rows, single = as_vectors(vectors, width)
        return Rows(rows if markers == 1 else rows[:, None], [layer] * len(rows), single)
    if markers == 1 or depth < 2:
        as_vectors(vectors, width)  # what is not even a vector says so itself
        raise ActivationShapeError(
            f"The activation has {depth} dimensions; expected "
            + (f"[{width}] or [n, {width}]." if markers == 1 else _several(markers, width))
        )
    sets, single = as_sets(vectors, width)
    if markers != "any" and (wrong := [one for one in sets if len(one) != markers]):
        raise ActivationShapeError(f"A prompt gets {len(wrong[0])} vectors; expected {_several(markers, width)}")
    return Rows(stacked(sets), [layer] * len(sets), single)


def _several(markers: int | str, width: int) -> str:
    return f"[{markers}, {width}] or [rows, {markers}, {width}]: its prompt takes {markers} vectors, one a marker."


def _reads(activation: object) -> list[Activations]:
    """The `Activations` of several reads."""
    if isinstance(activation, (list, tuple)) and activation and isinstance(activation[0], Activations):
        if not all(isinstance(one, Activations) for one in activation):
            raise InputError("A list holds Activations and something else; expected Activations only.")
        return list(activation)
    return []


def is_read(activation: object) -> bool:
    """Whether `extract` returned it."""
    return isinstance(activation, Activations) or bool(_reads(activation))


def _a_marker_each(read: list[Activations], layers: tuple[int, ...], origin: Origin, width: int, force: bool) -> Rows:
    """Several reads of the same places, one a layer: a row of each place, its vectors in the markers' order."""
    by_layer = {one.layer: one for one in read}
    counts = {len(one) for one in read}
    if len(read) != len(layers) or (set(by_layer) != set(layers) and not force) or len(counts) != 1:
        raise InputError(
            f"Its prompt takes a vector of each of the layers {', '.join(map(str, layers))}; given were reads of "
            f"{', '.join(f'layer {one.layer} ({len(one)} places)' for one in read)}. Read the same places at each: "
            "[pair.extract(text, layer=layer) for layer in …]."
        )
    ordered = [by_layer[layer] for layer in layers] if set(by_layer) == set(layers) else read
    for layer, one in zip(layers, ordered, strict=True):
        _refuse_foreign(one, replace(origin, layer=layer, layers=None), force)
    vectors = [as_vectors(one.vectors, width)[0] for one in ordered]
    return Rows(torch.stack(vectors, dim=1), [None] * len(vectors[0]), False)


def as_sets(vectors: object, d_model: int) -> tuple[list[torch.Tensor], bool]:
    """Sets of vectors: one [d_model] or [n, d_model], or several, as [sets, n, d_model] or a list of [n, d_model].

    Returns:
        float32 [n, d_model] of each, and whether a single one was given.
    Raises:
        as `as_vectors`; EmptyBatchError: a list of none.
    """
    if _depth(vectors) < 3:
        return [as_vectors(vectors, d_model)[0]], True  # pyright: ignore[reportArgumentType]
    several = list(vectors)  # pyright: ignore[reportArgumentType]
    if not several:
        raise EmptyBatchError("The activation is empty; expected at least one set of vectors.")
    return [as_vectors(one, d_model, what=f"activation set {at}")[0] for at, one in enumerate(several)], False


def _depth(value: object) -> int:
    """The dimensions of nested lists of numbers, arrays or tensors."""
    if (own := getattr(value, "ndim", None)) is not None:
        return int(own)
    if isinstance(value, (list, tuple)) and value:
        return 1 + max(map(_depth, value[:2]))
    return 0 if not isinstance(value, (list, tuple)) else 1


def stacked(vectors: list[torch.Tensor]) -> torch.Tensor | list[torch.Tensor]:
    return torch.stack(vectors) if len({one.shape for one in vectors}) == 1 else vectors


def bare(activation: object, contract: Contract, origin: Origin, force: bool) -> tuple[VectorsLike, int | None]:
    """The vectors, and the block they are of where it is known and the pair may be told; of `Vectors` not yet."""
    if isinstance(activation, Vectors):
        return activation.vectors, None
    if not isinstance(activation, Activations):
        check_vector_input(activation)
        return cast(VectorsLike, activation), None
    _refuse_foreign(activation, origin, force)
    return activation.vectors, spoken(activation.layer, contract)


def spoken(layer: int, contract: Contract) -> int | None:
    """A layer as it is said to a prompt: of a pair that reads one only, and with `force`, it says its own."""
    several = contract.layers == "any" or (contract.layers is not None and layer in contract.layers)
    return layer if several else None


def _refuse_foreign(read: Activations, origin: Origin, force: bool) -> None:
    said = {name: getattr(read, name) for name in ("layer", "model", "revision", "precision")}
    check_origin([("all rows", said)], origin, "The Activations", force=force)


def by_layer(layers: Sequence[int | None]) -> list[tuple[int | None, list[int]]]:
    """Each layer, and which rows are of it."""
    return [(layer, [row for row, of in enumerate(layers) if of == layer]) for layer in dict.fromkeys(layers)]


def fields_of(
    contract: Contract,
    layers: Sequence[int | None],
    num_blocks: int,
    *,
    questions: Sequence[str] | None = None,
    model_tag: str | None = None,
) -> list[dict[str, str]] | None:
    """What stands in the fields of each row's prompt; None where its template has none.

    Raises:
        UnseenValueError, LayerError, InputError, NotAnOracleError: see `Contract.field_values`.
    """
    found: dict[tuple[int | None, str | None], dict[str, str]] = {}
    asked: Sequence[str | None] = [None] * len(layers) if questions is None else questions
    wanted = list(zip(layers, asked, strict=True))
    for layer, question in dict.fromkeys(wanted):
        found[layer, question] = contract.field_values(
            layer=layer, num_blocks=num_blocks, question=question, model_tag=model_tag
        )
    return [found[key] for key in wanted] if contract.fields else None


def scored(rows: Rows, contract: Contract, layer: int) -> torch.Tensor:
    """The vector of each row that a reconstruction is held against: [rows, d_model].

    Args:
        layer: that the AR reconstructs.
    Raises:
        InputError: a row has several, and none is of that layer.
    """
    vectors = rows.vectors
    if isinstance(vectors, torch.Tensor) and vectors.ndim == 2:
        return vectors
    if isinstance(vectors, torch.Tensor) and vectors.shape[1] == 1:
        return vectors[:, 0]
    of = contract.injection.layers if contract.injection else None
    if isinstance(vectors, torch.Tensor) and of is not None and layer in of:
        return vectors[:, of.index(layer)]
    raise InputError(
        "Each prompt takes several vectors, and which of them the AR reconstructs is not known. Explain them, and "
        "score the text against the one you mean: pair.score(text, vector)."
    )
