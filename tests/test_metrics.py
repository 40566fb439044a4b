"""Cosine, mse and FVE against formulas written out as loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from nla_sdk import metrics

quick = settings(max_examples=50, deadline=None, database=None)
numbers = st.floats(-1e6, 1e6, allow_subnormal=False, width=32)


@st.composite
def batches(draw, min_rows: int = 1):
    """[n, d] without zero rows."""
    shape = (draw(st.integers(min_rows, 8)), draw(st.integers(1, 12)))
    batch = draw(arrays.arrays(np.float64, shape, elements=numbers))
    assume((np.abs(batch).max(axis=1) > 1e-3).all())
    return batch


@st.composite
def two_batches(draw):
    batch = draw(batches())
    other = draw(arrays.arrays(np.float64, batch.shape, elements=numbers))
    assume((np.abs(other).max(axis=1) > 1e-3).all())
    return batch, other


def length(vector) -> float:
    return math.sqrt(sum(x * x for x in vector))


def cosine_by_hand(a, b) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True)) / (length(a) * length(b))


def unit_by_hand(vector) -> list[float]:
    return [x / length(vector) for x in vector]


@quick
@given(two_batches())
def test_cosine_is_the_dot_product_over_the_lengths(pair):
    a, b = pair
    expected = [cosine_by_hand(x, y) for x, y in zip(a.tolist(), b.tolist(), strict=True)]
    np.testing.assert_allclose(metrics.cosine(a, b), expected, atol=1e-9)
    assert metrics.cosine(a[0], b[0]) == pytest.approx(expected[0], abs=1e-9)
    assert isinstance(metrics.cosine(a[0], b[0]), float)


@quick
@given(two_batches())
def test_direction_mse_is_the_mean_square_between_vectors_scaled_to_root_d(pair):
    for a, b, found in zip(*pair, np.atleast_1d(metrics.direction_mse(*pair)), strict=True):
        root = math.sqrt(len(a))
        expected = sum((root * x - root * y) ** 2 for x, y in zip(unit_by_hand(a), unit_by_hand(b), strict=True)) / len(
            a
        )
        assert found == pytest.approx(expected, abs=1e-9)


@quick
@given(two_batches(), st.floats(1e-3, 1e3), st.floats(1e-3, 1e3))
def test_only_directions_matter(pair, one, two):
    a, b = pair
    np.testing.assert_allclose(metrics.direction_mse(a * one, b * two), metrics.direction_mse(a, b), atol=1e-9)


@quick
@given(two_batches())
def test_the_range_is_kept_to_the_last_bit(pair):
    a, b = pair
    for one, two in [(a, b), (a, a), (a, -a), (a, 3 * a)]:
        assert (np.abs(metrics.cosine(one, two)) <= 1).all()
        mse = np.asarray(metrics.direction_mse(one, two))
        assert ((mse >= 0) & (mse <= 4)).all()
    np.testing.assert_allclose(metrics.direction_mse(a, a), 0, atol=1e-12)
    np.testing.assert_allclose(metrics.direction_mse(a, -a), 4, atol=1e-12)


@quick
@given(batches(min_rows=2))
def test_the_baselines_are_what_predicting_the_mean_scores(batch):
    units = [unit_by_hand(row) for row in batch.tolist()]
    mean = [sum(column) / len(units) for column in zip(*units, strict=True)]
    assume(length(mean) > 1e-6)
    found = metrics.mean_baselines(batch)
    mean_norm = sum(2 * (1 - cosine_by_hand(row, mean)) for row in units) / len(units)
    raw = sum(sum((x - m) ** 2 for x, m in zip(row, mean, strict=True)) for row in units) / len(units)
    assert found.mean_norm == pytest.approx(mean_norm, abs=1e-9)
    assert found.raw_variance == pytest.approx(raw, abs=1e-9)
    assert found.raw_variance <= found.mean_norm + 1e-12, "the raw baseline is the stricter one"


@quick
@given(batches(min_rows=2))
def test_predicting_the_mean_direction_explains_nothing_and_the_truth_everything(batch):
    mean = metrics.unit(batch).mean(axis=0)
    baseline = metrics.mean_baselines(batch).mean_norm
    assume(np.linalg.norm(mean) > 1e-6)
    assume(baseline > 1e-6)
    rows = metrics.fve(metrics.direction_mse(batch, mean), baseline)
    assert np.mean(rows) == pytest.approx(0, abs=1e-6)
    assert metrics.fve(np.mean(metrics.direction_mse(batch, mean)), baseline) == pytest.approx(np.mean(rows), abs=1e-9)
    np.testing.assert_allclose(metrics.fve(metrics.direction_mse(batch, batch), baseline), 1, atol=1e-5)


def test_unrelated_directions_score_2():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 64, 4096))
    assert np.mean(metrics.direction_mse(a, b)) == pytest.approx(2, abs=0.02)


def test_gain_is_that_of_the_seeds_published_figures():
    assert round(metrics.gain(1.1416, 1.1898), 2) == 0.04


@quick
@given(st.floats(1e-6, 4), st.floats(1e-6, 4))
def test_a_gain_is_positive_where_words_leave_less_error_than_none(real, empty):
    found = metrics.gain(real, empty)
    assert found == pytest.approx((empty - real) / empty) and (found < 0) == (real > empty)


@pytest.mark.parametrize(("real", "expected"), [(0.0, 0.0), (1e-12, 0.0), (0.3, -math.inf)])
def test_where_no_words_make_no_error_nothing_is_left_to_gain(real, expected):
    assert metrics.gain(real, 0.0) == metrics.gain(real, 1e-12) == expected


def test_a_zero_vector_has_no_cosine():
    assert math.isnan(metrics.cosine([0.0, 0.0], [1.0, 0.0]))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, int])
def test_any_dtype_is_computed_in_float64(dtype):
    assert metrics.cosine(np.array([3, 4], dtype), np.array([4, 3], dtype)) == pytest.approx(24 / 25, abs=1e-15)


# --- retrieval ----------------------------------------------------------------------------------------------------
@quick
@given(two_batches())
def test_a_rank_is_how_many_targets_are_nearer_or_as_near_as_ones_own(pair):
    predictions, targets = pair
    p, t = metrics.unit(predictions), metrics.unit(targets)
    centre = t.mean(axis=0)
    assume((np.abs(p - centre).max(axis=1) > 1e-3).all() and (np.abs(t - centre).max(axis=1) > 1e-3).all())
    for row, rank in enumerate(metrics.retrieval_ranks(predictions, targets)):
        scores = [cosine_by_hand(p[row] - centre, target - centre) for target in t]
        clearly = sum(score > scores[row] + 1e-9 for score in scores)
        about = sum(score > scores[row] - 1e-9 for score in scores) - 1
        assert clearly <= rank <= about


def test_right_predictions_rank_first_whatever_they_share():
    rng = np.random.default_rng(1)
    targets = rng.normal(size=(50, 16)) + 20 * rng.normal(size=16)
    np.testing.assert_array_equal(metrics.retrieval_ranks(3 * targets, targets), 0)


def test_one_prediction_for_all_is_not_a_find():
    targets = np.random.default_rng(2).normal(size=(10, 4))
    ranks = metrics.retrieval_ranks(np.tile(targets[0], (10, 1)), targets)
    assert sorted(ranks) == list(range(10))


def test_equal_targets_count_against_the_row():
    targets = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    np.testing.assert_array_equal(metrics.retrieval_ranks(targets, targets), [1, 1, 0])


def test_a_prediction_without_a_direction_is_last():
    targets = np.random.default_rng(3).normal(size=(4, 3))
    predictions = targets.copy()
    predictions[2] = 0
    np.testing.assert_array_equal(metrics.retrieval_ranks(predictions, targets), [0, 0, 3, 0])
