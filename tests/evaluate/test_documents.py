"""A pair is said to read content on rows of enough documents only, and files from before that rule are held to it."""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from cards.report import report, summary
from nla_sdk.evaluation.reading import EvaluationError, digest, dumps, load, save
from nla_sdk.evaluation.schema import EVALUATION, ROWS, VARIANTS, Evaluation
from tests.evaluate.planted import SETTINGS, Oracle, PlantedPair, evaluate, table
from training.evaluate.verify import verify

QUICK = SETTINGS.model_copy(update={"controls_n": 0, "signal_n": 0})
OLDER = Path(__file__).parent / "version_1.json"
"""The bundled pair's evaluation as it was before the rule, of schema version 1."""


@pytest.fixture(scope="module")
def measured(tmp_path_factory) -> Callable[..., tuple[Evaluation, Path]]:
    """An oracle's evaluation and its folder, to be read only; from document `silent_from` on the AV writes nothing."""

    @functools.cache
    def make(documents: int, positions: int, silent_from: int | None = None) -> tuple[Evaluation, Path]:
        folder = tmp_path_factory.mktemp("measured")
        data = table(folder / "heldout.parquet", documents, positions)
        known = Oracle(data)

        def say(vector):
            text = known.say(vector)
            number = text.partition("doc")[2][:3]
            return "" if silent_from is not None and number.isdigit() and int(number) >= silent_from else text

        return evaluate(PlantedPair(folder, say, known.hear), data, folder / "out", QUICK), folder / "out"

    return make


def as_older(found: Evaluation) -> dict:
    """The file as it was written before documents were asked for."""
    values = found.model_dump(mode="json", exclude_none=True)
    del values["verdict"]["thresholds"]["fewest_documents"]
    values["round_trip"].pop("documents", None)
    return values


@pytest.mark.parametrize(("documents", "verdict"), [(19, "inconclusive"), (20, "reads-content")])
def test_even_an_oracle_needs_twenty_documents(measured, documents, verdict):
    found, out = measured(documents, positions=5)
    assert found.verdict.value == verdict and found.round_trip.evaluated == 5 * documents
    assert ("19 documents, at least 20 needed" in found.verdict.reason) == (documents == 19)
    assert "20 documents" in summary(found) and "of at least 20 documents, reads-content" in report(found)
    verify(out / EVALUATION)


def test_documents_of_which_nothing_was_evaluated_do_not_count(measured):
    found, out = measured(documents=30, positions=3, silent_from=12)
    trip = found.round_trip
    assert (found.data.documents, trip.attempted) == (30, 90) and trip.empty > 40
    assert trip.documents == 12 and found.verdict.value == "inconclusive"
    assert "12 documents, at least 20 needed" in found.verdict.reason
    verify(out / EVALUATION)


def test_what_is_said_of_evaluated_documents_is_recomputed(measured, tmp_path):
    found, out = measured(documents=30, positions=3, silent_from=25)
    values = found.model_dump(mode="json", exclude_none=True)
    assert values["round_trip"]["documents"] == 25
    values["round_trip"]["documents"] = 26
    shutil.copytree(out, tmp_path / "out")
    save(Evaluation.model_validate(values), tmp_path / "out" / EVALUATION)
    with pytest.raises(EvaluationError, match="round_trip.documents is 26, the rows give 25"):
        verify(tmp_path / "out" / EVALUATION)


# --- files from before the rule -----------------------------------------------------------------------------------
def test_an_older_file_keeps_its_hash_its_verdict_and_its_thresholds(tmp_path):
    stated = json.loads(OLDER.read_text(encoding="utf-8"))
    found = load(OLDER)
    assert digest(found) == stated["sha256"] and "fewest_documents" not in stated["verdict"]["thresholds"]
    assert found.verdict.value == "reads-content" and found.verdict.thresholds.fewest_documents is None
    save(found, tmp_path / EVALUATION)
    assert json.loads((tmp_path / EVALUATION).read_text(encoding="utf-8")) == stated
    assert "20 documents" not in summary(found), "a file's own thresholds are shown"


