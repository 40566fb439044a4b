"""Stage 3: activations and labels → training tables. `python -m training.build --config training/configs/demo.yaml`

Splits by document, writes the extractive label of every row and, where the corpus has one, the written label as a row
of its own, and puts out `av_sft.parquet`, `ar_sft.parquet` and `eval.parquet` in the reference pipeline's column
names, with what a contract needs to know of the activations in `statistics.json` and `activation_mean.safetensors`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import typer

from nla_sdk.metrics import mean_baselines

from .cli import run_stage
from .config import Config
from .files import atomic, read_vectors, sha256_of, vector_column, write_json, write_table
from .label import extractive
from .split import split_of

INJECT = "<INJECT>"  # the reference tables hold this literal where the marker goes


def response_of(explanation: str) -> str:
    """The `response` column of the reference tables."""
    return f"<explanation>\n{explanation}\n</explanation>"


def run(config: Config) -> Path:
    """Build the tables; returns the folder they are in."""
    import pyarrow as pa

    source = config.out / "activations.parquet"
    table = pq.read_table(source)
    vectors = read_vectors(table)
    rows = table.drop_columns(["activation_vector"]).to_pylist()
    splits = np.array(
        [
            split_of(
                row["doc_id"], av_share=config.build.av_share, eval_share=config.build.eval_share, seed=config.seed
            )
            for row in rows
        ]
    )
    prompt = config.av.template.replace("{injection_char}", INJECT)
    chosen = {name: list(np.flatnonzero(splits == name)) for name in ("av_sft", "ar_sft", "eval")}
    chosen["eval"] = _spread(chosen["eval"], rows, config.build.eval_rows)
    train = vectors[splits != "eval"]
    mean = train.mean(axis=0, dtype=np.float64)
    statistics = {
        "centred_norm": float(np.median(np.linalg.norm(train - mean, axis=1))),
        "median_norm": float(np.median(np.linalg.norm(train, axis=1))),
        "baseline_mse": mean_baselines(vectors[chosen["eval"]]).mean_norm,
        "baseline_mse_raw_variance": mean_baselines(vectors[chosen["eval"]]).raw_variance,
        "training_rows": int((splits != "eval").sum()),
    }
    meta = {
        "base_model": config.base_id,
        "d_model": vectors.shape[1],
        "layer": config.layer,
        "inputs": {source.name: sha256_of(source)},
    }
    for name, picked in chosen.items():
        out: dict[str, list] = {key: [] for key in ("row", "explanation", "labeler", "status")}
        seen = set()
        for index in picked:
            row = rows[index]
            labels = [(extractive.explain(row["detokenized_text_truncated"], row["next_tokens"]), extractive.VERSION)]
            if row["written_explanation"]:
                labels.append((row["written_explanation"], row["labeler_model"] or "written"))
            for explanation, labeler in labels:
                key = (row["detokenized_text_truncated"], explanation)
                if key in seen:
                    continue
                seen.add(key)
                for field, value in zip(out, (index, explanation, labeler, "accepted"), strict=True):
                    out[field].append(value)
        index = np.array(out["row"])
        columns = {
            key: [rows[i][key] for i in index]
            for key in ("doc_id", "n_raw_tokens", "activation_layer", "detokenized_text_truncated", "source_family")
        }
        built = pa.table(
            {
                **columns,
                "activation_vector": vector_column(vectors[index]),
                "api_explanation": out["explanation"],
                "prompt": [prompt] * len(index),
                "response": [response_of(text) for text in out["explanation"]],
                "labeler_model": out["labeler"],
                "label_status": out["status"],
            }
        )
        write_table(config.out / f"{name}.parquet", built, {**meta, "split": name})
    from safetensors.numpy import save_file

    with atomic(config.out / "activation_mean.safetensors") as sibling:
        save_file({"mean": mean.astype(np.float32)}, sibling)
    write_json(config.out / "statistics.json", statistics)
    return config.out


def _spread(picked: list[int], rows: list[dict], count: int) -> list[int]:
    """At most `count` rows: first one a document, then a second one, …, in table order."""
    rounds: dict[str, int] = {}
    keyed = []
    for index in picked:
        turn = rounds.get(rows[index]["doc_id"], 0)
        rounds[rows[index]["doc_id"]] = turn + 1
        keyed.append((turn, index))
    return sorted(index for _, index in sorted(keyed)[:count])


if __name__ == "__main__":
    typer.run(run_stage(run))
