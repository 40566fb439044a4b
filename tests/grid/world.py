"""A small world in which every command has something good to work on: one finished run, its pair, its evaluation.

All paths in it are relative, so that a copy of it is a world of its own: a case stands in the copy and damages what it
likes.
"""

from __future__ import annotations

import json
import os
import random
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from nla_sdk import NLAPair
from nla_sdk.contract import Contract
from nla_sdk.evaluation.parts import Settings
from nla_sdk.io.tables import vector_column
from tests import configs, tiny
from tests.configs import WORDS
from training import pipeline
from training.configs.config import Config
from training.evaluate import heldout, outputs, run
from training.fit import ar, av

COPIED = (".sqlite", ".jsonl")
"""What commands write to in place; all else is replaced whole, so that a copy may share it by a hard link."""


def build(base: Path) -> None:
    """Make the world in the current folder, on a copy of the base."""
    shutil.copytree(base, "base")
    rng = random.Random(0)
    rows = [
        {
            "doc_id": f"doc{number // 2}",
            "text": " ".join(rng.choices(WORDS, k=rng.randrange(8, 14))),
            "family": "ab"[number % 2],
        }
        for number in range(80)
    ]
    Path("corpus").mkdir()
    lines(Path("corpus/passages.jsonl"), rows)
    pq.write_table(pa.Table.from_pylist(rows), "corpus/passages.parquet")
    Path("texts").mkdir()
    for number, row in enumerate(rows):
        Path(f"texts/{number}.txt").write_text(row["text"], encoding="utf-8")
    lines(Path("labels.jsonl"), [row | {"explanation": f"About {row['text'].split()[0]}."} for row in rows])
    Path("paraphraser.yaml").write_text("kind: file\npath: labels.jsonl\n", encoding="utf-8")
    Path("prices.yaml").write_text("as_of: 2026-01-01\nmodels: {m: {input: 1.0, output: 2.0}}\n", encoding="utf-8")
    config_file()
    config = Config.load(Path("config.yaml"))
    pipeline.run(config)
    av.run(config)
    ar.run(config)
    for role in ("av", "ar"):
        shutil.copytree(config.half(role), Path("pair") / role)
    pair = NLAPair.from_pretrained("pair")
    data = heldout.read(config.out / "eval.parquet", pair.contract)
    settings = Settings(
        seed=0, floor=0.3, max_new_tokens=8, controls_n=2, signal_n=2, permutations=9, bootstrap_draws=9
    )
    found = run.run(run.Job(pair, data, settings, Path("evaluation")), progress=False)
    outputs.write(found, Path("evaluation"), pair)
    shutil.copytree("evaluation", "other")
    oracle()
    inputs()


def oracle() -> None:
    """The AV once more, with a place for a question in its prompt and for any number of vectors."""
    shutil.copytree("pair/av", "oracle")
    Contract.load("pair/av").replace(
        av_template="<concept>{injection_char}</concept> {question}",
        fields={"question": {}},
        injection_markers="any",
        injection_left_neighbor_id=None,
        injection_right_neighbor_id=None,
        pair=None,
        provenance=None,
    ).save("oracle")


def config_file() -> None:
    """`config.yaml`: every stage, each as small as it gets."""
    train = {
        "quantization": None,
        "gradient_checkpointing": False,
        "micro_batch": None,
        "lora": {"r": 2, "alpha": 4, "dropout": 0.0},
        "batch_size": 4,
        "save_interval": 1,
        "eval_rows": 4,
        "max_rows": 8,
        "trackers": [],
    }
    settings = configs.sections(
        Path("."),
        "base",
        out="out",
        results="results",
        extract={"sources": [{"corpus": "corpus/passages.jsonl"}], "min_context": 6, "max_tokens": 40},
        split={"eval": 0.2, "av_sft": 0.4, "ar_sft": 0.3, "rl": 0.1},
        label={
            "cache": "labels.sqlite",
            "prices": "prices.yaml",
            "sets": [
                {"name": "written", "providers": [{"kind": "file", "path": "labels.jsonl"}, {"kind": "extractive"}]}
            ],
        },
        build={"eval_rows": 24},
        av={**train, "sources": ["written", "extractive"], "max_new_tokens": 8},
        ar={**train, "sources": ["written", "extractive"], "on_policy_rows": 4},
        expert={"rows": 4, "best_of": 2},
        grpo={**train, "samples": 2, "sources": ["written"], "vocabulary": "all"},
    )
    configs.write(Path("."), settings)


def inputs() -> None:
    """What `nla` reads, in every form that it knows."""
    vectors = tiny.random(4, tiny.D_MODEL, seed=3, scale=3.0).numpy()
    texts = ["the cat sat on a mat", "seven dogs ran over hills", "Mary read her old books", "near rivers of London"]
    np.save("vectors.npy", vectors)
    table = pa.table({"activation_vector": vector_column(vectors), "text": texts, "api_explanation": texts})
    pq.write_table(table, "rows.parquet")
    rows = [
        {"activation_vector": vector.tolist(), "text": text, "api_explanation": text}
        for vector, text in zip(vectors, texts, strict=True)
    ]
    lines(Path("rows.jsonl"), rows)
    lines(Path("long.jsonl"), [{"step": step, "loss": 3.0 - step / 100} for step in range(1, 61)])
    Path("text.txt").write_text("\n".join(texts) + "\n", encoding="utf-8")


def lines(path: Path, rows: list[dict]) -> None:
    """JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def copy(world: Path, folder: Path) -> Path:
    """A world of its own in `folder`, quickly."""

    def put(source: str, target: str) -> None:
        if source.endswith(COPIED):
            shutil.copyfile(source, target)
        else:
            os.link(source, target)

    return Path(shutil.copytree(world, folder, copy_function=put, symlinks=True))
