"""What an AV writes for many activations, as a table: chunk by chunk, so that a killed run goes on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
from nla_sdk.io.progress import progress_bar
from nla_sdk.io.tables import read_table, usable_vectors, vector_column

from ...configs.config import Config
from ...data.tables.columns import prompt_column, response_of
from .rows import evenly, label_tokens, refuse_several

ROWS_PER_CHUNK = 128
ABOUT = ("doc_id", "n_raw_tokens", "activation_layer", "detokenized_text_truncated", "source_family")


def explain_rows(
    config: Config,
    stage: str,
    source: Path,
    *,
    rows: int,
    halves: Mapping[str, Path],
    labeler: str,
    closed: bool,
    explain: Callable[[NLAPair, np.ndarray], Sequence[str]],
    settings: Mapping[str, Any],
    engine: str | None = None,
) -> Path:
    """Explanations of `rows` activations of a table as `<out>/<stage>.parquet`.

    Args:
        source: the table; of more than `rows` activations, evenly spaced ones.
        halves: "av" and, where `explain` needs it, "ar": folders.
        labeler: the rows' labeler_model is this and a hash of the AV.
        closed: write tokens of the AV's training labels only.
        explain: one explanation for each of some vectors; an empty one is left out.
        settings: more that the table depends on.
        engine: address of an inference server that holds the exported AV and writes; None: it is written here.
    Returns:
        The table's path.
    Raises:
        InputError: the table or a half is missing.
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
        facts["vocabulary"] = [sha256_of(config.tables_from / "av_sft.parquet"), config.av.sources]
    path = config.out / f"{stage}.parquet"
    chunks, pair = Chunks(config.out / "chunks", stage, facts), None
    if is_finished(path, chunks.identity, overwrite=True):  # another AV's words are of no further use
        chunks.remove()
        return path
    bar = progress_bar(len(picked), "row", stage)
    with chunks.kept_on_stop(stage):
        for index, start in enumerate(range(0, len(picked), ROWS_PER_CHUNK)):
            part = slice(start, start + ROWS_PER_CHUNK)
            if not chunks.has(index):
                pair = pair or _load_pair(config, halves, closed, engine)
                texts = explain(pair, vectors[part])
                made = _table([about[row] for row in picked[part]], vectors[part], texts, prompt)
                made = made.append_column("labeler_model", [[f"{labeler}:{weights['av'][:12]}"] * len(made)])
                made = made.append_column("label_status", [["on_policy"] * len(made)])
                chunks.write(index, {"rows": made}, {"empty": len(texts) - len(made)})
            bar.update(len(picked[part]))
    bar.close()
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


def _load_pair(config: Config, halves: Mapping[str, Path], closed: bool, engine: str | None) -> NLAPair:
    pair = NLAPair.from_pretrained(halves["av"], halves.get("ar"), base=fetch_base(config.base).path)
    if closed:
        pair.verbalizer.restrict(label_tokens(config, pair.verbalizer.backbone.tokenizer))
    return pair if engine is None else pair.with_engine(engine)


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
