"""Two evaluations side by side; and what --record puts into a checkpoint."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

from nla_sdk.contract import Contract
from nla_sdk.evaluation.reading import EvaluationError, load
from nla_sdk.evaluation.schema import EVALUATION
from nla_sdk.io.files import sha256_of
from tests.commands import invoke
from tests.evaluate.planted import FEW, Oracle, PlantedPair, evaluate, random_of, table
from training.evaluate.__main__ import app
from training.evaluate.compare import lines, paired
from training.evaluate.record import record
from training.evaluate.verify import verify


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """A good pair and a worse one, on the same rows."""
    root = tmp_path_factory.mktemp("two")
    data = table(root / "heldout.parquet")
    good = Oracle(data)

    def hear(text):
        return good.hear(text) + 0.8 * random_of("blur" + text)

    for name, ear in (("good", good.hear), ("worse", hear)):
        evaluate(PlantedPair(root / name, good.say, ear), data, root / name / "out")
    return root


def test_the_paired_test_is_on_rows_that_both_have(two):
    found = paired(two / "good" / "out" / EVALUATION, two / "worse" / "out" / EVALUATION)
    a, b = (load(two / name / "out" / EVALUATION).round_trip.fve.value for name in ("good", "worse"))
    assert found.rows == 60 and found.same_activations
    assert found.difference.value == pytest.approx(b - a) and found.difference.value < 0
    assert found.difference.interval_95[1] < 0 and found.difference.p < 0.01


def test_a_pair_compared_with_itself_differs_by_nothing(two):
    file = two / "good" / "out" / EVALUATION
    found = paired(file, file)
    assert found.difference.value == 0 and found.difference.p == 1


def test_the_comparison_prints_both_sides_and_the_test(two):
    text = "\n".join(lines(two / "good" / "out" / EVALUATION, two / "worse" / "out" / EVALUATION))
    for name in ("good", "worse"):
        value = load(two / name / "out" / EVALUATION).round_trip.fve.value
        assert f"{value:.3f} [" in text
    assert "60 shared rows (the same activations)" in text and "p = " in text


def test_rows_of_other_data_are_not_paired(two, tmp_path):
    data = table(tmp_path / "other.parquet", documents=12)
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = pq.read_table(data)
    renamed = rows.set_column(0, "row_id", pa.array([f"other-{at}" for at in range(len(rows))]))
    pq.write_table(renamed, data)
    found = Oracle(data)
    evaluate(PlantedPair(tmp_path, found.say, found.hear), data, tmp_path / "out", FEW)
    text = "\n".join(lines(two / "good" / "out" / EVALUATION, tmp_path / "out" / EVALUATION))
    assert "no rows in common" in text and "no row_id" in text and "same config and seed" in text


def test_without_common_rows_the_comparison_says_how_to_get_some(two, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    def measured(name: str, column: str, values) -> Path:
        data = table(tmp_path / f"{name}.parquet", documents=12)
        rows = pq.read_table(data)
        kept = rows.drop_columns([column]) if column in rows.column_names else rows
        pq.write_table(kept.append_column(column, pa.array([values(at) for at in range(len(rows))])), data)
        found = Oracle(data)
        evaluate(PlantedPair(tmp_path / name, found.say, found.hear), data, tmp_path / name / "out", FEW)
        return tmp_path / name / "out" / EVALUATION

    first, later = (measured(f"from{start}", "n_raw_tokens", lambda at, start=start: start + at) for start in (0, 900))
    others = measured("others", "doc_id", lambda at: f"other-{at // 5}")
    for a, b, why in (
        (first, later, "same row_ids and documents, but at other tokens"),
        (two / "good" / "out" / EVALUATION, others, "B on others.parquet, and they share no document"),
    ):
        text = list(lines(a, b))[-1]
        assert text.startswith("No paired test: no rows in common (") and why in text
        assert "pass one FILE as --data for both" in text and "row_id, doc_id and n_raw_tokens" in text


def test_published_figures_have_no_rows_to_pair(two, tmp_path):
    from nla_sdk.evaluation.reading import save
    from tests.cards.samples import published

    seed = save(published(), tmp_path / "seed.json")
    text = "\n".join(lines(two / "good" / "out" / EVALUATION, seed))
    assert "B published: no rows" in text and "gain over empty" in text


def test_a_file_without_its_rows_is_refused_in_one_line(two, tmp_path):
    file = two / "good" / "out" / EVALUATION
    (tmp_path / EVALUATION).write_bytes(file.read_bytes())
    with pytest.raises(EvaluationError, match="names the table rows.parquet, which is not beside it"):
        list(lines(file, tmp_path / EVALUATION))


def test_rows_without_a_direction_have_nothing_to_pair(two, tmp_path):
    import pyarrow.parquet as pq

    from nla_sdk.io.tables import vector_column

    data = table(tmp_path / "zero.parquet")
    rows = pq.read_table(data)
    at = rows.column_names.index("activation_vector")
    alike = vector_column(np.ones((len(rows), 24)))
    known = Oracle(data)
    pq.write_table(rows.set_column(at, "activation_vector", alike), data)
    evaluate(PlantedPair(tmp_path, known.say, known.hear), data, tmp_path / "out", FEW)
    text = "\n".join(lines(two / "good" / "out" / EVALUATION, tmp_path / "out" / EVALUATION))
    assert "No paired test: B has no FVE" in text


def test_rows_that_were_only_numbered_are_paired_by_their_place_in_the_text_too(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    data = table(tmp_path / "h.parquet")
    known = Oracle(data)
    for name, shift in (("a", 0), ("b", 1)):
        rows = pq.read_table(data).drop_columns(["row_id"])
        tokens = [7 + at % 2 + (shift if at % 4 < 2 else 0) for at in range(len(rows))]
        pq.write_table(rows.append_column("n_raw_tokens", pa.array(tokens, pa.int32())), tmp_path / f"{name}.parquet")
        pair = PlantedPair(tmp_path / name, known.say, known.hear)
        evaluate(pair, tmp_path / f"{name}.parquet", tmp_path / name / "o", FEW)
    found = paired(tmp_path / "a" / "o" / EVALUATION, tmp_path / "b" / "o" / EVALUATION)
    assert found.rows == 30, "the others are as many rows into their document, at other places of it"


def test_record_writes_where_the_numbers_came_from_and_the_file_still_verifies(two, tmp_path):
    shutil.copytree(two / "good", tmp_path, dirs_exist_ok=True)
    data, found = two / "heldout.parquet", load(tmp_path / "out" / EVALUATION)
    folders = {"av": tmp_path / "av", "ar": tmp_path / "ar"}
    record(found, tmp_path / "out" / EVALUATION, folders)
    for folder in folders.values():
        written = yaml.safe_load((folder / "nla_meta.yaml").read_text(encoding="utf-8"))["eval_provenance"]
        assert written["evaluation_sha256"] == sha256_of(tmp_path / "out" / EVALUATION)
        assert written["data_sha256"] == sha256_of(data)
        assert written["headline"]["fve"] == pytest.approx(found.round_trip.fve.value, abs=1e-6)
        assert written["verdict"] == "reads-content" and written["code_version"]
        assert Contract.load(folder).role == folder.name
    checked = verify(tmp_path / "out" / EVALUATION, av=folders["av"], ar=folders["ar"], data=data)
    assert not checked.not_at_hand
    record(found, tmp_path / "out" / EVALUATION, folders)  # again: the same file


def test_record_refuses_a_half_that_was_not_measured(two, tmp_path):
    shutil.copytree(two / "good", tmp_path, dirs_exist_ok=True)
    found = load(tmp_path / "out" / EVALUATION)
    (tmp_path / "av" / "adapter_model.safetensors").write_bytes(np.ones(3).tobytes())
    before = (tmp_path / "ar" / "nla_meta.yaml").read_bytes()
    with pytest.raises(EvaluationError, match="is not the AV that"):
        record(found, tmp_path / "out" / EVALUATION, {"av": tmp_path / "av", "ar": tmp_path / "ar"})
    assert (tmp_path / "ar" / "nla_meta.yaml").read_bytes() == before


def test_record_does_not_write_into_contracts_that_lack_what_was_stated(tmp_path):
    stated = ("--contract", "prompt_style=chat")
    ended = invoke(app, "--av", "ada/av", "--data", tmp_path / "eval.parquet", "--record", *stated)
    assert ended.exit_code == 2 and "--record writes into contracts that lack what --contract says" in ended.stderr


def test_claims_stand_beside_each_other_where_a_file_has_them(two, tmp_path, monkeypatch):
    from tests.evaluate.claims.made import CLAIMED, speaking, without_models

    without_models(monkeypatch)
    data = table(tmp_path / "heldout.parquet", texts=True)
    found = evaluate(speaking(tmp_path / "pair", data), data, tmp_path / "out", CLAIMED)
    said = "\n".join(lines(tmp_path / "out" / EVALUATION, two / "good" / "out" / EVALUATION))
    precision = found.claims.kinds[0].precision
    line = next(line for line in said.splitlines() if line.startswith("claims supported: next token"))
    assert f"{precision.value:.3f} [{precision.interval_95[0]:.3f}" in line and line.endswith("—")
    assert "  by chance" in said and "probability of support, AUROC" in said and "calibration error (ECE)" in said
