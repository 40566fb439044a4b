"""What the AV itself writes, as rows for the AR. `python -m training.on_policy --config training/configs/demo.yaml`

An AR that has seen true labels only does not understand the AV's own words (measured on the demo base: round-trip FVE
below zero). This explains `on_policy_rows` of the AR's activations with the AV in `<out>/av/final` and writes
`<out>/on_policy.parquet`, which `sft_ar` mixes in when its `sources` ask for on_policy. Killed, it goes on.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import typer
from tqdm import tqdm

from nla_sdk import NLAPair
from nla_sdk.hub import fetch_base

from .chunks import Chunks, is_finished
from .cli import run_stage
from .config import Config
from .files import read_vectors, sha256_of, vector_column
from .table import prompt_column, response_of

ROWS_PER_CHUNK = 64


def run(config: Config) -> Path:
    """Explain the AR's activations; returns the table's path."""
    source, half = config.out / "ar_sft.parquet", config.half("av")
    weights = sha256_of(half / "adapter_model.safetensors")
    table = pq.read_table(source)
    rows = table.drop_columns(["activation_vector"]).to_pylist()
    # One row an activation: a text with two labels is one activation.
    first: dict[str, int] = {}
    for index, row in enumerate(rows):
        first.setdefault(row["row_id"], index)
    # Evenly spaced: a table lies in its corpus's order, and its beginning is of one kind of text.
    activations = np.array(list(first.values()))
    count = min(config.ar.on_policy_rows, len(activations))
    picked = activations[np.linspace(0, len(activations) - 1, count).astype(int)].tolist()
    vectors = read_vectors(table)[picked]
    about = ("doc_id", "n_raw_tokens", "activation_layer", "detokenized_text_truncated", "source_family")
    inputs = {source.name: sha256_of(source), "av/adapter_model.safetensors": weights}
    prompt = prompt_column(config.av.template)
    facts = {"inputs": inputs, "picked": picked, "rows_per_chunk": ROWS_PER_CHUNK, "prompt": prompt}
    path = config.out / "on_policy.parquet"
    chunks, pair = Chunks(config.out / "chunks", "on_policy", facts), None
    if is_finished(path, chunks.identity, overwrite=True):  # another AV's words are of no further use
        chunks.remove()
        return path
    bar = tqdm(total=len(picked), unit="row", desc="on_policy", mininterval=5)
    for index, start in enumerate(range(0, len(picked), ROWS_PER_CHUNK)):
        part = picked[start : start + ROWS_PER_CHUNK]
        if not chunks.has(index):
            if pair is None:
                pair = NLAPair.from_pretrained(half, base=fetch_base(config.base).path)
            written = pair.explain(vectors[start : start + ROWS_PER_CHUNK])
            kept = [at for at, text in enumerate(written) if text]
            texts = [written[at] for at in kept]
            table = pa.table(
                {
                    **{key: [rows[part[at]][key] for at in kept] for key in about},
                    "activation_vector": vector_column(vectors[start : start + ROWS_PER_CHUNK][kept]),
                    "api_explanation": texts,
                    "prompt": [prompt] * len(kept),
                    "response": [response_of(text) for text in texts],
                    "labeler_model": [f"av:{weights[:12]}"] * len(kept),
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


if __name__ == "__main__":
    typer.run(run_stage(run))
