"""Claims that hold with a known probability: the evaluation finds it, its receipts that are noise, and nothing else."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nla_sdk.claims.calibration import Calibration, load_calibration
from nla_sdk.claims.receipts import Receipt
from tests.evaluate.claims.made import CLAIMED, PLANTED, table
from training.evaluate.claims.separation import auroc, calibration_error
from training.evaluate.claims.support import FEWEST, calibration, fit
from training.evaluate.claims.table import ClaimsTable
from training.evaluate.measures.nulls import Documents

RUNS, FEWEST_RIGHT = 100, 93


def of(rng, **how) -> ClaimsTable:
    return ClaimsTable(table(rng, **how), CLAIMED)


@pytest.mark.parametrize("p", PLANTED.values(), ids=PLANTED)
def test_measured_precision_is_within_its_interval_in_93_of_100_runs(p):
    """Documents of one to five claims, whose truth is theirs in part: of each p in its document, 0.9, 0.5 or 0.1."""
    right = 0
    for run in range(RUNS):
        rng = np.random.default_rng([1, run])
        names = [f"d{number}" for number in range(250) for _ in range(rng.integers(1, 6))]
        documents = Documents(names)
        of_document = rng.beta(8 * p, 8 * (1 - p), size=len(documents))[documents.codes]
        found = documents.mean(rng.random(documents.n) < of_document, draws=1000, seed=run)
        low, high = found.interval_95
        right += low <= p <= high
    assert right >= FEWEST_RIGHT


def test_the_probability_is_calibrated_on_documents_that_it_was_not_fitted_on():
    found = fit(of(np.random.default_rng(2), documents=400)).reliability
    assert found.n == 2400 and found.folds == 10 and len(found.bins) == 10
    assert found.ece.value <= 0.05
    assert found.auroc.value > 0.85, "what was planted differs between kinds"


def test_a_receipt_that_is_noise_tells_nothing_and_one_that_is_not_tells():
    claims = of(np.random.default_rng(3), documents=600, kinds={"word": 0.5})
    area = {
        name: auroc(values, claims.supported, claims.of(claims.known)).value for name, values in claims.receipts.items()
    }
    assert 0.45 <= area["repeats"] <= 0.55 < area["lens"]


@settings(deadline=None)  # scikit-learn is imported within
@given(
    st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=2, max_size=40).filter(
        lambda rows: len({holds for _, holds in rows}) == 2
    )
)
def test_the_area_is_that_of_scikit_learn_ties_included(rows):
    from sklearn.metrics import roc_auc_score

    scores, holds = np.array([float(score) for score, _ in rows]), np.array([holds for _, holds in rows])
    found = auroc(scores, holds, Documents([str(at) for at in range(len(rows))]), draws=5)
    assert found.value == pytest.approx(roc_auc_score(holds, scores))


def test_an_interval_of_the_area_is_drawn_by_document():
    """Ten copies of a document's claims are no ten observations."""
    rng = np.random.default_rng(4)
    holds = rng.random(40) < 0.5
    scores, names = rng.normal(size=40) + holds, [f"d{at}" for at in range(40)]
    once = auroc(scores, holds, Documents(names)).interval_95
    again = auroc(np.repeat(scores, 10), np.repeat(holds, 10), Documents(list(np.repeat(names, 10)))).interval_95
    assert again == pytest.approx(once)


