"""What each command does to a table of rows: read activations, explain, reconstruct, round-trip.

Every function here makes a `Work`: rows in, rows out, with the results in new columns and all other columns carried
along. No result depends on the rows beside it, so a file may be worked through in pieces.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pyarrow as pa
import torch

from ..calls.held import facts_of, refuse_foreign
from ..contract.prompts.tokens import check_embedded, encode
from ..errors import InputError, NonFiniteOutputError, PositionError, TextError
from ..halves.hub.naming import other_names
from ..io.origins import COLUMNS, Origin, RowFacts, check_origin, common
from ..io.rows.row_source import TEXTS, Rows, RowSource
from ..io.tables import usable_vectors, vector_column
from ..model.extraction import resolve_positions, tokenize
from ..model.injection import as_vectors
from ..pair import NLAPair
from ..results import SCORE_COLUMNS, Score, row_status
from ..sampling import whole_number
from ..vectors.kinds import Kind, Vectors
from .vectors import KIND, VectorRows, kind_of, kinds_in

Work = Callable[[pa.Table, int], pa.Table]
"""Rows, and the number of the first one, to rows."""


def extract(pair: NLAPair, source: Rows, positions: int | str | Sequence[int] = -1, layer: int | None = None) -> Work:
    """Texts → activations in the reference pipeline's columns, one row for each position read."""
    tokenizer = pair.source.tokenizer

    def work(table: pa.Table, first: int) -> pa.Table:
        texts = table[source.column].to_pylist()
        rows = [tokenize(tokenizer, text) for text in texts]
        for number, ids in enumerate(rows, first):
            check_embedded(tokenizer, ids, pair.source.vocabulary, f"{source.name}, row {number}: {source.column}")
            try:
                resolve_positions(positions, len(ids))
            except PositionError as error:
                raise PositionError(f"{source.name}, row {number}: {error}") from None
        with _rows_of(source, first):
            read = pair.extract(texts, positions, layer)
        reached = [rows[text][: position + 1] for text, position in zip(read.texts, read.positions, strict=True)]
        of_text = pa.array(read.texts, pa.int64())
        carried = {column: table[column].take(of_text) for column in table.column_names if column != source.column}
        ids = [f"{source.stem}:{first + text}" for text in read.texts]
        new: dict[str, Any] = {} if "doc_id" in table.column_names else {"doc_id": ids}
        new |= {
            "n_raw_tokens": pa.array([len(ids) for ids in reached], pa.int32()),
            "activation_layer": pa.array([read.layer] * len(read), pa.int32()),
            "activation_vector": vector_column(read.vectors.numpy()),
            "token": read.tokens,
            "detokenized_text_truncated": [tokenizer.decode(ids, skip_special_tokens=True) for ids in reached],
            "activation_model": pa.array([read.model] * len(read), pa.string()),
            "activation_revision": pa.array([read.revision] * len(read), pa.string()),
            "activation_precision": pa.array([read.precision] * len(read), pa.string()),
        }
        return add_columns(carried, new)

    return work


def origin_of(
    reads: Origin,
    source: RowSource,
    said: Sequence[RowFacts],
    *,
    types: Iterable[str] = (),
    layer: int | None = None,
    force: bool = False,
) -> Origin:
    """Where the activations of INPUT were read, held against what the pair reads; those of texts are read here.

    Args:
        reads: what the pair reads.
        types: the model types of its base.
        said: what its rows say of themselves (`facts_of_rows`).
        layer: of texts, if not the pair's; of activations, what they are said to be of.
        force: warn where activations of another layer or model would be refused.
    Raises:
        ForeignActivationError: INPUT says that its activations are not the pair's kind; names the rows.
    """
    if source.holds == TEXTS:
        return reads if layer is None else replace(reads, layer=layer)
    if isinstance(source, VectorRows):
        return _origin_of_vectors(reads, types, source.vectors, force)
    said = [*source.beside, *said]
    also = other_names(reads.model, (facts.get("model") for _, facts in said))
    reads = replace(reads, also=reads.also + also)
    if layer is not None:  # the prompt would say it of all rows
        reads = replace(reads, layer=layer, layers=None)
    check_origin(said, reads, source.name, force=force)
    return common(said)


