"""What is said of claims is held against the table of claims, and that against rows, texts and itself."""

from __future__ import annotations

import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nla_sdk.claims.calibration import CLAIMS, load_calibration
from nla_sdk.evaluation.reading import EvaluationError, dumps
from nla_sdk.evaluation.schema import CLAIMS_TABLE, EVALUATION, ROWS, VARIANTS, Evaluation
from nla_sdk.io.files import sha256_of
from tests.evaluate.claims.made import CLAIMED, speaking, without_models
from tests.evaluate.planted import evaluate, table
from tests.evaluate.test_forgery import replaced, setting
from training.evaluate.claims.given import texts_for
from training.evaluate.heldout import read
from training.evaluate.verify import verify

TABLES = (ROWS, VARIANTS, CLAIMS_TABLE, CLAIMS)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("made")
    data = table(root / "heldout.parquet", documents=30)
    texts = table(root / "texts.parquet", documents=30, texts=True)
    with pytest.MonkeyPatch.context() as patch:
        without_models(patch)
        pair = speaking(root / "pair", data)
        found = evaluate(pair, data, root / "out", CLAIMED, texts=texts_for(read(data, None), texts))
    return root, data, texts, found


@pytest.fixture
def forge(made, figures_made_once, tmp_path):
    """Change the file and its tables, make every hash fit, and verify with everything at hand."""
    root, data, texts, found = made

    def forged(change=lambda values: None, claims=None, rows=None, calibration=None, *, with_texts=False):
        values = found.model_dump(mode="json", exclude_none=True)
        for name in TABLES:
            shutil.copy(root / "out" / name, tmp_path / name)
        for name, alter in ((CLAIMS_TABLE, claims), (ROWS, rows)):
            if alter is not None:
                pq.write_table(alter(pq.read_table(root / "out" / name)), tmp_path / name)
        if calibration is not None:
            load_calibration(tmp_path / CLAIMS).model_copy(update=calibration).save(tmp_path / CLAIMS)
        values["files"] = {name: sha256_of(tmp_path / name) for name in TABLES}
        change(values)
        try:
            resealed = Evaluation.model_validate(values)
        except ValueError as error:
            raise EvaluationError(str(error)) from None
        (tmp_path / EVALUATION).write_text(dumps(resealed), encoding="utf-8")
        pair = {role: root / "pair" / role for role in ("av", "ar")}
        return verify(tmp_path / EVALUATION, **pair, data=data, texts=texts if with_texts else None)

    return forged


def first(name, value):
    """A column whose first entry that is there is another."""

    def make(rows):
        values = rows[name].to_pylist()
        at = next(at for at, one in enumerate(values) if one is not None)
        values[at] = value(values[at]) if callable(value) else value
        return pa.array(values, rows.schema.field(name).type)

    return replaced(name, make)


def test_what_was_not_touched_verifies_and_texts_are_asked_for(forge):
    assert forge().not_at_hand == ["the texts that claims were held against (pass --texts FILE)"]
    found = forge(with_texts=True)
    assert found.not_at_hand == [] and "claims against the texts" in found.checked


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (("claims", "known", 1), "claims.known is 1, the rows give 360"),
        (("claims", "n", 7), "claims: 7 in all"),
        (("claims", "per_explanation", 3.0), "claims.per_explanation is 3"),
        (("claims", "unit", "gain"), "claims.unit is 'gain'"),
        (("claims", "kinds", 0, "precision", "value", 0.9), "claims.kinds.0.precision.value is 0.9"),
        (("claims", "kinds", 2, "chance", "value", 0.9), "claims.kinds.2.chance.value is 0.9"),
        (("claims", "kinds", 0, "precision", "p", 0.9), "claims.kinds.0.precision.p is 0.9"),
        (("claims", "kinds", 2, "nothing", "count", 0), "claims.kinds.2.nothing.count is 0"),
        (("claims", "specifics", 0, "invented", "count", 1), "claims.specifics.0.invented.count is 1"),
        (("claims", "reliability", "auroc", "value", 0.99), "claims.reliability.auroc.value is 0.99"),
        (("claims", "reliability", "ece", "value", 0.0), "claims.reliability.ece is 0"),
        (("claims", "reliability", "folds", 3), "claims.reliability.folds is 3"),
        (("claims", "likeliest", "first", "value", 0.2), "claims.likeliest.first.value is 0.2"),
        (("claims", "likeliest", "named_chance", "value", 0.2), "claims.likeliest.named_chance.value is 0.2"),
        (("claims", "likeliest", "of", 20), "claims.likeliest.of is 20"),
        (("claims", "likeliest", None), "claims.likeliest is None, the rows give"),
        (("claims", "repeats", "count", 0), "claims.repeats.count is 0"),
        (("claims", "repeats", None), "claims.repeats is None, the rows give"),
        (("claims", "why_no_support", "for no reason"), "claims.why_no_support is 'for no reason'"),
        (("claims", None), "claims is None, the rows give"),
        (("token_classes", 0, "fve", "interval_95", 0, -9.0), "token_classes.0.fve.interval_95.0 is -9"),
        (("token_classes", None), "token_classes is None, the rows give"),
        (("settings", "claims_n", 3), "ablation is of rows that were not drawn"),
        (("settings", "claims_n", 30), "ablation is not of every claim of the drawn rows"),
        (("schema_version", 1), "schema version 1 has no .* more: that is of version 2 and 3"),
        (("inputs", "texts", "0" * 64), "claims.json.made_from.texts"),
    ],
    ids=lambda value: ".".join(map(str, value[:-1])) if isinstance(value, tuple) else "",
)
def test_a_resealed_figure_is_refused(forge, path, message):
    with pytest.raises(EvaluationError, match=message):
        forge(setting(*path))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (first("lens", lambda one: one - 40.0), "support is not what the receipts give"),
        (first("ablation", lambda one: one + 0.5), "claims.receipts"),
        (first("ablation", None), "ablation is not of every claim of the drawn rows"),
        (first("repeats_null", 3.0), "claims.receipts"),
        (first("place", 99), "claims.likeliest"),
        (first("place", -1), "place is no place of a next token"),
        (first("place_by_chance", 0), "claims.likeliest"),
        (first("in_text", 0.25), "supported does not follow from its receipts|claims.receipts"),
        (first("in_text", 7.0), "in_text is no share"),
        (first("supported", lambda one: not one), "supported does not follow from its receipts"),
        (first("support", 0.999), "support is not what the receipts give"),
        (first("chance", lambda one: 1.0 - one), "claims.kinds"),
        (first("claim", "doc999"), "does not hold the claims of the rows' explanations"),
        (first("claim_end", 3), "does not hold the claims of the rows' explanations"),
        (first("source_family", "none"), "does not hold the claims of the rows' explanations"),
        (first("numbers", 5), "numbers are not those of its claims"),
        (lambda rows: rows.slice(1), "does not hold the claims of the rows' explanations"),
        (lambda rows: rows.drop_columns(["support"]), "cannot be recomputed from its tables: KeyError"),
    ],
    ids=range(18),
)
def test_a_changed_table_of_claims_is_found(forge, change, message):
    with pytest.raises(EvaluationError, match=message):
        forge(claims=change)


