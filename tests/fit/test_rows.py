"""Which rows of a training table are drawn."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nla_sdk.errors import InputError
from tests import configs, tiny
from tests.fit.tables import write_tables
from training.configs.config import Config
from training.fit.ar import ARTrainer
from training.fit.av import AVTrainer
from training.fit.engine.base import load_base
from training.fit.engine.rows import REPEATS, balanced, load_rows

FAMILIES = ["abstracts"] * 9 + ["sums"] * 6 + ["speeches"]
D = tiny.D_MODEL
TRAIN = {
    "quantization": None,
    "gradient_checkpointing": False,
    "sources": ["written"],
    "lora": {"r": 2, "dropout": 0.0},
}


@given(st.lists(st.sampled_from(["a", "b", "c", None]), min_size=1, max_size=40), st.integers(1, 120))
def test_families_count_alike_as_far_as_their_rows_reach(families, wanted):
    drawn = Counter(balanced(families, wanted))
    assert sum(drawn.values()) == min(wanted, REPEATS * len(families))
    assert max(drawn.values()) <= REPEATS
    there = Counter(families)
    found = {family: sum(count for at, count in drawn.items() if families[at] == family) for family in there}
    most = max(found.values())
    for family, count in there.items():
        assert found[family] >= most - 1 or found[family] == REPEATS * count
        own = [drawn[at] for at, one in enumerate(families) if one == family]
        assert max(own) - min(own) <= 1, "no row comes a second time before all of its family came once"


def tables(folder: Path, families: list[str] | None) -> Path:
    vectors = np.random.default_rng(0).normal(size=(len(FAMILIES), D)).astype(np.float32)
    texts = [f"Label {at}." for at in range(len(FAMILIES))]
    write_tables(folder, vectors, dict.fromkeys(("av_sft", "ar_sft", "validation"), texts))
    if families is not None:
        for path in folder.glob("*_sft.parquet"):
            pq.write_table(pq.read_table(path).append_column("source_family", pa.array(families)), path)
    return folder


def test_balanced_rows_have_the_vectors_that_are_theirs(tmp_path):
    path = tables(tmp_path, FAMILIES) / "av_sft.parquet"
    vectors, rows = load_rows(path, ["written"], 9, weights="balanced")
    assert Counter(row["source_family"] for row in rows) == {"speeches": 3, "sums": 3, "abstracts": 3}
    every, _ = load_rows(path, ["written"])
    for vector, row in zip(vectors, rows, strict=True):
        assert torch.equal(vector, every[int(row["doc_id"].removeprefix("doc"))])
    assert len(load_rows(path, ["written"], weights="balanced")[1]) == len(FAMILIES)
    with pytest.raises(InputError, match="no column source_family, by which family_weights: balanced"):
        load_rows(tmp_path / "validation.parquet", ["written"], weights="balanced")


@pytest.mark.parametrize(("role", "trainer_of"), [("av", AVTrainer), ("ar", ARTrainer)])
def test_a_trainer_draws_its_rows_as_family_weights_says(base, tmp_path, role, trainer_of):
    drawn = {}
    for weights in ("none", "balanced"):
        sections = {one: {**TRAIN, "family_weights": weights, "max_rows": 9} for one in ("av", "ar")}
        values = configs.sections(tmp_path, base, extract={"sources": [{"corpus": "corpus"}]}, **sections)
        config = Config.model_validate(values)
        tables(config.out, FAMILIES)
        trainer = trainer_of(config, load_base(config, getattr(config, role), torch.device("cpu")))
        drawn[weights] = Counter(row["source_family"] for row in trainer.rows)
    assert drawn["balanced"] == {"speeches": 3, "sums": 3, "abstracts": 3}
    assert drawn["none"] == {"abstracts": 5, "sums": 3, "speeches": 1}