def test_the_calibration_error_is_the_mean_distance_of_its_bins():
    rng = np.random.default_rng(5)
    predicted = rng.random(200)
    holds = (rng.random(200) < predicted**2).astype(float)
    found, bins = calibration_error(predicted, holds, Documents([str(at // 2) for at in range(200)]))
    order = np.argsort(predicted).reshape(10, 20)
    plain = np.mean([abs(predicted[part].mean() - holds[part].mean()) for part in order])
    assert found.value == pytest.approx(plain) and [one.n for one in bins] == [20] * 10
    assert found.interval_95[0] < found.value < found.interval_95[1]


def test_what_is_saved_gives_the_probabilities_of_scikit_learns_pipeline(tmp_path):
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    claims = of(np.random.default_rng(6))
    saved = calibration(
        claims, fit(claims), baseline_mse=0.2, made_from={"av/x": "0" * 64}, data="x.parquet", versions={}
    )
    loaded: Calibration = load_calibration(saved.save(tmp_path / "claims.json"))
    assert loaded == saved and loaded.needed == {"lens", "repeats"} and set(loaded.kinds) == set(PLANTED)
    for kind in PLANTED:
        mask = claims.kinds == kind
        features = np.stack([claims.receipts[name][mask] for name in ("lens", "repeats")], axis=1)
        plain = make_pipeline(StandardScaler(), LogisticRegression(tol=1e-9)).fit(features, claims.supported[mask])
        for row, p in zip(features[:20], plain.predict_proba(features[:20])[:, 1], strict=True):
            receipts = {name: Receipt(float(value)) for name, value in zip(("lens", "repeats"), row, strict=True)}
            assert loaded.support(kind, receipts) == pytest.approx(p, abs=1e-4)


def test_no_claim_gets_a_probability_that_its_own_document_had_a_part_in():
    """A document's truth turned round changes no probability of its own claims."""
    first = table(np.random.default_rng(7), documents=60, kinds={"word": 0.5, "sentence": 0.4})
    turned = [one["supported"] != (one["doc_id"] == "d7") for one in first.to_pylist()]
    at = first.column_names.index("supported")
    second = first.set_column(at, "supported", pa.array(turned))
    crossed = [fit(ClaimsTable(one, CLAIMED)).crossed for one in (first, second)]
    own = np.array([name == "d7" for name in first["doc_id"].to_pylist()])
    assert np.isfinite(crossed[0]).all() and np.allclose(crossed[0][own], crossed[1][own], atol=1e-9)
    assert not np.allclose(crossed[0][~own], crossed[1][~own], atol=1e-9)


def test_a_kind_of_too_few_claims_of_a_sort_gets_no_probability_and_it_is_said():
    claims = of(np.random.default_rng(8), documents=60, kinds={"word": 0.5, "quote": 1.0})
    found = fit(claims)
    assert set(found.kinds) == {"word"} and np.isnan(found.crossed[claims.kinds == "quote"]).all()
    assert found.why_not.startswith("quote: 120 supported and 0 not, of 60 documents")
    assert f"at least {FEWEST} of each sort" in found.why_not
    none = of(np.random.default_rng(9), documents=60, kinds={"quote": 1.0})
    assert calibration(none, fit(none), baseline_mse=0.2, made_from={}, data="x", versions={}) is None


def test_a_kind_whose_receipts_are_all_alike_is_as_probable_as_it_is_common():
    rows = table(np.random.default_rng(10), documents=60, kinds={"word": 0.5}).drop_columns(["lens", "lens_null"])
    rows = rows.set_column(rows.column_names.index("repeats"), "repeats", pa.array([0.0] * len(rows)))
    claims = ClaimsTable(rows, CLAIMED)
    saved = calibration(claims, fit(claims), baseline_mse=None, made_from={}, data="x", versions={})
    assert saved.support("word", {}) == pytest.approx(claims.supported.mean())
    assert fit(claims).reliability.auroc_by_kind == {}


def test_receipts_of_some_rows_only_are_not_what_a_probability_is_made_of():
    rows = table(np.random.default_rng(11), documents=60, kinds={"word": 0.5})
    some = [value if at % 2 else None for at, value in enumerate(rows["repeats"].to_pylist())]
    rows = rows.set_column(rows.column_names.index("repeats"), "repeats", pa.array(some, pa.float64()))
    assert fit(ClaimsTable(rows, CLAIMED)).kinds["word"].receipts.keys() == {"lens"}
