"""Measure a pair on held-out activations: what an explanation really carries. `python -m training.evaluate demo`

For every row: the round trip through the AV's own words, and the AR on the row's true label; beside both, what the same
texts score when they are shuffled among rows and what the empty explanation scores. Cosine, mse, FVE against both mean
baselines, gain, how often a row's own activation is the nearest among 256, how varied the outputs are, all with
bootstrap intervals. Whole outputs are stored, one row each, beside the figures.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import typer
from tqdm import tqdm

from nla_sdk import NLAPair, metrics
from nla_sdk.errors import InputError, NLAError

from .files import atomic, code_version, read_vectors, sha256_of, write_json

RETRIEVAL_POOL = 256
NEEDED = ("activation_vector", "doc_id")


def compare(predicted: np.ndarray, vectors: np.ndarray, baselines: metrics.MeanBaselines) -> dict:
    """Figures of reconstructions [n, d] against activations [n, d]."""
    cosine = metrics.cosine(predicted, vectors)
    mse = metrics.direction_mse(predicted, vectors)
    fve = metrics.fve(mse, baselines.mean_norm)
    return {
        "n": len(vectors),
        "cosine_mean": float(cosine.mean()),
        "cosine_std": float(cosine.std()),
        "cosine_median": float(np.median(cosine)),
        "cosine_min": float(cosine.min()),
        "cosine_max": float(cosine.max()),
        "mse_mean": float(mse.mean()),
        "fve": float(fve.mean()),
        "fve_interval_95": list(metrics.bootstrap_interval(fve)),
        "fve_raw_variance": float(metrics.fve(mse, baselines.raw_variance).mean()),
    }


def retrieval(predicted: np.ndarray, vectors: np.ndarray, pool: int = RETRIEVAL_POOL, draws: int = 8) -> dict:
    """How often a row's own activation is the nearest of `pool`, over `draws` random pools of the rows."""
    pool = min(pool, len(vectors))
    rng = np.random.default_rng(0)
    parts = [rng.permutation(len(vectors))[:pool] for _ in range(draws)]
    ranks = np.concatenate([metrics.retrieval_ranks(predicted[part], vectors[part]) for part in parts])
    top1 = float((ranks == 0).mean())
    return {
        "pool": pool,
        "draws": draws,
        "top1": top1,
        "times_chance": top1 * pool,
        "median_rank": float(np.median(ranks)) + 1,
    }


def shuffle(texts: Sequence[str], seed: int = 0) -> list[str]:
    """The texts in an order in which none stays where it was (a random cycle)."""
    order = np.random.default_rng(seed).permutation(len(texts))
    result = [""] * len(texts)
    for at, to in zip(order, np.roll(order, 1), strict=True):
        result[to] = texts[at]
    return result


def variety(texts: Sequence[str]) -> dict:
    """How much outputs repeat: share of distinct strings, and of the commonest four-word opening."""
    openings = Counter(" ".join(text.split()[:4]) for text in texts)
    return {
        "unique_share": len(set(texts)) / len(texts),
        "unique_openings": len(openings),
        "commonest_opening_share": openings.most_common(1)[0][1] / len(texts),
    }


def evaluate(pair: NLAPair, rows: pa.Table, *, progress: bool = True) -> tuple[dict, pa.Table]:
    """All figures, and the per-row table with whole outputs.

    Args:
        pair: both halves.
        rows: columns activation_vector and doc_id; `api_explanation` (true labels) and `source_family` where known.
    Raises:
        InputError: a column is missing, or there are fewer than two rows.
    """
    if missing := [name for name in NEEDED if name not in rows.column_names]:
        raise InputError(
            f"The held-out table lacks the columns {', '.join(missing)}; it has {', '.join(rows.column_names)}."
        )
    if rows.num_rows < 2:
        raise InputError(f"The held-out table has {rows.num_rows} rows; expected at least two.")
    vectors = read_vectors(rows)
    baselines = metrics.mean_baselines(vectors)
    with tqdm(total=len(vectors), unit="row", desc="explain", disable=not progress, mininterval=2) as bar:
        trips = pair.round_trip(vectors, progress=bar.update)
    written = [trip.explanation for trip in trips]

    def through(texts: Sequence[str]) -> np.ndarray:
        return pair.reconstruct(list(texts)).numpy()

    empty = np.broadcast_to(through([""]), vectors.shape)
    own = np.stack([trip.reconstruction.numpy() for trip in trips])
    result: dict = {
        "rows": len(vectors),
        "documents": len(set(rows["doc_id"].to_pylist())),
        "baselines": {"mean_norm": baselines.mean_norm, "raw_variance": baselines.raw_variance},
        "mean_direction_cosine": 1 - baselines.mean_norm / 2,
        "empty": compare(empty, vectors, baselines),
        "round_trip": compare(own, vectors, baselines)
        | {
            "retrieval": retrieval(own, vectors),
            "status": dict(Counter(trip.status for trip in trips)),
            "variety": variety(written),
            "matched": pair.matched,
        },
        "round_trip_shuffled": compare(through(shuffle(written)), vectors, baselines),
    }
    _relate(result, "round_trip")
    table = rows.append_column("explanation", pa.array(written))
    table = table.append_column("explanation_raw", pa.array([trip.raw for trip in trips]))
    table = table.append_column("status", pa.array([trip.status for trip in trips]))
    table = table.append_column("round_trip_cosine", pa.array([trip.cosine for trip in trips], pa.float64()))
    if "api_explanation" in rows.column_names:
        labels = rows["api_explanation"].to_pylist()
        predicted = through(labels)
        result["true_labels"] = compare(predicted, vectors, baselines) | {"retrieval": retrieval(predicted, vectors)}
        result["true_labels_shuffled"] = compare(through(shuffle(labels)), vectors, baselines)
        _relate(result, "true_labels")
        table = table.append_column("true_label_cosine", pa.array(metrics.cosine(predicted, vectors), pa.float64()))
    if "source_family" in rows.column_names:
        families = np.array(rows["source_family"].to_pylist())
        fve = metrics.fve(metrics.direction_mse(own, vectors), baselines.mean_norm)
        result["round_trip"]["fve_by_family"] = {
            str(family): {"n": int((families == family).sum()), "fve": float(fve[families == family].mean())}
            for family in sorted(set(families))
        }
    return result, table


