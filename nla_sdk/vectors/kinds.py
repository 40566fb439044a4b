"""What vectors are: their kind, where they were, what was assumed of them, what nobody knows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
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
    """

    kind: Kind | None = None
    layer: int | Sequence[int] | None = None
    model: str | None = None
    maker: str | None = None
    sign: str | None = None
    centred: bool | None = None
    site: str | None = None
    column: str | None = None


@dataclass(frozen=True)
class Found:
    """What a reader tells of a file before a row is read.

    Attributes:
        tool: what wrote it, with its version where that shows: `sae-lens 6`, `Gemma Scope`.
        count, width: rows and their numbers.
        read: rows by number → float32 [k, width], in that order.
        kind, layer, site, model: where the file or the caller says it; a layer of each row where they differ.
        labels: a name for each row; of nulls in a table too.
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
    missing: frozenset[int] = frozenset()
    assumed: tuple[str, ...] = ()
    questions: tuple[Question, ...] = ()
    unknown: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Vectors:
    """Vectors with what is known of them.

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

    def __len__(self) -> int:
        return len(self.vectors)

    @property
    def layers(self) -> tuple[int, ...]:
        """The layer of each row."""
        return (self.layer,) * len(self) if isinstance(self.layer, int) else self.layer

    def __neg__(self) -> Vectors:
        """The same, turned round."""
        return replace(self, vectors=-self.vectors, labels=tuple(f"−{label}" for label in self.labels))

    def __repr__(self) -> str:
        rows, width = self.vectors.shape
        layers = sorted(set(self.layers))
        where = str(layers[0]) if len(layers) == 1 else f"{layers[0]} to {layers[-1]}"
        return f"Vectors({rows} × {width}, {self.kind}, layer {where}, {self.origin})"
