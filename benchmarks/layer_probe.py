"""Which layer to read? `python benchmarks/layer_probe.py corpus/passages.jsonl`

For several blocks of the demo base, by ridge regression on activations of a JSONL corpus (doc_id, text), split by
document: how much of the activation's direction follows from what a text could name (the last token, the likeliest
next tokens, the context), as FVE, and how much of each can be read out of the centred activation, as R². Lower bounds
both: a language model does better than a linear map of token embeddings. This made the table in docs/demo-pair.md, in
about 10 minutes.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

import torch
from tqdm import tqdm

from nla_sdk import metrics
from nla_sdk.halves.demo_base import demo_base
from nla_sdk.model.backbone import Backbone
from nla_sdk.model.batches import pad_right

PENALTIES = (100.0, 300.0, 1000.0)


def read(backbone: Backbone, path: Path, layers: list[int], passages: int, max_tokens: int) -> dict:
    """Two positions a passage: activations by layer, embeddings of what could be named, and the documents."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    rng = random.Random(0)
    rng.shuffle(lines)
    lines = lines[:passages]
    ids = [backbone.tokenizer(line["text"]).input_ids[:max_tokens] for line in lines]
    todo = [
        (line["doc_id"], x, [rng.randrange(12, len(x)) for _ in range(2)])
        for line, x in zip(lines, ids, strict=True)
        if len(x) >= 16
    ]
    todo.sort(key=lambda item: len(item[1]))
    table = torch.nn.functional.normalize(backbone.embedding.weight, dim=1)
    states: dict[int, list] = {layer: [] for layer in layers}
    features: dict[str, list] = {name: [] for name in ("last token", "next tokens", "last 3", "last 4-8", "context")}
    documents = []
    for start in tqdm(range(0, len(todo), 16), unit="batch"):
        batch = todo[start : start + 16]
        padded, _ = pad_right([x for _, x, _ in batch])
        with torch.no_grad(), backbone.using(None) as model:
            output = model.model(input_ids=padded, output_hidden_states=True)
            for row, (document, x, positions) in enumerate(batch):
                guesses = model.lm_head(output.last_hidden_state[row, positions]).topk(5).indices
                for position, guess in zip(positions, guesses, strict=True):
                    documents.append(document)
                    for layer in layers:
                        states[layer].append(output.hidden_states[layer + 1][row, position].clone())
                    features["last token"].append(table[x[position]])
                    features["next tokens"].append(torch.cat([table[guess[0]], table[guess].mean(0)]))
                    features["last 3"].append(table[x[position - 2 : position + 1]].flatten())
                    features["last 4-8"].append(table[x[position - 8 : position - 3]].mean(0))
                    features["context"].append(table[x[1 : position - 7]].mean(0))
    return {
        "states": {layer: torch.stack(rows) for layer, rows in states.items()},
        "features": {name: torch.stack(rows) for name, rows in features.items()},
        "documents": documents,
    }


def ridge(inputs: torch.Tensor, targets: torch.Tensor, train: torch.Tensor, penalty: float) -> torch.Tensor:
    """Predictions for all rows of a ridge regression fitted on the training rows."""
    x = inputs[train]
    return inputs @ torch.linalg.solve(x.T @ x + penalty * torch.eye(x.shape[1]), x.T @ targets[train])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--layers", type=int, nargs="+", default=[6, 8, 10, 12, 14])
    parser.add_argument("--passages", type=int, default=2200)
    parser.add_argument("--max-tokens", type=int, default=160)
    options = parser.parse_args()
    found = read(
        Backbone.load(demo_base(), ref="demo", dtype="float32"),
        options.corpus,
        options.layers,
        options.passages,
        options.max_tokens,
    )
    names = sorted(set(found["documents"]))
    random.Random(0).shuffle(names)
    held = set(names[: len(names) // 5])
    test = torch.tensor([document in held for document in found["documents"]])
    train = ~test
    inputs = {name: (x - x[train].mean(0)) / x[train].std() for name, x in found["features"].items()}
    named = {
        "last token": ["last token"],
        "next tokens": ["next tokens"],
        "both": ["last token", "next tokens"],
        "all": ["last 3", "next tokens", "last 4-8", "context"],
    }
    print(f"{int(train.sum())} training rows, {int(test.sum())} held out")
    for layer, vectors in found["states"].items():
        baselines = metrics.mean_baselines(vectors[test])
        mean = vectors[train].mean(0)
        centred = torch.nn.functional.normalize(vectors - mean, dim=1)
        fve = {}
        for label, parts in named.items():
            x = torch.cat([inputs[part] for part in parts], dim=1)
            scores = [
                metrics.fve(
                    metrics.direction_mse((ridge(x, vectors - mean, train, p) + mean)[test], vectors[test]),
                    baselines.mean_norm,
                )
                for p in PENALTIES
            ]
            fve[label] = max(score.mean() for score in scores)
        r2 = {}
        for label in ("last token", "next tokens", "context"):
            y = inputs[label]
            missed = (ridge(centred * 25, y, train, 300.0) - y)[test].square().sum() / y[test].square().sum()
            r2[label] = 1 - missed.item()
        print(
            f"block {layer:2}  mse of the mean {baselines.mean_norm:.3f}  "
            f"cos of two rows {1 - baselines.raw_variance:.2f}  FVE "
            + "  ".join(f"{label} {value:.2f}" for label, value in fve.items())
            + "  R2 "
            + "  ".join(f"{label} {value:.2f}" for label, value in r2.items())
        )


if __name__ == "__main__":
    main()
