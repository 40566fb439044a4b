"""`nla compare A B`: two texts or vectors in words, and what lies between them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...errors import InputError
from ..options import AnsweringOptions, PairOptions, VectorOptions
from .inputs import load, names_vectors

if TYPE_CHECKING:
    from ...pair import NLAPair


def compare(
    a: str, b: str, pair_options: PairOptions, answering: AnsweringOptions, options: VectorOptions, **more: Any
) -> None:
    """Compare them, and print what comes back.

    Args:
        a, b: INPUTs.
        more: `layer`, `column`, `as_text` of both, and `as_json`.
    Raises:
        InputError: one holds several rows, or as `nla explain`.
    """
    import json

    as_json, signs = more.pop("as_json"), "±" if options.sign == "±" else "+"
    if options.sign not in (None, "±"):
        raise InputError("--sign: expected ± (b − a too); to have b − a alone exchange the two.")
    both = [_given(one, options, pair_options, **more) for one in (a, b)]
    pair: NLAPair = pair_options.load()
    shown = options.shown()
    found = pair.compare(*both, signs=signs, layer=more["layer"], **vars(answering), **shown)
    [one] = found if isinstance(found, list) else [found]
    if not as_json:
        print(one)
        return
    row = one.to_row()
    row.pop("activation_vector")
    print(json.dumps(row, ensure_ascii=False))


def _given(
    given: str,
    options: VectorOptions,
    pair_options: PairOptions,
    *,
    layer: int | None,
    column: str | None,
    as_text: bool,
) -> Any:
    """A text, or one vector."""
    from dataclasses import replace

    from ...io.rows import sources
    from ...io.tables import usable_vectors

    unsigned = replace(options, sign=None)
    if names_vectors(given, said=unsigned.needed_for(given), as_text=as_text):
        where = {"layer": layer, "column": column, "local_files_only": pair_options.local_files_only}
        vectors = load(given, unsigned, **where)
        if len(vectors) != 1:
            raise InputError(f"{given} names {len(vectors)} vectors; name one of them with #.")
        return vectors
    source = sources.open_source(given, ("activation_vector", "text"), column=column, as_text=as_text)
    if (count := source.check()) != 1:
        raise InputError(f"{source.name} holds {count} rows; expected a text, one row, or one vector named with #.")
    table = next(source.batches(1))
    if source.holds == sources.TEXTS:
        return table[source.column][0].as_py()
    return usable_vectors(table, source.column, name=source.name)[0]
