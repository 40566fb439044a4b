"""What an AV writes for many activations, as a table: chunk by chunk, here or by the actors of a cluster.

A killed run goes on, whoever has made its chunks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from nla_sdk import NLAPair
from nla_sdk.errors import InputError
from nla_sdk.halves.fetch import fetch_base
from nla_sdk.halves.half import ADAPTER_FILES
from nla_sdk.io.chunks import Chunks, is_finished
from nla_sdk.io.files import sha256_of
from nla_sdk.io.tables import read_table, usable_vectors, vector_column
from nla_sdk.jobs.cluster.stages import Spread, make, missing
from nla_sdk.jobs.unit import Loaded

from ...configs.config import Config
from ...data.tables.columns import prompt_column, response_of
from .rows import evenly, label_texts, label_tokens, refuse_several

ROWS_PER_CHUNK = 128
ABOUT = ("doc_id", "n_raw_tokens", "activation_layer", "detokenized_text_truncated", "source_family")
Explain = Callable[[NLAPair, np.ndarray], Sequence[str]]


def explain_rows(
    config: Config,
    stage: str,
    source: Path,
    *,
    rows: int,
    halves: Mapping[str, Path],
    labeler: str,
    closed: bool,
    explain: Explain,
    settings: Mapping[str, Any],
    engine: str | None = None,
    spread: Spread | None = None,
) -> Path:
    """Explanations of `rows` activations of a table as `<out>/<stage>.parquet`.

    Args:
        source: the table; of more than `rows` activations, evenly spaced ones.
        halves: "av" and, where `explain` needs it, "ar": folders.
        labeler: the rows' labeler_model is this and a hash of the AV.
        closed: write tokens of the AV's training labels only.
        explain: one explanation for each of some vectors; an empty one is left out. It is pickled for actors.
        settings: more that the table depends on.
        engine: address of an inference server that holds the exported AV and writes; None: it is written here.
        spread: gives the actors that write; None: this process does.
    Returns:
        The table's path.
    Raises:
        InputError: the table or a half is missing.
        ClusterError: there are no such actors, or a chunk has ended two of them.
    """
    refuse_several(config, f"training.fit.{stage}")
    for path in (source, *halves.values()):
        if not path.exists():
            raise InputError(f"{path} does not exist: run the stages before this one first.")
    weights = {role: sha256_of(half / ADAPTER_FILES[1]) for role, half in halves.items()}
    table = read_table(source, texts=("row_id",))
    about = table.drop_columns(["activation_vector"]).to_pylist()
    if not about:
        raise InputError(f"{source} holds no rows; expected activations.")
    picked = _one_row_an_activation(about, rows)
    vectors = usable_vectors(table, name=str(source))[picked]
    inputs = {source.name: sha256_of(source)}
    inputs |= {f"{role}/{ADAPTER_FILES[1]}": digest for role, digest in weights.items()}
    prompt = prompt_column(config.av.template)
    facts = {"inputs": inputs, "picked": picked, "rows_per_chunk": ROWS_PER_CHUNK, "prompt": prompt, **settings}
    if closed:
        labels = [source for source in config.av.sources if source != "expert"]  # which are in no table of labels
        facts["vocabulary"] = [sha256_of(config.tables_from / "av_sft.parquet"), labels]
    path = config.out / f"{stage}.parquet"
    chunks = Chunks(config.out / "chunks", stage, facts)
    if is_finished(path, chunks.identity, overwrite=True):  # another AV's words are of no further use
        chunks.remove()
        return path
    labeler = f"{labeler}:{weights['av'][:12]}"
    work = Explaining(explain, [about[row] for row in picked], vectors, prompt, labeler, ROWS_PER_CHUNK)
    told = {"av": halves["av"], "ar": halves.get("ar"), "base": config.base}
    writer = Writing(told, label_texts(config) if closed else None, engine)
    with chunks.kept_on_stop(stage):
        if missing(work, chunks):
            with nullcontext(writer.load()) if spread is None else spread(writer) as by:
                make(work, chunks, by, stage, drops=lambda one: {"empty": one.rows - len(one.outputs["rows"])})
    meta = {"base_model": config.base_id, "d_model": vectors.shape[1], "layer": config.layer, "inputs": inputs}
    chunks.finish("rows", path, meta)
    chunks.remove()
    return path


def _one_row_an_activation(about: Sequence[Mapping[str, Any]], rows: int) -> list[int]:
    """Evenly spaced rows of a table, each of another activation: a text with two labels is one activation."""
    first: dict[str, int] = {}
    for index, row in enumerate(about):
        first.setdefault(row["row_id"], index)
    activations = list(first.values())
    return [activations[place] for place in evenly(len(activations), rows)]


@dataclass(eq=False)
class Writing(Loaded):
    """The pair that writes, in this process or an actor.

    Args:
        pair: as `NLAPair.from_pretrained` is told; its base as the config names it.
        labels: texts whose tokens alone it may write; None: any.
        engine: address of an inference server that writes.
    """

    pair: Mapping[str, Any]
    labels: Sequence[str] | None = None
    engine: str | None = None

    def load(self) -> NLAPair:
        """The pair, loaded when it is first asked for."""
        if self._pair is None:
            pair = NLAPair.from_pretrained(**{**self.pair, "base": fetch_base(self.pair["base"]).path})
            if self.labels is not None:
                pair.verbalizer.restrict(label_tokens(self.labels, pair.verbalizer.backbone.tokenizer))
            self._pair = pair if self.engine is None else pair.with_engine(self.engine)
        return self._pair

    def identity(self) -> dict[str, Any]:
        """What decides its results; nodes may keep one base in different folders."""
        return super().identity() | {"base": self.pair["base"]}


@dataclass(eq=False)
class Explaining:
    """Explanations of activations, a stage. A chunk has the output "rows": those that hold a text.

    Args:
        about: what is known of each row; `vectors`: float32 [n, d].
        labeler: the rows' labeler_model.
        most: rows a chunk.
    """

    explain: Explain
    about: Sequence[Mapping[str, Any]]
    vectors: np.ndarray
    prompt: str
    labeler: str
    most: int
    pair: NLAPair | None = None

    @cached_property
    def sizes(self) -> list[int]:
        """Rows of each chunk."""
        return [min(self.most, len(self.about) - start) for start in range(0, len(self.about), self.most)]

    def __call__(self, number: int) -> dict[str, pa.Table]:
        part = slice(number * self.most, (number + 1) * self.most)
        vectors = self.vectors[part].copy()  # an actor has them from a store that nobody may write to
        made = _table(self.about[part], vectors, self.explain(self.pair, vectors), self.prompt)
        made = made.append_column("labeler_model", [[self.labeler] * len(made)])
        return {"rows": made.append_column("label_status", [["on_policy"] * len(made)])}


def _table(about: Sequence[Mapping[str, Any]], vectors: np.ndarray, texts: Sequence[str], prompt: str) -> pa.Table:
    """Rows of the explanations that hold a text, in the form that the contract states."""
    kept = [row for row, text in enumerate(texts) if text and getattr(text, "parsed", True)]
    return pa.table(
        {
            **{key: [about[row][key] for row in kept] for key in ABOUT},
            "activation_vector": vector_column(vectors[kept]),
            "api_explanation": [str(texts[row]) for row in kept],
            "prompt": [prompt] * len(kept),
            "response": [response_of(str(texts[row])) for row in kept],
        }
    )
