"""`nla steer`: what the source writes with a direction in its stream, beside what it writes without."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ...errors import InputError
from ..options import FileOptions, PairOptions
from ..terminal import print_grid

if TYPE_CHECKING:
    from ...calls.steered import Steered
    from ...vectors import Vectors

MOST = 16  # rows of a reference that are steered along in one call
MOVED = 3  # of the next tokens that a table shows


def steer(
    prompt: str,
    towards: str | None,
    vector: str | None,
    strengths: Sequence[float],
    pair_options: PairOptions,
    writing: dict[str, Any],
    options: FileOptions,
    *,
    layer: int | None,
    column: str | None,
    as_json: bool,
) -> None:
    """Steer, and print what comes of it.

    Args:
        towards: a text. vector: a reference to vectors; one of the two.
        strengths: all for each of the vectors.
        writing: the settings of the writing, as `NLAPair.steer` takes them.
        options: what the vectors are, where their file does not say it; column: those of a table, or an array.
    """
    from ...io.text import check_text

    check_text(prompt, "The prompt")
    if (towards is None) == (vector is None):
        given = "neither" if towards is None else "both"
        raise InputError(f"Steer towards what? {given} given; expected --towards TEXT or --vector REF.")
    stated = vars(options) | {"column": column}
    if towards is not None and (said := [name for name, value in stated.items() if value is not None]):
        raise InputError(f"--{said[0].replace('_', '-')} is said of vectors; --towards is a text.")
    way: str | Vectors
    if vector is None:
        assert towards is not None
        way = towards
    else:
        way = times(loaded(vector, options, layer, pair_options, column), len(strengths))
        strengths = [*strengths] * (len(way) // len(strengths))
    pair = pair_options.load()
    results = pair.steer(prompt, way, list(strengths), layer=layer, **writing)
    if as_json:
        for one in results:
            print(json.dumps(one.to_row(), ensure_ascii=False))
    else:
        show(results)
    sys.stdout.flush()


def loaded(
    ref: str, options: FileOptions, layer: int | None, pair_options: PairOptions, column: str | None = None
) -> Vectors:
    """The vectors of a reference.

    Raises:
        as `nla_sdk.vectors.loading.load`; InputError: there are too many to steer along.
    """
    from ... import vectors

    where = {"layer": layer, "column": column, "local_files_only": pair_options.local_files_only}
    found = vectors.load(ref, **options.stated(), **where)
    if len(found) > MOST:
        raise InputError(f"{ref} holds {len(found):,} vectors; expected at most {MOST}. Name them: {ref}#0, {ref}#3,7.")
    return found


def times(vectors: Vectors, count: int) -> Vectors:
    """Each row as often as there are strengths."""
    return replace(
        vectors,
        vectors=vectors.vectors.repeat_interleave(count, dim=0),
        layer=tuple(layer for layer in vectors.layers for _ in range(count)),
        labels=tuple(label for label in vectors.labels for _ in range(count)),
    )


def show(results: Sequence[Steered]) -> None:
    """A table for each text or vector: what is written without it, which is the same at every strength, and with it."""
    for name in dict.fromkeys(one.towards for one in results):
        rows = [one for one in results if one.towards == name]
        print(f"towards {name}, layer {rows[0].layer}")
        plain = [rows[0].plain, *[""] * (len(rows) - 1)]
        shown = [
            (f"{one.strength:g}", without, one.steered, _moved(one)) for one, without in zip(rows, plain, strict=True)
        ]
        print_grid([("strength", 8), ("without", None), ("with", None), ("next token", 28)], shown)


def _moved(one: Steered) -> str:
    return "\n".join(f"{moved.token!r} {moved.plain:.3f} → {moved.steered:.3f}" for moved in one.moved[:MOVED])
