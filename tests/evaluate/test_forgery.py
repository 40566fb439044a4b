"""What a file says is held against tables, contracts and data; tables that are odd are refused in one line."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nla_sdk.errors import InputError
from nla_sdk.evaluation.ages import as_of
from nla_sdk.evaluation.reading import EvaluationError, digest, dumps
from nla_sdk.evaluation.schema import EVALUATION, ROWS, VARIANTS, Evaluation
from nla_sdk.io.files import sha256_of
from nla_sdk.io.tables import vector_column
from tests.evaluate.planted import D, Oracle, PlantedPair, evaluate, table
from training.evaluate.verify import verify


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("made")
    data = table(root / "heldout.parquet", labels=True, texts=True)
    known = Oracle(data)
    found = evaluate(PlantedPair(root / "pair", known.say, known.hear), data, root / "out")
    return root, data, found


@pytest.fixture
def forge(made, figures_made_once, tmp_path):
    """Change the file and its tables, make every hash fit, and verify with everything at hand."""
    root, data, found = made

    def forged(change=lambda values: None, rows=lambda table: table, *, with_data=True):
        values = found.model_dump(mode="json", exclude_none=True)
        for name in (ROWS, VARIANTS):
            shutil.copy(root / "out" / name, tmp_path / name)
        pq.write_table(rows(pq.read_table(root / "out" / ROWS)), tmp_path / ROWS)
        values["files"][ROWS] = sha256_of(tmp_path / ROWS)
        change(values)
        try:
            resealed = Evaluation.model_validate(values)
        except ValueError as error:
            raise EvaluationError(str(error)) from None
        (tmp_path / EVALUATION).write_text(dumps(resealed), encoding="utf-8")
        pair = {role: root / "pair" / role for role in ("av", "ar")}
        return verify(tmp_path / EVALUATION, **pair, data=data if with_data else None)

    return forged


def setting(*path):
    *where, value = path

    def change(values):
        at = values
        for key in where[:-1]:
            at = at[key]
        at[where[-1]] = value

    return change


def test_what_was_not_touched_verifies_with_everything_checked(forge):
    found = forge()
    assert found.not_at_hand == []
    assert {"the data, row by row", "whether the halves name each other"} <= set(found.checked)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (("data", "rows", 6000), "60 rows attempted, the data have 6000"),
        (("data", "documents", 3000), "data.documents is 3000, the rows give 30"),
        (("data", "families", {"x": 1}), "data.families"),
        (("data", "has_labels", False), "data.has_labels"),
        (("data", "has_texts", False), "data.has_texts"),
        (("data", "sha256", "0" * 64), "data.sha256 is not the SHA-256 that inputs have"),
        (("inputs", "heldout.parquet", "0" * 64), "data.sha256 is not the SHA-256 that inputs have"),
        (("subject", "matched", False), "says matched: False; the halves name each other"),
        (("subject", "layer", 99), "its layer is 3, the file says 99"),
        (("subject", "d_model", 7), "its d_model is 24, the file says 7"),
        (("subject", "base_model", "another/base"), "its base_model is tiny/base, the file says another/base"),
        (("verdict", "reason", "best pair ever"), "reason is not the one its figures give"),
        (("verdict", "thresholds", "least_gain", 0.0001), "a file does not choose its own"),
        (("settings", "bootstrap_draws", 0), "greater than or equal to 1"),
        (("settings", "permutations", 10**9), "less than or equal to"),
        (("settings", None), "names its data, its settings"),
        (("round_trip", "ar_cut", 1), "round_trip.ar_cut"),
        (("round_trip", "fve_balanced", "interval_95", 0, -9.0), "fve_balanced.interval_95.0 is -9"),
        (("round_trip", "fve_balanced", None), "round_trip.fve_balanced is None, the rows give"),
        (("round_trip", "tokens", None), "round_trip.tokens is None, the rows give"),
        (("schema_version", 2), "schema version 2 has no round_trip.fve_balanced"),
    ],
    ids=lambda value: ".".join(map(str, value[:-1])) if isinstance(value, tuple) else "",
)
def test_a_resealed_change_is_refused(forge, path, message):
    with pytest.raises(EvaluationError, match=message):
        forge(setting(*path))


def test_a_file_of_version_2_verifies_without_what_came_later_and_keeps_its_hash(forge, made, tmp_path):
    _, _, found = made
    older = as_of(found, 2).model_copy(update={"schema_version": 2})

    def to_older(values):
        values.clear()
        values.update(older.model_dump(mode="json", exclude_none=True))
        values["files"][ROWS] = sha256_of(tmp_path / ROWS)

    kept = forge(to_older).evaluation
    assert kept.schema_version == 2 and kept.round_trip.fve_balanced is kept.round_trip.tokens is None
    assert digest(kept) == json.loads((tmp_path / EVALUATION).read_text(encoding="utf-8"))["sha256"]


def test_a_content_blind_pair_cannot_choose_thresholds_that_make_it_read(tmp_path):
    data = table(tmp_path / "heldout.parquet")
    known = Oracle(data)
    blind = evaluate(PlantedPair(tmp_path, known.say, lambda text: known.mean), data, tmp_path / "out")
    values = blind.model_dump(mode="json", exclude_none=True)
    values["verdict"]["thresholds"]["least_gain"] = -9.0
    values["verdict"]["value"] = "reads-content"
    with pytest.raises(ValueError, match="verdict is reads-content, but its figures give content-blind"):
        Evaluation.model_validate(values)


def test_controls_without_variants_are_refused(made, tmp_path):
    root, data, found = made
    values = found.model_dump(mode="json", exclude_none=True)
    del values["files"][VARIANTS], values["signal"]
    shutil.copy(root / "out" / ROWS, tmp_path / ROWS)
    (tmp_path / EVALUATION).write_text(dumps(Evaluation.model_validate(values)), encoding="utf-8")
    with pytest.raises(EvaluationError, match="controls is stated, but the rows give none"):
        verify(tmp_path / EVALUATION, data=data)


def replaced(name, make):
    def change(rows):
        at = rows.column_names.index(name)
        return rows.set_column(at, name, make(rows)).replace_schema_metadata(rows.schema.metadata)

    return change


def test_what_no_text_scores_follows_from_the_one_vector_of_it(forge):
    """The gain, which decides the verdict, is of these cosines."""
    lower = replaced("cosine_empty", lambda rows: pa.array(np.array(rows["cosine_empty"]) - 0.3))
    with pytest.raises(EvaluationError, match="cosine_empty does not follow from its vectors"):
        forge(rows=lower)
    with pytest.raises(EvaluationError, match="does not hold what the AR makes of no text"):
        forge(rows=lambda rows: rows.replace_schema_metadata(None))
    fewer = replaced("cosine_empty", lambda rows: pa.array([None, *rows["cosine_empty"].to_pylist()[1:]], pa.float64()))
    with pytest.raises(EvaluationError, match="cosine_empty is not of every row that has a direction"):
        forge(rows=fewer)


def test_nan_is_no_cosine(forge):
    nan = replaced("cosine_label", lambda rows: pa.array([np.nan, *rows["cosine_label"].to_pylist()[1:]]))
    with pytest.raises(EvaluationError, match="cosine_label does not follow"):
        forge(rows=nan)


def test_rows_of_other_activations_than_the_datas_are_refused(forge):
    def scaled(rows):  # the directions, and with them every figure, stay
        return vector_column(2 * np.array(rows["activation_vector"].to_pylist()))

    with pytest.raises(EvaluationError, match="the rows' activation_vector is not the data's"):
        forge(rows=replaced("activation_vector", scaled))
    renamed = replaced("label", lambda rows: pa.array([f"{one} " for one in rows["label"].to_pylist()]))
    with pytest.raises(EvaluationError, match="the rows' label is not the data's"):
        forge(rows=renamed)


@pytest.mark.parametrize("column", ["cosine_shuffled", "reconstruction", "cosine_empty", "row_id", "ar_cut"])
def test_rows_that_lack_a_column_are_refused_in_one_line(forge, column):
    with pytest.raises(EvaluationError, match="cannot be recomputed from its tables: KeyError") as caught:
        forge(rows=lambda rows: rows.drop_columns([column]))
    assert "\n" not in str(caught.value)


def test_variants_of_unknown_rows_are_refused_in_one_line(forge):
    other = replaced("row_id", lambda rows: pa.array([f"other {at}" for at in range(len(rows))]))
    with pytest.raises(EvaluationError, match="cannot be recomputed from its tables"):
        forge(rows=other)


def test_what_is_no_parquet_is_refused_in_one_line(made, tmp_path):
    root, _, found = made
    values = found.model_dump(mode="json", exclude_none=True)
    shutil.copy(root / "out" / VARIANTS, tmp_path / VARIANTS)
    (tmp_path / ROWS).write_bytes(b"x")
    values["files"][ROWS] = sha256_of(tmp_path / ROWS)
    (tmp_path / EVALUATION).write_text(dumps(Evaluation.model_validate(values)), encoding="utf-8")
    with pytest.raises(InputError, match="rows.parquet is not a readable parquet file"):
        verify(tmp_path / EVALUATION)


def test_other_library_versions_are_named_beside_what_differs(forge):
    def change(values):
        values["round_trip"]["fve"]["interval_95"][0] -= 0.01
        values["versions"]["numpy"] = "1.0"

    with pytest.raises(EvaluationError, match=r"Library versions differ: numpy .* \(the file: 1.0\)"):
        forge(change)


def test_halves_whose_contracts_cannot_tell_are_listed_as_not_checked(made, tmp_path):
    from nla_sdk.contract import Contract

    root, data, _ = made
    for role in ("av", "ar"):
        shutil.copytree(root / "pair" / role, tmp_path / role)
        contract = Contract.load(tmp_path / role)
        contract.replace(provenance={}, pair=f"somebody/other-{role}").save(tmp_path / role)
    found = verify(root / "out" / EVALUATION, av=tmp_path / "av", ar=tmp_path / "ar", data=data)
    assert found.not_at_hand == ["whether the halves name each other"]
    for role in ("av", "ar"):
        Contract.load(tmp_path / role).replace(pair=None).save(tmp_path / role)
    with pytest.raises(EvaluationError, match="says matched: True; the halves do not name each other"):
        verify(root / "out" / EVALUATION, av=tmp_path / "av", ar=tmp_path / "ar", data=data)


def test_a_contract_is_told_by_what_decides_results(made):
    from nla_sdk.contract import Contract
    from nla_sdk.halves.beside.digests import contract_digest

    root, _, _ = made
    contract = Contract.load(root / "pair" / "av")

    class Later(Contract):
        another: int | None = None

    fields = {name: getattr(contract, name) for name in Contract.model_fields}
    later = Later.model_construct(**fields, another=None)
    assert contract_digest(later) == contract_digest(contract), "an option nobody set changes no published file"
    assert contract_digest(Later.model_construct(**fields, another=1)) != contract_digest(contract)
    raw, scaled = contract.replace(injection_scale=None), contract.replace(injection_scale=float(D))
    assert contract_digest(raw) != contract_digest(scaled)
    named = contract.replace(base_model="lab/tiny-base")
    assert contract_digest(named) == contract_digest(contract), "a base in a folder gets its Hub id before publishing"
    assert contract_digest(contract.replace(pair="a/b")) == contract_digest(contract)


def test_the_forged_file_is_what_json_says(made):
    """A guard of this file's own tools: dumps and model_validate lose nothing."""
    _, _, found = made
    values = json.loads(dumps(found))
    values.pop("sha256")
    assert Evaluation.model_validate(values) == found
