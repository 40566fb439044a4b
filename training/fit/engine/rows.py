"""Rows of training tables, the tokens of their labels, and the vectors of several layers that go into one prompt."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nla_sdk.errors import InputError
from nla_sdk.io.files import hash64
from nla_sdk.io.tables import read_table, usable_vectors

from ...configs.config import Config
from ...data.tables.columns import target_text

TEXTS = ("api_explanation", "response", "labeler_model")
"""Columns that every row of a training table has a text in."""
REPEATS = 3
"""How often a row of a rare family is drawn, at most, where families count alike."""


def evenly(count: int, wanted: int | None) -> list[int]:
    """At most `wanted` of the indices 0 … count − 1, evenly spaced; None: all of them.

    A table lies in its corpus's order, and its beginning is of one kind of text.

    Example:
        >>> evenly(7, 3)
        [0, 3, 6]
    """
    if wanted is None or wanted >= count:
        return list(range(count))
    return np.linspace(0, count - 1, wanted).astype(int).tolist()


def balanced(families: Sequence[str | None], wanted: int) -> list[int]:
    """`wanted` indices of rows, in order, so that each family has as many as any other; a row is there at most
    `REPEATS` times, and what a small family cannot give so is given by the larger ones.

    Example:
        >>> balanced(["a", "a", "a", "a", "a", "a", "b"], 6)
        [0, 2, 5, 6, 6, 6]
    """
    places: dict[str | None, list[int]] = {}
    for at, family in enumerate(families):
        places.setdefault(family, []).append(at)
    picked: list[int] = []
    for done, own in enumerate(sorted(places.values(), key=len)):
        share = min((wanted - len(picked)) // (len(places) - done), REPEATS * len(own))
        times, more = divmod(share, len(own))
        picked += own * times + [own[at] for at in evenly(len(own), more)]
    return sorted(picked)


Labelled = tuple[torch.Tensor, list[dict[str, Any]]]
"""Vectors float32 [n, d], raw, and the n rows' other columns."""


def load_rows(path: Path, sources: Sequence[str], max_rows: int | None = None, *, weights: str = "none") -> Labelled:
    """Rows of a training table whose label is of one of `sources`.

    Args:
        path: the table.
        sources: kinds of labels, see `kind_of`.
        max_rows: of more, evenly spaced ones are taken.
        weights: "balanced": as many rows, of all families as many, see `balanced`.
    Returns:
        Vectors float32 [n, d], raw, and the n rows' other columns.
    Raises:
        InputError: there is no such table, or no such row in it; or no column of families to balance.
    """
    if not path.is_file():
        raise InputError(f"{path} does not exist: run `python -m training.data.build` first.")
    table = read_table(path, texts=TEXTS)
    vectors = torch.from_numpy(usable_vectors(table, name=str(path)).copy())
    rows = table.drop_columns(["activation_vector"]).to_pylist()
    kept = [i for i, row in enumerate(rows) if kind_of(row["labeler_model"]) in sources]
    if not kept:
        raise InputError(f"{path} holds no rows with labels from {', '.join(sources)}.")
    if weights == "balanced":
        if "source_family" not in table.column_names:
            raise InputError(f"{path} has no column source_family, by which family_weights: balanced draws rows.")
        wanted = min(max_rows or len(kept), len(kept))
        places = balanced([rows[i]["source_family"] for i in kept], wanted)
    else:
        places = evenly(len(kept), max_rows)
    kept = [kept[place] for place in places]
    return vectors[kept], [rows[i] for i in kept]


def held_apart(rows: Sequence[Mapping[str, Any]], wanted: int) -> tuple[list[int], list[int]]:
    """The rows to train on, and at most `wanted` to choose by, of an eighth of the documents, by a hash of their ids.

    Where all documents fall on one side, none is held apart.

    Example:
        >>> held_apart([{"doc_id": name} for name in "iijlkl"], wanted=5)
        ([0, 1, 2, 4], [3, 5])
    """
    apart = [at for at, row in enumerate(rows) if hash64(str(row["doc_id"])) % 8 == 0]
    kept = sorted(set(range(len(rows))) - set(apart))
    if not kept or not apart:
        return list(range(len(rows))), []
    return kept, [apart[place] for place in evenly(len(apart), wanted)]


def load_written(path: Path, kind: str, wanted: int) -> tuple[Labelled, Labelled]:
    """What an AV wrote: rows to train on, and at most `wanted` of other documents to choose by.

    Where it is trained on, it is chosen by too. By labels alone every step away from them is a step back, and the best
    half is what training started from.

    Args:
        kind: "expert" or "on_policy".
    """
    vectors, rows = load_rows(path, [kind])
    sides = held_apart(rows, wanted)
    trained, apart = ((vectors[side], [rows[at] for at in side]) for side in sides)
    return trained, apart


