"""What vectors are: their kind, where they were, what was assumed of them, what nobody knows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from operator import index
from typing import TYPE_CHECKING, Literal, TypeAlias, cast, get_args

from ..errors import InputError

if TYPE_CHECKING:
    import numpy as np
    import torch

    from .faults import Question

Kind: TypeAlias = Literal["activation", "direction", "difference"]
"""activation: a point of the residual stream at one token.

direction: a dictionary's row, a steering vector, a probe: no mean in it, and its length means nothing.
difference: of two activations or two means: no mean in it, a length that means something.
"""
KINDS: tuple[Kind, ...] = get_args(Kind)
RESIDUAL = "residual"
"""The only site that pairs read: the residual stream after a block."""


def as_kind(kind: object) -> Kind:
    """A kind by its name.

    Raises:
        InputError: there is none of this name.
    """
    if kind not in KINDS:
        raise InputError(f"kind={kind!r}: expected {', '.join(map(repr, KINDS))}.")
    return cast(Kind, kind)


def as_layer(layer: object) -> int | tuple[int, ...] | None:
    """A layer, or several, of any kind of whole number.

    Raises:
        InputError: it is something else.
    """
    try:
        if layer is None:
            return None
        if isinstance(layer, Iterable) and not isinstance(layer, str):
            return tuple(index(one) for one in layer)
        return index(layer)  # pyright: ignore[reportArgumentType]
    except TypeError:
        raise InputError(f"layer={layer!r}: expected a block's number, or one of each row.") from None


def as_sign(sign: object) -> str | None:
    """A sign as it may be written: +, - (or −), ± (or +-).

    Raises:
        InputError: it is none.
    """
    known = {None: None, "+": "+", "-": "-", "−": "-", "±": "±", "+-": "±"}
    if not isinstance(sign, (str, type(None))) or sign not in known:
        raise InputError(f'sign={sign!r}: expected "+", "-" or "±" (both).')
    return known[sign]


@dataclass(frozen=True)
class Stated:
    """What a caller says of a file of vectors; None: nothing. It goes before what the file says.

    Attributes:
        kind: activation, direction or difference.
        layer: block whose output they are of, of all or of each row; -1: the embeddings.
        model: Hub id or folder.
        maker: of a control-vector GGUF: repeng or llama.cpp.
        sign: "+" as they are, "-" turned round, "±" both.
        centred: whether a LayerNorm model's stream was centred before it was kept.
        site: residual, or what else a tool's free text means.
        column: of a table; or the array of an archive.
        dtype: of a .npy file of |V2: bfloat16 or float16.
    """

    kind: Kind | None = None
    layer: int | Sequence[int] | None = None
    model: str | None = None
    maker: str | None = None
    sign: str | None = None
    centred: bool | None = None
    site: str | None = None
    column: str | None = None
    dtype: str | None = None


@dataclass(frozen=True)
class Found:
    """What a reader tells of a file before a row is read.

    Attributes:
        tool: what wrote it, with its version where that shows: `sae-lens 6`, `Gemma Scope`.
        count, width: rows and their numbers.
        read: rows by number → float32 [k, width], in that order.
        kind, layer, site, model: where the file or the caller says it; a layer of each row where they differ.
        labels: a name for each row; of nulls in a table too.
        array: what the file calls the one array that they are the rows of; None: it does not name it, or names each.
        numbers: what each row is called by `#`, where rows of other layers were left out; None: 0, 1, 2, …
        missing: rows that hold no vector (nulls): they keep their number and cannot be read.
        assumed: what was taken for granted, a sentence each.
        questions: what must be told before rows are read.
        unknown: what nobody says and nothing here depends on.
    """

    tool: str
    count: int
    width: int
    read: Callable[[Sequence[int]], np.ndarray]
    kind: Kind | None = None
    layer: int | tuple[int, ...] | None = None
    site: str = RESIDUAL
    model: str | None = None
    labels: tuple[str, ...] | None = None
    array: str | None = None
    numbers: tuple[int, ...] | None = None
    missing: frozenset[int] = frozenset()
    assumed: tuple[str, ...] = ()
    questions: tuple[Question, ...] = ()
    unknown: tuple[str, ...] = ()

    def at(self, layer: int | Sequence[int] | None, name: str) -> Found:
        """The rows of a layer, where the files say a layer of each; of several layers: what the caller says of each.

        Args:
            layer: as of `Stated`; None: all rows.
            name: the file, for messages.
        Raises:
            InputError: there is no row of that layer.
        """
        if not isinstance(layer, int):
            return self if layer is None else replace(self, layer=as_layers(layer, self.count))
        of_rows = (self.layer,) * self.count if isinstance(self.layer, int) else self.layer or ()
        kept = [row for row, of in enumerate(of_rows) if of == layer]
        if not kept:
            there = ", ".join(map(str, sorted({of for row, of in enumerate(of_rows) if row not in self.missing})))
            raise InputError(f"{name} holds vectors of layer {there}, none of {layer}.")
        return replace(
            self,
            count=len(kept),
            read=lambda rows: self.read([kept[row] for row in rows]),
            layer=layer,
            numbers=tuple(kept),
            labels=tuple(self.labels[row] for row in kept) if self.labels else tuple(f"#{row}" for row in kept),
            missing=frozenset(at for at, row in enumerate(kept) if row in self.missing),
        )


def as_layers(layer: int | Sequence[int] | None, count: int) -> int | tuple[int, ...] | None:
    """What a caller says of the layer of all rows, or of each.

    Raises:
        InputError: of another number of rows.
    """
    if layer is None or isinstance(layer, int):
        return layer
    if len(layer) != count:
        raise InputError(f"layer= says {len(layer)} layers of {count} vectors; say one, or one of each.")
    return tuple(layer)


@dataclass(frozen=True, eq=False)
class Vectors:
    """Vectors with what is known of them.

    Raises:
        InputError: there is no such kind, or vectors, layers and labels are not as many of each.

    Attributes:
        vectors: float32 [n, d], on the CPU.
        kind: activation, direction or difference; see `Kind`.
        layer: the block whose output they are of, an int or one a row; -1: the embeddings.
        site: "residual", the only one that is read.
        labels: a name for each row: `#12`, a feature's name, a row's id.
        model: Hub id, folder or model type; None: not known.
        origin: file or repository, tool and its version.
        assumed, unknown: sentences, for whoever wants to check.

    Example:
        >>> from nla_sdk import vectors
        >>> features = vectors.load("sae-folder#3,7")  # doctest: +SKIP
        >>> pair.explain(features)  # doctest: +SKIP
    """

    vectors: torch.Tensor
    kind: Kind
    layer: int | tuple[int, ...]
    site: str = RESIDUAL
    labels: tuple[str, ...] = ()
    model: str | None = None
    origin: str = ""
    assumed: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        as_kind(self.kind)
        shape, layer = tuple(getattr(self.vectors, "shape", ())), as_layer(self.layer)
        if len(shape) != 2:
            raise InputError(f"Vectors of shape {shape}; expected a tensor [n, d]. Of one vector: vector[None].")
        if layer is None:
            raise InputError("layer=None: expected a block's number, or one of each row.")
        object.__setattr__(self, "layer", as_layers(layer, shape[0]))
        if self.labels and (isinstance(self.labels, str) or len(self.labels) != shape[0]):
            raise InputError(f"labels: {len(self.labels)} of {shape[0]} vectors; expected a name for each, or none.")

    def __len__(self) -> int:
        return len(self.vectors)

    @property
    def layers(self) -> tuple[int, ...]:
        """The layer of each row."""
        return (self.layer,) * len(self) if isinstance(self.layer, int) else self.layer

    def __neg__(self) -> Vectors:
        """The same, turned round."""
        return replace(self, vectors=-self.vectors, labels=tuple(f"−{label}" for label in self.labels))

    def signed(self, sign: str | None) -> Vectors:
        """As they are ("+" and None), turned round ("-"), or both of each, one after the other ("±").

        Raises:
            InputError: activations have no other sign.
        """
        import torch

        if sign in (None, "+"):
            return self
        if self.kind == "activation":
            raise InputError(f"sign={sign!r}: an activation is a point and has no other sign; leave it out.")
        if sign == "-":
            return -self
        each = [signed for label in self.labels for signed in (f"+{label}", f"−{label}")]
        layer = self.layer if isinstance(self.layer, int) else tuple(of for of in self.layer for _ in "+-")
        both = torch.stack([self.vectors, -self.vectors], dim=1).flatten(0, 1)
        return replace(self, vectors=both, layer=layer, labels=tuple(each))

    def __repr__(self) -> str:
        rows, width = self.vectors.shape
        layers = sorted(set(self.layers))
        where = str(layers[0]) if len(layers) == 1 else f"{layers[0]} to {layers[-1]}"
        return f"Vectors({rows} × {width}, {self.kind}, layer {where}, {self.origin})"