def test_an_older_file_that_read_content_in_few_documents_is_refused_with_the_reason(measured, tmp_path):
    values = as_older(measured(19, positions=5)[0])
    values["verdict"] |= {"value": "reads-content", "reason": "as it was"}
    (tmp_path / EVALUATION).write_text(json.dumps(values), encoding="utf-8")
    with pytest.raises(EvaluationError, match="figures give inconclusive \\(19 documents, at least 20 needed"):
        load(tmp_path / EVALUATION)


def older_beside_its_tables(found: Evaluation, out: Path, target: Path) -> Path:
    for name in (ROWS, VARIANTS):
        if (out / name).is_file():
            shutil.copy(out / name, target / name)
    values = as_older(found)
    values["verdict"]["reason"] = verdict_of(values)["reason"]
    values["verdict"]["value"] = verdict_of(values)["value"]
    (target / EVALUATION).write_text(dumps(Evaluation.model_validate(values)), encoding="utf-8")
    return target / EVALUATION


def verdict_of(values: dict) -> dict:
    """The verdict that the figures of a file give, by their own statement of documents."""
    from nla_sdk.evaluation.measures import Ablation, Collapse, Identity, RoundTripFigures
    from nla_sdk.evaluation.parts import Data
    from nla_sdk.evaluation.verdict import decide

    kinds = {"data": Data, "round_trip": RoundTripFigures, "ablation": Ablation, "identity": Identity}
    parts = {name: kind.model_validate(values[name]) for name, kind in {**kinds, "collapse": Collapse}.items()}
    return decide(parts).model_dump()


def test_an_older_file_whose_rows_are_of_enough_documents_still_verifies(measured, tmp_path):
    verify(older_beside_its_tables(*measured(documents=30, positions=3, silent_from=25), tmp_path))


def test_an_older_file_whose_evaluated_rows_are_of_few_documents_does_not_verify(measured, tmp_path):
    file = older_beside_its_tables(*measured(documents=30, positions=3, silent_from=12), tmp_path)
    assert load(file).verdict.value == "reads-content", "it says 30 documents and no more"
    with pytest.raises(EvaluationError, match="the rows give inconclusive \\(12 documents"):
        verify(file)


# --- outlying norms -----------------------------------------------------------------------------------------------
def test_sinks_among_the_rows_are_counted_and_fve_is_shown_without_them(tmp_path):
    import numpy as np
    import pyarrow.parquet as pq

    from nla_sdk import metrics
    from nla_sdk.io.tables import read_vectors, vector_column

    data = table(tmp_path / "heldout.parquet", 30, 2)
    known, rows = Oracle(data), pq.read_table(data)
    vectors = read_vectors(rows).copy()
    vectors[7], vectors[20] = 300.0, 400.0
    at = rows.column_names.index("activation_vector")
    pq.write_table(rows.set_column(at, "activation_vector", vector_column(vectors)), data)
    found = evaluate(PlantedPair(tmp_path, known.say, known.hear), data, tmp_path / "out", QUICK).round_trip
    made = read_vectors(pq.read_table(tmp_path / "out" / ROWS), "reconstruction")
    others = np.delete(np.arange(60), [7, 20])
    baseline = metrics.mean_baselines(vectors[others]).mean_norm
    mse = metrics.direction_mse(made[others], vectors[others])
    assert (found.reference.outlying, found.fve_without_outlying.n) == (2, 58)
    assert found.reference.baseline_mse_without_outlying == pytest.approx(baseline, abs=1e-9)
    assert found.fve_without_outlying.value == pytest.approx(1 - mse.mean() / baseline, abs=1e-9)
    assert "without 2 rows of outlying norm" in summary(load(tmp_path / "out" / EVALUATION))
    assert "FVE without 2 rows of outlying norm" in report(load(tmp_path / "out" / EVALUATION))
    verify(tmp_path / "out" / EVALUATION)
