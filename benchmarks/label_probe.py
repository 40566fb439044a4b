"""What do labels carry, at which layer? `python benchmarks/label_probe.py --config runs/demo.yaml`

For every extracted layer of a run and both kinds of label that need no language model (extractive, readout): the
held-out FVE of a linear decoder, a ridge regression from the words of a label, by their place in it, to the
activation's direction. A trained AR does better: it knows what words mean, and how they go together. But no training
is needed, so layers and ways of labelling can be told apart in minutes. Beside it, what any text could be asked to
carry: how different rows are (mse of the mean direction), and how often the nearest other activation is of the same
document.

Reads `<out>/activations_L*.parquet`, writes label_probe.json beside itself, or where `--out` says.
"""

from __future__ import annotations

import argparse
import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from tqdm import tqdm

from nla_sdk import metrics
from nla_sdk.claims.cutting import claims_of
from nla_sdk.claims.forms.claim import WORDS
from nla_sdk.claims.truth import supported
from nla_sdk.io.tables import read_vectors
from training.configs import overrides
from training.configs.config import Config
from training.configs.data import Readout
from training.data.tables.choosing import spread
from training.data.tables.splits import split_of
from training.label import extractive
from training.label.readout.probes import Probes
from training.label.readout.ridge import fit_directions, frequent, matrix_of, unit
from training.label.readout.stage import FITTED_ON

READ = ["row_id", "doc_id", "detokenized_text_truncated", "source_family", "next_tokens"]


def features(label: str) -> dict[str, float]:
    """The claims of a label by their place: next tokens and words weigh less the later they come.

    Example:
        >>> features('Next: "mat" (or "bed"). After: "on the". About: cat, sat. Style: fiction.')["word cat"]
        1.0
    """
    found: dict[str, float] = {}
    places: Counter[str] = Counter()
    for claim in claims_of(label):
        if claim.kind == "quote":
            found |= {f"ends {at} {word}": 1.0 for at, word in enumerate(reversed(claim.text.split()))}
            continue
        found.setdefault(f"{claim.kind} {claim.text}", (1 + places[claim.kind]) ** -0.5)
        places[claim.kind] += 1
    return found


def in_text(labels: Sequence[str], texts: Sequence[str]) -> dict[str, float]:
    """How many words a label names, of the text and related, and the share that the text has (by stems)."""
    claims = [[one for one in claims_of(label) if one.kind in WORDS] for label in labels]
    holds = [supported(one, text) for each, text in zip(claims, texts, strict=True) for one in each]
    return {"words": round(len(holds) / len(labels), 2), "in_text": round(float(np.mean(holds)), 3) if holds else 0.0}


def decoded_fve(
    labels: tuple[Sequence[str], Sequence[str]], train: np.ndarray, held_out: np.ndarray, documents
) -> tuple:
    """(FVE, interval over documents) of held-out directions from their labels, decoded linearly."""
    parts = [[features(label) for label in part] for part in labels]
    names = frequent(parts[0], [str(at) for at in range(len(parts[0]))], 3)
    known, asked = (matrix_of(part, names) for part in parts)
    mean = unit(train).mean(axis=0)
    decoder = fit_directions(known, unit(train) - mean, 3.0)
    mse = metrics.direction_mse(asked @ decoder + mean, held_out)
    fve = metrics.fve(mse, metrics.mean_baselines(held_out).mean_norm)
    draws = np.random.default_rng(0)
    groups = [fve[documents == one] for one in sorted(set(documents))]
    sums, sizes = np.array([group.sum() for group in groups]), np.array([len(group) for group in groups])
    picks = draws.integers(len(groups), size=(2000, len(groups)))
    means = sums[picks].sum(axis=1) / sizes[picks].sum(axis=1)
    return float(fve.mean()), tuple(np.quantile(means, [0.025, 0.975]).round(3).tolist())


def same_document(vectors: np.ndarray, documents: np.ndarray) -> float:
    """How often the nearest other activation (centred cosine) is of the same document, among rows that have one."""
    centred = unit(unit(vectors) - unit(vectors).mean(axis=0))
    scores = centred @ centred.T
    np.fill_diagonal(scores, -np.inf)
    several = np.array([(documents == one).sum() > 1 for one in documents])
    return float((documents[scores.argmax(axis=1)] == documents)[several].mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="as in readout.words=6")
    parser.add_argument("--layers", type=int, nargs="*", help="default: all that were extracted")
    parser.add_argument("--rows", type=int, default=12_000, help="for the decoder; the probes take all")
    parser.add_argument("--eval-rows", type=int, default=512)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    given = parser.parse_args()
    config = Config.load(given.config, overrides.parse(given.set))
    matches = (re.fullmatch(r"activations_L(\d+)\.parquet", path.name) for path in config.out.iterdir())
    found = sorted(int(match[1]) for match in matches if match)
    results = []
    for layer in tqdm(given.layers or found, unit="layer"):
        table = pq.read_table(config.out / f"activations_L{layer}.parquet")
        vectors, rows = read_vectors(table), table.select(READ).to_pylist()
        splits = np.array(
            [split_of(row["doc_id"], config.split, config.seed, row["source_family"]) or "" for row in rows]
        )
        fitted = np.flatnonzero(np.isin(splits, FITTED_ON))
        pairs = [(rows[at]["row_id"], rows[at]["doc_id"]) for at in np.flatnonzero(splits == "eval")]
        chosen = spread(pairs, given.eval_rows)
        held_out = np.array([at for at in np.flatnonzero(splits == "eval") if rows[at]["row_id"] in chosen])
        decoded = fitted[np.linspace(0, len(fitted) - 1, min(given.rows, len(fitted))).astype(int)]
        documents = np.array([rows[at]["doc_id"] for at in held_out])
        probes = Probes.fit(vectors[fitted], [rows[at] for at in fitted], config.readout or Readout())
        labels = {
            "readout": (
                probes.explain(vectors[decoded], [rows[one]["doc_id"] for one in decoded]),
                probes.explain(vectors[held_out]),
            ),
            "extractive": tuple(
                [extractive.explain(rows[one]["detokenized_text_truncated"], rows[one]["next_tokens"]) for one in at]
                for at in (decoded, held_out)
            ),
        }
        every = np.flatnonzero(splits == "eval")[:4000]
        result = {
            "layer": layer,
            "rows_fitted": len(fitted),
            "rows_held_out": len(held_out),
            "mse_of_the_mean": round(float(metrics.mean_baselines(vectors[held_out]).mean_norm), 4),
            "same_document": round(same_document(vectors[every], np.array([rows[at]["doc_id"] for at in every])), 4),
        }
        for kind, pair in labels.items():
            value, interval = decoded_fve(pair, vectors[decoded], vectors[held_out], documents)
            texts = [rows[at]["detokenized_text_truncated"] for at in held_out]
            result[kind] = {"fve": round(value, 4), "interval": interval, **in_text(pair[1], texts)}
        results.append(result)
        tqdm.write(json.dumps(result))
    given.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
