"""What the AV itself writes, as rows for the AR. `python -m training.fit.on_policy --config training/configs/demo.yaml`

An AR that has seen true labels only does not understand the AV's own words (measured on the demo base: round-trip FVE
below zero). This explains `on_policy_rows` of the AR's activations with the AV in `<out>/av/final` and writes
`<out>/on_policy.parquet`, which `sft_ar` mixes in when its `sources` ask for on_policy. Killed, it goes on.

The AV writes tokens that occur in the labels it was trained on (`ar.on_policy_vocabulary: all` takes that away): the
softmax over all of a vocabulary is most of a token's cost on a CPU, and most texts are the same without it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from nla_sdk import NLAPair
from nla_sdk.errors import InputError
from nla_sdk.halves.fetch import fetch_base
from nla_sdk.io.chunks import Chunks, is_finished
from nla_sdk.io.files import read_vectors, sha256_of, vector_column
from nla_sdk.io.progress import progress_bar

from ..configs.config import Config
from ..data.tables.columns import prompt_column, response_of, target_text
from ..runs.command import run_command, run_stage
from .av import kind_of

ROWS_PER_CHUNK = 64
ABOUT = ("doc_id", "n_raw_tokens", "activation_layer", "detokenized_text_truncated", "source_family")


def run(config: Config) -> Path:
    """Explain the AR's activations; returns the table's path."""
    settings = config.ar
    return write(
        config,
        "on_policy",
        config.out / "ar_sft.parquet",
        rows=settings.on_policy_rows,
        halves={"av": config.half("av")},
        labeler="av",
        closed=settings.on_policy_vocabulary == "labels",
        explain=lambda pair, vectors: pair.explain(vectors),
        facts={},
    )


def write(
    config: Config,
    stage: str,
    source: Path,
    *,
    rows: int,
    halves: dict[str, Path],
    labeler: str,
    closed: bool,
    explain: Callable[[NLAPair, np.ndarray], Sequence[str]],
    facts: dict,
) -> Path:
    """Explanations of `rows` activations of a table as `<out>/<stage>.parquet`, chunk by chunk.

    Args:
        source: the table; of more than `rows` activations, evenly spaced ones.
        halves: "av" and, where `explain` needs it, "ar": folders.
        labeler: the rows' labeler_model is this and a hash of the AV.
        closed: write tokens of the AV's training labels only.
        explain: one explanation for each of some vectors; an empty one is left out.
        facts: more that the table depends on.
    Raises:
        InputError: the table or a half is missing.
    """
    for path in (source, *halves.values()):
        if not path.exists():
            raise InputError(f"{path} does not exist: run the stages before this one first.")
    weights = {role: sha256_of(half / "adapter_model.safetensors") for role, half in halves.items()}
    table = pq.read_table(source)
    about = table.drop_columns(["activation_vector"]).to_pylist()
    # One row an activation: a text with two labels is one activation.
    first: dict[str, int] = {}
    for index, row in enumerate(about):
        first.setdefault(row["row_id"], index)
    # Evenly spaced: a table lies in its corpus's order, and its beginning is of one kind of text.
    activations = np.array(list(first.values()))
    count = min(rows, len(activations))
    picked = activations[np.linspace(0, len(activations) - 1, count).astype(int)].tolist()
    vectors = read_vectors(table)[picked]
    inputs = {source.name: sha256_of(source)}
    inputs |= {f"{role}/adapter_model.safetensors": digest for role, digest in weights.items()}
    prompt = prompt_column(config.av.template)
    facts = {"inputs": inputs, "picked": picked, "rows_per_chunk": ROWS_PER_CHUNK, "prompt": prompt, **facts}
    if closed:
        facts["vocabulary"] = [sha256_of(config.out / "av_sft.parquet"), config.av.sources]
    path = config.out / f"{stage}.parquet"
    chunks, pair = Chunks(config.out / "chunks", stage, facts), None
    if is_finished(path, chunks.identity, overwrite=True):  # another AV's words are of no further use
        chunks.remove()
        return path
    bar = progress_bar(len(picked), "row", stage)
    for index, start in enumerate(range(0, len(picked), ROWS_PER_CHUNK)):
        part = picked[start : start + ROWS_PER_CHUNK]
        if not chunks.has(index):
            if pair is None:
                pair = NLAPair.from_pretrained(halves["av"], halves.get("ar"), base=fetch_base(config.base).path)
                if closed:
                    pair.verbalizer.restrict(label_tokens(config, pair.verbalizer.backbone.tokenizer))
            written = explain(pair, vectors[start : start + ROWS_PER_CHUNK])
            kept = [at for at, text in enumerate(written) if text]
            texts = [str(written[at]) for at in kept]
            table = pa.table(
                {
                    **{key: [about[part[at]][key] for at in kept] for key in ABOUT},
                    "activation_vector": vector_column(vectors[start : start + ROWS_PER_CHUNK][kept]),
                    "api_explanation": texts,
                    "prompt": [prompt] * len(kept),
                    "response": [response_of(text) for text in texts],
                    "labeler_model": [f"{labeler}:{weights['av'][:12]}"] * len(kept),
                    "label_status": ["on_policy"] * len(kept),
                }
            )
            chunks.write(index, {"rows": table}, {"empty": len(part) - len(kept)})
        bar.update(len(part))
    bar.close()
    meta = {"base_model": config.base_id, "d_model": vectors.shape[1], "layer": config.layer, "inputs": inputs}
    chunks.finish("rows", path, meta)
    chunks.remove()
    return path


def label_tokens(config: Config, tokenizer) -> set[int]:
    """Every token of the responses that the AV is trained on: those of its `sources`."""
    rows = pq.read_table(config.out / "av_sft.parquet", columns=["response", "labeler_model"]).to_pylist()
    own = [row["response"] for row in rows if kind_of(row["labeler_model"]) in config.av.sources]
    texts = [target_text(response, config.av.template) for response in own]
    return {token for ids in tokenizer(texts, add_special_tokens=False).input_ids for token in ids}


if __name__ == "__main__":
    run_command(run_stage(run))
