"""What the AV itself writes, as rows for the AR. `python -m training.on_policy --config training/configs/demo.yaml`

An AR that has seen true labels only does not understand the AV's own words (measured on the demo base: round-trip FVE
below zero). This explains `on_policy_rows` of the AR's activations with the AV in `<out>/av` and writes
`<out>/on_policy.parquet`, which `sft_ar` mixes in when its `sources` ask for on_policy. Chunks are kept in
`<out>/on_policy-…/` (named after the AV's weights) until all are done, so a killed run goes on where it was.
"""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import typer
from tqdm import tqdm

from nla_sdk import NLAPair
from nla_sdk.hub import fetch_base

from .cli import run_stage
from .config import Config
from .files import atomic, read_vectors, sha256_of, vector_column, write_table
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
    picked = list(first.values())[: config.ar.on_policy_rows]
    vectors = read_vectors(table)[picked]
    folder = config.out / f"on_policy-{weights[:12]}"
    pair = None
    explanations: list[str] = []
    prompt = prompt_column(config.av.template)
    bar = tqdm(total=len(picked), unit="row", desc="on_policy", mininterval=5)
    for start in range(0, len(picked), ROWS_PER_CHUNK):
        chunk = folder / f"{start:06d}.parquet"
        if not chunk.is_file():
            if pair is None:
                pair = NLAPair.from_pretrained(half, base=fetch_base(config.base).path, dtype="float32")
            written = pair.explain(vectors[start : start + ROWS_PER_CHUNK])
            with atomic(chunk) as sibling:
                pq.write_table(pa.table({"explanation": written}), sibling)
        done = pq.read_table(chunk)["explanation"].to_pylist()
        explanations += done
        bar.update(len(done))
    bar.close()
    kept = [at for at, text in enumerate(explanations) if text]
    out = pa.table(
        {
            **{
                key: [rows[picked[at]][key] for at in kept]
                for key in ("doc_id", "n_raw_tokens", "activation_layer", "detokenized_text_truncated", "source_family")
            },
            "activation_vector": vector_column(vectors[kept]),
            "api_explanation": [explanations[at] for at in kept],
            "prompt": [prompt] * len(kept),
            "response": [response_of(explanations[at]) for at in kept],
            "labeler_model": [f"av:{weights[:12]}"] * len(kept),
            "label_status": ["on_policy"] * len(kept),
        }
    )
    path = config.out / "on_policy.parquet"
    meta = {
        "base_model": config.base_id,
        "d_model": vectors.shape[1],
        "layer": config.layer,
        "inputs": {source.name: sha256_of(source), "av/adapter_model.safetensors": weights},
        "dropped_empty": len(picked) - len(kept),
    }
    write_table(path, out, meta)
    return path


if __name__ == "__main__":
    typer.run(run_stage(run))
