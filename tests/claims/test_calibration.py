"""`claims.json`: what it gives, and that a changed one is refused."""

from __future__ import annotations

import json
import math

import pytest

from nla_sdk.claims.calibration import Calibration, Weight, Weights, load_calibration
from nla_sdk.claims.receipts import Receipt
from nla_sdk.errors import MissingFileError
from nla_sdk.evaluation.reading import EvaluationError

MADE = Calibration(
    made_from={"av/nla_meta.yaml": "0" * 64},
    data="rows.parquet",
    unit="FVE",
    baseline_mse=0.2,
    kinds={
        "word": Weights(
            n=40,
            supported=10,
            intercept=-1.0,
            receipts={
                "lens": Weight(weight=2.0, mean=-5.0, std=2.0),
                "ablation": Weight(weight=0.5, mean=0.01, std=0.1),
            },
        )
    },
)


def test_the_probability_is_the_logistic_of_the_weighted_receipts():
    found = MADE.support("word", {"lens": Receipt(-4.0), "ablation": Receipt(0.21), "repeats": Receipt(9.0)})
    assert found == pytest.approx(1 / (1 + math.exp(-(-1.0 + 2.0 * 0.5 + 0.5 * 2.0))))


def test_a_kind_or_a_receipt_that_is_not_there_gives_none():
    assert MADE.support("sentence", {"lens": Receipt(0.0), "ablation": Receipt(0.0)}) is None
    assert MADE.support("word", {"lens": Receipt(0.0)}) is None


def test_extreme_receipts_give_a_probability_all_the_same():
    assert MADE.support("word", {"lens": Receipt(1e9), "ablation": Receipt(0.0)}) == pytest.approx(1.0)
    assert MADE.support("word", {"lens": Receipt(-1e9), "ablation": Receipt(0.0)}) == pytest.approx(0.0)


def test_it_comes_back_as_it_was_saved(tmp_path):
    assert load_calibration(MADE.save(tmp_path / "claims.json")) == MADE


@pytest.mark.parametrize("change", ["weight", "hash", "version", "unknown", "std"])
def test_a_changed_file_is_refused(tmp_path, change):
    path = MADE.save(tmp_path / "claims.json")
    content = json.loads(path.read_text())
    if change == "weight":
        content["kinds"]["word"]["receipts"]["lens"]["weight"] = 2.1
    if change == "hash":
        content["sha256"] = "0" * 64
    if change == "version":
        content["schema_version"] = 9
    if change == "unknown":
        content["more"] = 1
    if change == "std":
        content["kinds"]["word"]["receipts"]["lens"]["std"] = 0
    path.write_text(json.dumps(content))
    with pytest.raises(EvaluationError, match=r"claims\.json"):
        load_calibration(path)


def test_no_file_and_no_json_say_so(tmp_path):
    with pytest.raises(MissingFileError, match="does not exist"):
        load_calibration(tmp_path / "claims.json")
    for text in ("{", "[]", '"a"'):
        (tmp_path / "claims.json").write_text(text)
        with pytest.raises(EvaluationError, match=r"claims\.json"):
            load_calibration(tmp_path / "claims.json")