def test_a_changed_class_is_found(forge):
    with pytest.raises(EvaluationError, match="token_classes"):
        forge(rows=first("token_class", "number"))
    with pytest.raises(EvaluationError, match="token_classes is stated, but the rows give none"):
        forge(rows=lambda rows: rows.drop_columns(["token_class"]))


def test_a_changed_explanation_no_longer_has_its_claims(forge):
    with pytest.raises(EvaluationError, match="does not hold the claims of the rows' explanations"):
        forge(rows=first("explanation", "It is about Paris."))


@pytest.mark.parametrize(
    ("update", "message"),
    [
        ({"chance": {}}, "claims.json.chance"),
        ({"unit": "gain", "baseline_mse": None}, "claims.json.baseline_mse"),
        ({"baseline_mse": 0.5}, "claims.json.baseline_mse is 0.5"),
        ({"data": "other.parquet"}, "claims.json.data"),
        ({"made_from": {}}, "claims.json.made_from"),
        ({"reliability": None}, "claims.json.reliability is None"),
        ({"kinds": {}}, "claims.json.kinds"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_changed_calibration_is_found(forge, update, message):
    with pytest.raises(EvaluationError, match=message):
        forge(calibration=update)


def test_a_weight_changed_in_place_is_found(forge, made):
    root, *_ = made
    saved = load_calibration(root / "out" / CLAIMS)
    word = saved.kinds["word"].model_copy(update={"intercept": saved.kinds["word"].intercept + 0.01})
    with pytest.raises(EvaluationError, match="claims.json.kinds.word.intercept"):
        forge(calibration={"kinds": {**saved.kinds, "word": word}})


@pytest.mark.parametrize(
    ("name", "message"),
    [(CLAIMS, "claims.json is None, the rows give"), (CLAIMS_TABLE, "claims.parquet is not named")],
)
def test_a_table_that_is_no_longer_named_is_missed(forge, name, message):
    with pytest.raises(EvaluationError, match=message):
        forge(lambda values: values["files"].pop(name))


def test_a_table_without_its_hash_made_to_fit_is_found(made, tmp_path):
    root, data, *_ = made
    shutil.copytree(root / "out", tmp_path / "out")
    for name in (CLAIMS, CLAIMS_TABLE):
        kept = (tmp_path / "out" / name).read_bytes()
        (tmp_path / "out" / name).write_bytes(kept + b" ")
        with pytest.raises(EvaluationError, match=f"{name} is not the table that"):
            verify(tmp_path / "out" / EVALUATION, data=data)
        (tmp_path / "out" / name).write_bytes(kept)


def test_with_the_texts_at_hand_what_is_in_them_is_looked_up_again(forge, made):
    """Everything else may be made to fit: a claim that was never in the text, with the figures that follow."""
    root, data, texts, found = made
    from training.evaluate.claims.verifying import worth_of
    from training.evaluate.measures.tables import Tables

    def invented(rows):
        values = {name: rows[name].to_pylist() for name in ("in_text", "supported")}
        at = next(at for at, one in enumerate(rows["claim"].to_pylist()) if one == "sea")
        values["in_text"][at], values["supported"][at] = 1.0, True
        for name, column in values.items():
            made = pa.array(column, rows.schema.field(name).type)
            rows = rows.set_column(rows.column_names.index(name), name, made)
        worth = worth_of(found, Tables(pq.read_table(root / "out" / ROWS), None, found.settings), rows)
        support = pa.array(np.nan_to_num(worth.support), mask=np.isnan(worth.support))
        forged["worth"] = worth
        return replaced("support", lambda _: support)(rows)

    forged: dict = {}

    def figures(values):
        values["claims"] = forged["worth"].claims.model_dump(mode="json", exclude_none=True)

    changed = invented(pq.read_table(root / "out" / CLAIMS_TABLE))
    saved = {name: getattr(forged["worth"].calibration, name) for name in ("kinds", "chance", "reliability")}
    assert "claims against the texts" not in forge(figures, lambda _: changed, calibration=saved).checked
    with pytest.raises(EvaluationError, match="in_text does not follow from the texts"):
        forge(figures, lambda _: changed, calibration=saved, with_texts=True)
    with pytest.raises(EvaluationError, match="was not made with"):
        verify(root / "out" / EVALUATION, texts=data)