def without(given: Labelled, documents: Container[str]) -> Labelled:
    """The rows that are of none of the documents."""
    vectors, rows = given
    kept = [at for at, row in enumerate(rows) if row["doc_id"] not in documents]
    return vectors[kept], [rows[at] for at in kept]


def choosing_table(folder: Path) -> Path:
    """The table that trainers measure on, and choose `final/` by: `validation.parquet` of a run that has one, else the
    one that figures are reported on."""
    validation = folder / "validation.parquet"
    return validation if validation.is_file() else folder / "eval.parquet"


def load_vectors(path: Path, max_rows: int | None = None) -> torch.Tensor:
    """The activations of a training table, float32 [n, d], raw: all, or `max_rows` evenly spaced ones.

    Raises:
        InputError: there is no such table.
    """
    if not path.is_file():
        raise InputError(f"{path} does not exist: run `python -m training.data.build` first.")
    vectors = torch.from_numpy(usable_vectors(read_table(path, ["activation_vector"]), name=str(path)).copy())
    if not len(vectors):
        raise InputError(f"{path} holds no rows; expected activations.")
    return vectors[evenly(len(vectors), max_rows)]


def kind_of(labeler: str) -> str:
    """extractive, readout, expert, on_policy or written, from a row's `labeler_model`."""
    for kind in ("extractive", "readout", "expert"):
        if labeler.startswith(kind):
            return kind
    return "on_policy" if labeler.startswith("av:") else "written"


def label_texts(config: Config) -> list[str]:
    """The responses that the AV is trained on, those of its `sources`, as it has learnt to write them."""
    rows = read_table(config.tables_from / "av_sft.parquet", TEXTS[1:], TEXTS[1:]).to_pylist()
    own = [row["response"] for row in rows if kind_of(row["labeler_model"]) in config.av.sources]
    return [target_text(response, config.av.template) for response in own]


def label_tokens(texts: Sequence[str], tokenizer: Any) -> set[int]:
    """Every token of such texts."""
    return {token for ids in tokenizer(list(texts), add_special_tokens=False).input_ids for token in ids}


def refuse_several(config: Config, stage: str) -> None:
    """Refuse an AV that is given several vectors where a row has one.

    Raises:
        InputError: `av.injection.layers` names some.
    """
    if layers := config.av.injection.layers:
        raise InputError(
            f"{stage} gives the AV one vector a row, and av.injection.layers has {len(layers)} a prompt: only "
            "training.fit.av trains such an AV; in Python pair.explain takes [rows, markers, d_model]."
        )


class Layers:
    """The activations of `av.injection.layers`, to be had by a row's id. Without such layers it changes nothing.

    Raises:
        InputError: a layer's table is missing.
    """

    def __init__(self, config: Config) -> None:
        self.layers, self.own = config.av.injection.layers, config.layer
        self._tables: dict[int, tuple[Mapping[str, int], torch.Tensor]] = {}
        for layer in self.layers:
            if layer == self.own:
                continue
            path = config.activations.with_name(f"activations_L{layer}.parquet")
            if not path.is_file():
                raise InputError(
                    f"{path} does not exist, and av.injection.layers names layer {layer}: put it into extract.layers "
                    "and run `python -m training.data.extract` again."
                )
            table = read_table(path, ["row_id", "activation_vector"], ["row_id"])
            places = {row_id: at for at, row_id in enumerate(table.column("row_id").to_pylist())}
            self._tables[layer] = places, torch.from_numpy(usable_vectors(table, name=str(path)).copy())

    def stacked(self, own: torch.Tensor, rows: Sequence[Mapping[str, Any]]) -> torch.Tensor:
        """What goes into each row's prompt.

        Args:
            own: float32 [n, d], the rows' vectors of the pair's own layer.
            rows: of the training table, with their `row_id`.
        Returns:
            `own` where one vector goes in; else float32 [n, layers, d], in the order of `av.injection.layers`.
        Raises:
            InputError: a row's activation is in no table of another layer, as of published rows.
        """
        if not self.layers:
            return own
        return torch.stack([own if layer == self.own else self._of(layer, rows) for layer in self.layers], dim=1)

    def _of(self, layer: int, rows: Sequence[Mapping[str, Any]]) -> torch.Tensor:
        places, vectors = self._tables[layer]
        if missing := next((row["row_id"] for row in rows if row["row_id"] not in places), None):
            raise InputError(
                f"The activation of row {missing} at layer {layer} is in no table here. Rows of published tables have "
                "the vector of one layer only: leave them out (build.published)."
            )
        return vectors[[places[row["row_id"]] for row in rows]]