def _relate(result: dict, name: str) -> None:
    """Add what a text carries over the empty one and over another row's."""
    real = result[name]
    real["gain_over_empty"] = metrics.gain(real["mse_mean"], result["empty"]["mse_mean"])
    real["fve_above_empty"] = real["fve"] - result["empty"]["fve"]
    real["fve_above_shuffled"] = real["fve"] - result[f"{name}_shuffled"]["fve"]


def main(
    pair: Annotated[str, typer.Argument(help="The AV: Hub id, folder, or 'demo'.")] = "demo",
    ar: Annotated[str | None, typer.Option(help="The AR, if not the AV's partner.")] = None,
    base: Annotated[str | None, typer.Option(help="The base model, if not the contract's.")] = None,
    rows: Annotated[
        Path | None, typer.Option(help="Held-out parquet; default: the rows shipped with the demo pair.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write figures here (JSON) and outputs beside it (parquet).")] = None,
    limit: Annotated[int | None, typer.Option(help="Only the first so many rows.")] = None,
) -> None:
    """Measure a pair on held-out activations, and print the figures."""
    try:
        if rows is None:
            if pair != "demo":
                raise InputError("Pass --rows: the shipped held-out rows are for the demo pair only.")
            rows = Path(str(resources.files("nla_sdk") / "demo" / "heldout.parquet"))
        if not rows.is_file():
            raise InputError(f"{rows} does not exist; expected a parquet table of held-out activations.")
        loaded = NLAPair.from_pretrained(pair, ar, base=base)
        figures, outputs = evaluate(loaded, pq.read_table(rows).slice(0, limit))
    except NLAError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    halves = {role: half for role, half in (("av", loaded._av), ("ar", loaded._ar)) if half is not None}
    figures = {
        "heldout": {"file": rows.name, "sha256": sha256_of(rows)},
        "weights_sha256": {
            f"{role}/{file.name}": sha256_of(file)
            for role, half in halves.items()
            for file in sorted(half.folder.glob("*.safetensors"))
        },
        "code_version": code_version(),
        **figures,
    }
    print(summary(figures))
    if out is not None:
        write_json(out, figures)
        with atomic(out.with_suffix(".parquet")) as sibling:
            pq.write_table(outputs.drop_columns(["activation_vector"]), sibling, compression="zstd")


def summary(figures: dict) -> str:
    """The figures as a short plain table."""
    lines = [
        f"{figures['rows']} held-out activations from {figures['documents']} documents; the mean direction's cosine is "
        f"{figures['mean_direction_cosine']:.3f} (FVE 0)",
        f"{'':28}{'FVE':>8}{'raw-var.':>10}{'cosine':>9}{'gain':>8}   own activation among {RETRIEVAL_POOL}",
    ]
    for name, label in (
        ("true_labels", "AR on true labels"),
        ("true_labels_shuffled", "  shuffled among rows"),
        ("round_trip", "round trip (AV's words)"),
        ("round_trip_shuffled", "  shuffled among rows"),
        ("empty", "empty explanation"),
    ):
        if name not in figures:
            continue
        one = figures[name]
        found = one.get("retrieval")
        gain = f"{one['gain_over_empty']:8.3f}" if "gain_over_empty" in one else " " * 8
        share = f"   {found['top1']:.1%} ({found['times_chance']:.0f}× chance)" if found else ""
        lines.append(
            f"{label:28}{one['fve']:8.3f}{one['fve_raw_variance']:10.3f}{one['cosine_mean']:9.3f}{gain}{share}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    typer.run(main)