def _origin_of_vectors(reads: Origin, types: Iterable[str], vectors: Vectors, force: bool) -> Origin:
    also = other_names(reads.model, [vectors.model])
    refuse_foreign(vectors, replace(reads, also=reads.also + also), types, force=force)
    return common(facts_of(vectors))


def layers_of(pair: NLAPair, source: Rows, table: pa.Table) -> list[int] | None:
    """The block that each row's activation was read from, as column or sidecar say, where the pair may be told.

    Raises:
        InputError: a row's is no whole number.
    """
    contract = pair.contract
    if contract.layers is None:
        return None
    of_all = source.layer
    column = COLUMNS["layer"]
    said = table[column].to_pylist() if column in table.column_names else [None] * table.num_rows
    said = [of_all if one is None else one for one in said]
    if not any(one is not None for one in said):
        return None
    own = pair.layer
    layers = [own if one is None else whole_number(column, one) for one in said]
    return [one if contract.layers == "any" or one in contract.layers else own for one in layers]


def explain(
    pair: NLAPair,
    source: Rows,
    positions: int | str | Sequence[int] = -1,
    layer: int | None = None,
    **writing: Any,
) -> Work:
    """Activations (or texts, read at `positions`) → `api_explanation`, `explanation_status`; the score of a choice.

    Args:
        layer: of all rows, if not what they say themselves; texts are read there.
        writing: as `NLAPair.explain` takes it: best_of, temperature, seed, …
    """

    def work(vectors: torch.Tensor, layers: int | list[int] | None, kind: Kind) -> dict:
        explanations = pair.explain(vectors, layer=layers, **_told(writing, kind))
        scores = [explanation.score for explanation in explanations if explanation.score]
        statuses = [row_status(explanation.status, explanation.score) for explanation in explanations]
        columns = {
            "api_explanation": pa.array(explanations, pa.string()),
            "explanation_status": pa.array(statuses, pa.string()),
        }
        return columns | score_columns(scores)

    how = {"layer": layer, "force": writing.get("force", False), "kind": writing.get("kind")}
    return _on_vectors(pair, source, positions, work, **how)


def round_trip(
    pair: NLAPair,
    source: Rows,
    positions: int | str | Sequence[int] = -1,
    layer: int | None = None,
    **writing: Any,
) -> Work:
    """As `explain`, and how well the AR finds its way back, beside what no words and the mean direction score."""

    def work(vectors: torch.Tensor, layers: int | list[int] | None, kind: Kind) -> dict:
        trips = pair.round_trip(vectors, layer=layers, **_told(writing, kind))
        columns = {
            "api_explanation": pa.array([trip.explanation for trip in trips], pa.string()),
            "explanation_status": pa.array([trip.status for trip in trips], pa.string()),
        }
        return columns | score_columns(trips)

    how = {"layer": layer, "force": writing.get("force", False), "kind": writing.get("kind")}
    return _on_vectors(pair, source, positions, work, **how)


def _told(writing: dict[str, Any], kind: Kind) -> dict[str, Any]:
    """What `explain` and `round_trip` are told of rows of a kind; activations have been looked at by `_on_vectors`."""
    return writing | {"kind": kind} | ({"force": True} if kind == "activation" else {})


