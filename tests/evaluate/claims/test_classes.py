"""A pair beside the mean direction of each class of tokens: planted classes, and the plain loops."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from nla_sdk import metrics
from nla_sdk.evaluation.verdict import decide
from nla_sdk.io.tables import vector_column
from tests.evaluate.planted import SETTINGS
from tests.evaluation.test_verdict import parts
from training.evaluate.claims.classes import token_classes
from training.evaluate.claims.given import Texts
from training.evaluate.measures.tables import Tables

D = 12


def rows(counts: dict[str, int], spread: dict[str, float], *, documents: int = 15) -> Tables:
    """Rows whose activations are their class's direction and noise; the pair's noise is the same of every class."""
    rng = np.random.default_rng(0)
    names = [name for name, count in counts.items() for _ in range(count)]
    directions = {name: rng.normal(size=D) for name in counts}
    vectors = np.stack([directions[name] + spread.get(name, 0.5) * rng.normal(size=D) for name in names])
    made = vectors + 1.0 * rng.normal(size=vectors.shape)
    table = pa.table(
        {
            "row_id": [str(at) for at in range(len(names))],
            "doc_id": [f"d{at % documents}" for at in range(len(names))],
            "status": ["ok"] * len(names),
            "explanation": ["words"] * len(names),
            "activation_vector": vector_column(vectors.astype(np.float32)),
            "reconstruction": vector_column(made.astype(np.float32)),
            "cosine_real": metrics.cosine(made.astype(np.float32), vectors.astype(np.float32)),
            "token_class": [name or None for name in names],
        }
    )
    return Tables(table, None, SETTINGS)


def test_each_class_is_held_against_the_mean_of_its_other_documents_rows():
    tables = rows({"number": 20, "name": 16, "punctuation": 4, "": 10}, {})
    found = {one.name: one for one in token_classes(tables)}
    assert list(found) == ["number", "name"], "fewer than five rows say nothing, nor do rows without a class"
    names = tables.rows["token_class"].to_pylist()
    unit = [vector / np.linalg.norm(vector) for vector in tables.activations.astype(np.float64)]
    for name, one in found.items():
        own = [at for at, said in enumerate(names) if said == name]
        plain = []
        for at in own:
            others = [unit[j] for j in own if tables.document_names[j] != tables.document_names[at]]
            mean = np.mean(others, axis=0)
            cosine = float(unit[at] @ mean / np.linalg.norm(mean))
            plain.append(1 - 2 * (1 - cosine) / tables.baselines.mean_norm)
        assert one.mean_fve.value == pytest.approx(np.mean(plain), abs=1e-6)
        real = np.array(tables.rows["cosine_real"].to_pylist())[own]
        assert one.fve.value == pytest.approx(np.mean(1 - 2 * (1 - real) / tables.baselines.mean_norm))
        assert one.delta.value == pytest.approx(one.fve.value - one.mean_fve.value)
        assert one.n == len(own)


def test_a_class_that_is_nearly_one_direction_is_better_told_by_its_mean_and_the_verdict_names_it():
    tables = rows({"number": 40, "other word": 40}, {"number": 0.1, "other word": 3.0})
    found = {one.name: one for one in token_classes(tables)}
    assert found["number"].loses and found["number"].delta.p < 0.01
    assert not found["other word"].loses
    plain = decide(parts())
    named = decide({**parts(), "token_classes": list(found.values())})
    assert named.value == plain.value, "what is named changes no verdict"
    assert named.reason == f"{plain.reason}; the mean direction of its class does better on number"
    assert decide({**parts(), "token_classes": [found["other word"]]}) == plain


def test_a_class_of_one_document_and_rows_without_classes_say_nothing():
    assert token_classes(rows({"number": 10}, {}, documents=1)) in (None, [])
    tables = rows({"number": 10}, {})
    assert token_classes(Tables(tables.rows.drop_columns(["token_class"]), None, SETTINGS)) is None


class Tokens:
    """Words with what stands before them, as tokens."""

    def __call__(self, texts, **options):
        return {"input_ids": [[(" " if at else "") + word for at, word in enumerate(t.split(" "))] for t in texts]}

    def decode(self, ids, skip_special_tokens):
        return "".join(ids)


def test_the_class_is_that_of_a_texts_last_token_and_of_its_first_ten_positions():
    long = "one two three four five six seven eight nine ten"
    texts = [f"{long} {last}" for last in ("Paris", "the", "1889", "...", "whales")] + [long]
    found = Texts(texts).classes(Tokens())
    assert found == ["name", "function word", "number", "punctuation", "other word", "first 10 positions"]
