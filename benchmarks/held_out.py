"""Texts that the bundled pair was not trained on, out of the corpus it was made from (docs/demo-pair.md).

The package has the held-out rows' activations and not their texts. `texts_of` finds each row's text in a corpus by its
document, its number of tokens and, where several passages are left, by the activation that the base computes for them.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet as pq
import torch

from nla_sdk import NLAPair
from nla_sdk.io.tables import read_vectors
from nla_sdk.model.batches import read_states
from nla_sdk.model.extraction import tokenize
from training.configs.config import Config
from training.data.tables.splits import split_of

HERE = Path(__file__).parent
DEMO = HERE.parent / "nla_sdk" / "demo"
CONFIG = HERE.parent / "training" / "configs" / "demo.yaml"


def passages(corpus: Path) -> list[dict]:
    """`doc_id`, `text`, `family` of every passage, in the corpus's order."""
    return [json.loads(line) for line in corpus.read_text(encoding="utf-8").splitlines()]


def held_out(corpus: Path) -> list[dict]:
    """The passages of documents that no half was trained on."""
    config = Config.load(CONFIG)
    shares, seed = config.split, config.seed
    # Of every family the share of all only: a pair made before families had their own was trained on the rest.
    return [one for one in passages(corpus) if split_of(one["doc_id"], shares, seed) == "eval"]


def rows() -> list[dict]:
    """The package's held-out rows, of each document the first: `doc_id`, `vector`, `explanation`, `n_raw_tokens`."""
    table = pq.read_table(DEMO / "rows.parquet")
    found: dict[str, dict] = {}
    for row, vector in zip(table.drop_columns(["activation_vector"]).to_pylist(), read_vectors(table), strict=True):
        found.setdefault(row["doc_id"], row | {"vector": torch.from_numpy(vector.copy())})
    return list(found.values())


def texts_of(pair: NLAPair, corpus: Path, wanted: Sequence[dict]) -> list[list[int]]:
    """Token ids of each row's text, up to and with the token whose activation it is.

    Raises:
        SystemExit: the corpus is not the one that the rows were read from.
    """
    of: dict[str, list[str]] = defaultdict(list)
    for one in passages(corpus):
        of[one["doc_id"]].append(one["text"])
    found = []
    for row in wanted:
        length = row["n_raw_tokens"]
        given = [tokenize(pair.source.tokenizer, text) for text in of[row["doc_id"]]]
        given = [ids[:length] for ids in given if len(ids) >= length]
        with torch.no_grad(), pair.source.using(None):
            states = read_states(pair.source, given, [[length - 1]] * len(given), pair.layer) if given else []
        cosines = [float(torch.cosine_similarity(state[0], row["vector"], dim=0)) for state in states]
        if not cosines or max(cosines) < 0.9999:
            raise SystemExit(
                f"{corpus} holds no text of document {row['doc_id']} with that activation: another corpus?"
            )
        found.append(given[cosines.index(max(cosines))])
    return found