def reconstruct(pair: NLAPair, source: Rows) -> Work:
    """Explanations → `reconstruction`, FixedSizeList<float32>[d]."""

    def work(table: pa.Table, first: int) -> pa.Table:
        texts = table[source.column].to_pylist()
        try:
            with _rows_of(source, first):
                vectors = pair.reconstruct(texts)
        except TextError:  # of one of these texts: named as INPUT has it
            assert pair.reconstructor is not None, "it has read them"
            backbone = pair.reconstructor.backbone
            for number, ids in enumerate(encode(backbone.tokenizer, texts), first):
                check_embedded(
                    backbone.tokenizer, ids, backbone.vocabulary, f"{source.name}, row {number}: {source.column}"
                )
            raise
        return add_columns(columns_of(table), {"reconstruction": vector_column(vectors.numpy())})

    return work


def _on_vectors(
    pair: NLAPair,
    source: Rows,
    positions: int | str | Sequence[int],
    work: Callable[[torch.Tensor, int | list[int] | None, Kind], dict],
    *,
    layer: int | None,
    force: bool,
    kind: Kind | None,
) -> Work:
    """Texts become activations first; of vectors that look like something else the first chunk's cause is told.

    Args:
        kind: of all rows; None: what a column says, else activations.
    """
    told: set[str] = set()
    if (markers := pair.contract.injection_markers) not in (1, "any"):
        raise InputError(
            f"{source.name}: a row holds one vector, and a prompt of this pair takes {markers}. Pass them together: "
            "pair.explain(vectors) with vectors [rows, markers, d_model]."
        )
    if layer is not None:
        pair.require_layers(layer)
    read = extract(pair, source, positions, layer) if source.holds == TEXTS else None
    column = "activation_vector" if read else source.column

    def on_table(table: pa.Table, first: int) -> pa.Table:
        given = table.num_rows
        if read:
            table = read(table, first)
        vectors, _ = as_vectors(
            torch.tensor(usable_vectors(table, column, name=source.name, first=first)), pair.d_model
        )
        layers = layers_of(pair, source, table) if layer is None else layer
        of = "activation" if read else kind or kind_of(table) or "activation"
        known = set([layers] if isinstance(layers, int) else layers or [pair.layer]) == {pair.layer}
        known = known and of == "activation"
        if read is None and not force and known and not (report := pair.check_activations(vectors, wait=False)).ok:
            looks = f"{report.looks_like} {report.cause}" if report.rows else str(report.looks_like)
            if looks not in told:
                told.add(looks)
                report.warn(f"{source.name}: the activations from row {first} on", first=first)
        carried, new = columns_of(table), {}
        said = set() if read else kinds_in(table)
        if of != "activation" or said:  # said in the output, so that nobody takes the rows for something else again
            carried = {name: column for name, column in carried.items() if name != KIND or not said}
            new = {KIND: pa.array([of] * table.num_rows)}
        with _rows_of(source, first if table.num_rows == given else 0):
            return add_columns(carried, new | work(vectors, layers, of))

    return on_table


def score_columns(scores: Sequence[Score]) -> dict:
    """Scores as columns; nothing of none."""
    if not scores:
        return {}
    types = {"matched": pa.bool_()}
    return {
        name: pa.array([getattr(score, name) for score in scores], types.get(name, pa.float64()))
        for name in SCORE_COLUMNS
    }


def vectors_of(table: pa.Table, source: Rows) -> torch.Tensor:
    """INPUT's activations, float32 [rows, d]."""
    return torch.tensor(usable_vectors(table, source.column, name=source.name))


@contextmanager
def _rows_of(source: Rows, first: int) -> Iterator[None]:
    """Rows that a model gives no numbers for are named as those of INPUT, whose row `first` is the first one here."""
    try:
        yield
    except NonFiniteOutputError as error:
        raise error.numbered(lambda row: first + row, of=source.name) from None


def columns_of(table: pa.Table) -> dict:
    """A table's columns by name."""
    return {name: table[name] for name in table.column_names}


def add_columns(carried: dict, new: dict) -> pa.Table:
    """A table of both; a carried column of the same name as a new one (labels, say) is kept as `<name>_in`."""
    columns = {}
    for name, values in carried.items():
        while name in new or name in columns:
            name += "_in"
        columns[name] = values
    return pa.table(columns | new)
