"""Explanations of a job are checked as `pair.check` checks them, against the texts that INPUT has."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from nla_sdk.claims.telling import told
from nla_sdk.errors import InputError
from nla_sdk.io.rows.sources import open_source
from nla_sdk.jobs import work as rows
from nla_sdk.jobs.checking import checked, written
from tests import tiny

TEXTS = ["The cat sat.", "Dogs"]


@pytest.fixture
def texts(tmp_path):
    pq.write_table(pa.table({"text": TEXTS, "claims": ["its own", "kept"]}), tmp_path / "in.parquet")
    return open_source(str(tmp_path / "in.parquet"), ("text",))


@pytest.fixture
def vectors(tmp_path):
    np.save(tmp_path / "in.npy", tiny.random(3, tiny.D_MODEL, seed=4, scale=3.0).numpy())
    return open_source(str(tmp_path / "in.npy"), ("activation_vector",))


def columns_say(found: pa.Table, checks) -> None:
    for at, one in enumerate(map(told, checks)):
        assert json.loads(found["claims"][at].as_py()) == one["claims"]
        assert (found["support"][at].as_py(), found["why_no_support"][at].as_py()) == (
            one["support"],
            one["why_no_support"],
        )


def test_texts_are_what_their_rows_are_checked_against(full_pair, texts):
    work = rows.round_trip(full_pair, texts, [1, -1], max_new_tokens=6)
    table = next(iter(texts.batches(8)))
    found = checked(full_pair, texts, work, [1, -1], seed=2)(table, 0)
    acts = full_pair.extract(TEXTS, [1, -1])
    known = [TEXTS[at] for at in acts.texts]
    columns_say(found, full_pair.check(written(found), acts.vectors, known, position=acts.positions, seed=2))
    assert "in_text" in json.loads(found["claims"][0].as_py())[0]["receipts"]
    assert found["claims_in"].to_pylist() == ["its own"] * 2 + ["kept"] * 2
    plain = work(table, 0)
    assert found.select(["api_explanation", "cosine"]) == plain.select(["api_explanation", "cosine"])


def test_activations_are_checked_without_a_text(full_pair, vectors):
    found = checked(full_pair, vectors, rows.explain(full_pair, vectors, max_new_tokens=6, force=True))(
        next(iter(vectors.batches(8))), 0
    )
    own = torch.tensor(np.load(vectors.path))
    columns_say(found, full_pair.check(written(found), own, force=True))
    assert "in_text" not in found["claims"][0].as_py()


def test_directions_are_not_checked(lora_pair, vectors):
    pair = lora_pair("centred")
    work = checked(pair, vectors, rows.explain(pair, vectors, kind="direction", max_new_tokens=2))
    with pytest.raises(InputError, match="of kind direction; --check holds claims against activations"):
        work(next(iter(vectors.batches(8))), 0)


def test_what_is_no_explanation_claims_nothing():
    statuses = ["ok", "truncated; worse than no words", "untagged", "worse than no words", "empty"]
    table = pa.table({"api_explanation": ["a cat", "a dog", "x y", "a cow", ""], "explanation_status": statuses})
    found = written(table)
    assert [one.status for one in found] == ["ok", "truncated", "untagged", "ok", "empty"]
    assert [len(one.claims) for one in found] == [1, 1, 0, 1, 0]
