"""The figures of an evaluation are those of a straightforward computation."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import torch

from nla_sdk.errors import InputError
from nla_sdk.pair import RoundTrip
from training import evaluate
from training.files import vector_column


class LookupPair:
    """A pair whose AV writes a row's number and whose AR knows the vector of each number, plus a little noise."""

    matched = True

    def __init__(self, vectors: np.ndarray, noise: float) -> None:
        rng = np.random.default_rng(1)
        self.vectors = vectors
        self.known = {str(i): v + noise * rng.normal(size=v.shape) for i, v in enumerate(vectors)}
        self.known[""] = vectors.mean(axis=0)

    def reconstruct(self, texts):
        return torch.tensor(np.stack([self.known[text] for text in texts]))

    def round_trip(self, vectors, progress=None):
        trips = []
        for i, vector in enumerate(vectors):
            found = torch.tensor(self.known[str(i)])
            trips.append(RoundTrip(0.5, 1.0, 0.1, True, str(i), f" {i}", "ok", torch.tensor(vector), found))
        return trips


def rows(n: int = 40, d: int = 16) -> pa.Table:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(n, d)) + 2 * rng.normal(size=d)
    labels = [str(i) for i in range(n)]
    return pa.table(
        {
            "doc_id": [f"d{i // 2}" for i in range(n)],
            "activation_vector": vector_column(vectors),
            "api_explanation": labels,
            "source_family": ["a" if i % 3 else "b" for i in range(n)],
        }
    )


def straightforward_fve(predicted: np.ndarray, vectors: np.ndarray) -> float:
    d = vectors.shape[1]

    def scaled(v):
        return v / np.linalg.norm(v) * np.sqrt(d)

    mean = scaled(np.mean([v / np.linalg.norm(v) for v in vectors], axis=0))
    mse = np.mean([np.mean((scaled(p) - scaled(v)) ** 2) for p, v in zip(predicted, vectors, strict=True)])
    return 1 - mse / np.mean([np.mean((mean - scaled(v)) ** 2) for v in vectors])


def test_figures_are_those_of_the_formulas():
    table = rows()
    vectors = evaluate.read_vectors(table).astype(np.float64)
    pair = LookupPair(vectors, noise=0.5)
    figures, outputs = evaluate.evaluate(pair, table, progress=False)
    own = np.stack([pair.known[str(i)] for i in range(len(vectors))])
    assert figures["round_trip"]["fve"] == pytest.approx(straightforward_fve(own, vectors), abs=1e-6)
    assert figures["true_labels"]["fve"] == pytest.approx(straightforward_fve(own, vectors), abs=1e-6)
    empty = np.broadcast_to(pair.known[""], vectors.shape)
    assert figures["empty"]["fve"] == pytest.approx(straightforward_fve(empty, vectors), abs=1e-6)
    order = [int(text) for text in evaluate.shuffle([str(i) for i in range(len(vectors))])]
    assert figures["round_trip_shuffled"]["fve"] == pytest.approx(straightforward_fve(own[order], vectors), abs=1e-6)
    assert figures["round_trip"]["fve_above_shuffled"] == pytest.approx(
        figures["round_trip"]["fve"] - figures["round_trip_shuffled"]["fve"]
    )
    families = figures["round_trip"]["fve_by_family"]
    assert sum(one["n"] for one in families.values()) == len(vectors)
    assert outputs["explanation"].to_pylist() == [str(i) for i in range(len(vectors))]
    assert outputs["explanation_raw"].to_pylist()[3] == " 3"


def test_perfect_reconstructions_are_all_found_and_random_ones_at_chance():
    vectors = evaluate.read_vectors(rows(300)).astype(np.float64)
    assert evaluate.retrieval(vectors, vectors)["top1"] == 1.0
    noise = np.random.default_rng(5).normal(size=vectors.shape)
    assert evaluate.retrieval(noise, vectors)["times_chance"] < 6


def test_shuffling_leaves_no_text_where_it_was():
    for n in (2, 3, 50):
        texts = [str(i) for i in range(n)]
        moved = evaluate.shuffle(texts)
        assert sorted(moved) == sorted(texts)
        assert all(a != b for a, b in zip(texts, moved, strict=True))


def test_variety_counts_repeats_and_openings():
    found = evaluate.variety(["a b c d e", "a b c d f", "a b c d e", "x y"])
    assert found == {"unique_share": 0.75, "unique_openings": 2, "commonest_opening_share": 0.75}


def test_a_table_without_the_columns_is_refused():
    with pytest.raises(InputError, match="lacks the columns activation_vector"):
        evaluate.evaluate(None, pa.table({"doc_id": ["a", "b"]}))
    with pytest.raises(InputError, match="at least two"):
        evaluate.evaluate(None, rows(1))


def test_the_summary_names_every_comparison():
    table = rows()
    figures, _ = evaluate.evaluate(LookupPair(evaluate.read_vectors(table), 0.5), table, progress=False)
    text = evaluate.summary(figures)
    for label in ("AR on true labels", "round trip (AV's words)", "shuffled among rows", "empty explanation"):
        assert label in text
