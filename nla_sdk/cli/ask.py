"""`nla ask`: INPUT's activations, or a text's, and a question → an oracle's answer."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from ..io.progress import say
from .options import AnsweringOptions, OutputOptions, PairOptions, VectorOptions
from .rows import form_of, parse_positions
from .terminal import RowTable
from .vectors.inputs import names_vectors, open_vectors, shown_as

if TYPE_CHECKING:
    from ..io.origins import RowFacts


def ask(
    question: str,
    given: str,
    pair_options: PairOptions,
    output: OutputOptions,
    answering: AnsweringOptions,
    vector_options: VectorOptions,
    positions: str,
    layer: int | None,
    *,
    each: bool,
) -> None:
    """Ask, and print or write what comes back.

    Args:
        given: INPUT.
        positions: as typed.
        each: a question about each row by itself.
    """
    import pyarrow as pa

    from ..io.origins import facts_of_rows
    from ..io.rows import sources
    from ..io.text import check_text
    from ..jobs import work as rows
    from ..jobs.local import Target
    from ..jobs.vectors import kind_of

    check_text(question, "The question")
    where = slice_of(positions)
    if names_vectors(given, said=vector_options.needed_for(given), as_text=output.as_text):
        reading = {"layer": layer, "column": output.column, "local_files_only": pair_options.local_files_only}
        source, layer = open_vectors(given, vector_options, **reading), None
    else:
        looked_for = ("activation_vector", "text")
        source = sources.open_source(given, looked_for, column=output.column, as_text=output.as_text)
    shown = shown_as(source, vector_options)
    form = form_of(output)
    if output.out is not None:
        target = Target.at(output.out, str(form), None, (), output.overwrite)
        if target.store is not None:
            raise InputError(f"{target}: answers are written to files here; name one with -o.")
        target.refuse_early()
    said: list[RowFacts] = []
    count = source.check(watch=lambda table, first: said.extend(facts_of_rows(table, first)))
    table = pa.concat_tables(source.batches(count))
    pair = pair_options.load()
    rows.origin_of(pair.origin, source, said, types=pair.model_types, layer=layer, force=answering.force)
    options: dict[str, Any] = vars(answering) | {"layer": layer} | shown
    if source.holds == sources.TEXTS:
        texts = table[source.column].to_pylist()
        answers = pair.ask(texts, question, positions=where, **options)
    else:
        vectors = rows.vectors_of(table, source)
        options.setdefault("kind", kind_of(table))
        if layer is None and (layers := rows.layers_of(pair, source, table)) is not None:
            if not each and len(set(layers)) > 1:
                raise InputError(
                    f"{source.name}: its rows are of the layers {', '.join(map(str, sorted(set(layers))))}, and one "
                    "prompt says one layer. Ask about each row (--each), or about the rows of one layer."
                )
            options["layer"] = layers if each else layers[0]
        answers = pair.ask(vectors[:, None] if each else vectors[None], question, **options)
    show([answer.to_row() for answer in answers], output, form)


def show(answers: list[dict[str, Any]], output: OutputOptions, form: str | None) -> None:
    """Print the answers, or write them."""
    import pyarrow as pa

    from ..io.files import atomic
    from ..io.rows import formats

    table = pa.Table.from_pylist(answers)
    if output.out is not None:
        with atomic(Path(output.out)) as sibling:
            formats.write_tables(sibling, str(form), iter([table]), rows=table.num_rows, vectors=None)
        say(f"wrote {output.out}")
    elif form == "jsonl":
        for line in formats.json_lines(table):
            print(line)
    else:
        RowTable("ask").print(table)
    sys.stdout.flush()


def slice_of(text: str) -> int | str | list[int] | tuple[int, int]:
    """`4:9` as (4, 9); anything else as for the other commands.

    Raises:
        InputError: it is neither.
    """
    first, colon, end = text.partition(":")
    if not colon:
        return parse_positions(text)
    try:
        return int(first), int(end)
    except ValueError:
        raise InputError(f"--positions {text:.60}: expected a:b, such as 4:9 (the tokens 4 to 8).") from None
