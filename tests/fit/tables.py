"""Training tables made of vectors and labels at hand, as the trainers read them, without the stages before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.numpy import save_file

from nla_sdk.io.files import write_json
from nla_sdk.io.tables import vector_column
from training.data.statistics import MEAN_FILE, STATISTICS_FILE
from training.data.tables.columns import response_of


def write_tables(folder: Path, vectors: np.ndarray, labels: Mapping[str, Sequence[str]]) -> Path:
    """What `training.data.build` leaves in a run's folder, with written labels.

    Args:
        vectors: float32 [n, d], raw.
        labels: of each table by its name (av_sft, ar_sft, eval), n texts.
    Returns:
        The folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, texts in labels.items():
        columns = {
            "doc_id": [f"doc{at}" for at in range(len(vectors))],
            "activation_vector": vector_column(vectors),
            "api_explanation": list(texts),
            "response": [response_of(text) for text in texts],
            "labeler_model": ["written"] * len(vectors),
        }
        pq.write_table(pa.table(columns), folder / f"{name}.parquet")
    mean = vectors.mean(axis=0)
    save_file({"mean": mean}, folder / MEAN_FILE)
    norm = float(np.median(np.linalg.norm(vectors - mean, axis=1)))
    write_json(folder / STATISTICS_FILE, {"centred_norm": norm, "baseline_mse": 1.0, "pair_id": "made"})
    return folder
