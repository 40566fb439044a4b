"""The mean of activations: attention sinks are left out, counted and said; where there is none nothing changes."""

from __future__ import annotations

import json
from importlib.resources import files

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from nla_sdk import metrics
from nla_sdk.io.tables import read_vectors
from training.data.moments import moments
from training.data.statistics import MEAN_FILE, measure

quick = settings(max_examples=60, deadline=None, database=None)


def cosine(a, b) -> float:
    return float(np.dot(a, b) / np.linalg.norm(a) / np.linalg.norm(b))


def held_out() -> np.ndarray:
    return read_vectors(pq.read_table(str(files("nla_sdk") / "demo" / "heldout.parquet")))


def sinks(rows: np.ndarray, share: float, factor: float, rng: np.random.Generator) -> np.ndarray:
    """Rows of one direction, of about `factor` times the median norm of `rows`."""
    one, count = rng.normal(size=rows.shape[1]), max(1, round(share * len(rows)))
    norms = factor * np.median(np.linalg.norm(rows, axis=1)) * np.exp(0.1 * rng.normal(size=count))
    return (norms[:, None] * one / np.linalg.norm(one)).astype(np.float32)


def mixed(rows: np.ndarray, others: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return rng.permutation(np.concatenate([rows, others]))


def in_batches(rows: np.ndarray, size: int = 64):
    return lambda: (rows[at : at + size] for at in range(0, len(rows), size))


# --- the property -------------------------------------------------------------------------------------------------
@quick
@given(
    seed=st.integers(0, 2**31),
    width=st.integers(8, 48),
    shared=st.floats(0.5, 4),
    spread=st.floats(0, 0.5),
    factor=st.floats(20, 1000),
    share=st.floats(0.002, 0.05),
)
def test_sinks_leave_the_mean_of_any_table_nearly_as_it_was(seed, width, shared, spread, factor, share):
    rng = np.random.default_rng(seed)
    rows = shared * rng.normal(size=width) + rng.normal(size=(1000, width))
    rows = (rows * np.exp(spread * rng.normal(size=(1000, 1)))).astype(np.float32)
    table = mixed(rows, sinks(rows, share, factor, rng), rng)
    clean, found = moments(in_batches(rows)), moments(in_batches(table))
    assert found.rows == len(table) and found.left_out >= len(table) - len(rows), "every sink"
    typical = np.median(np.linalg.norm(rows, axis=1))
    assert np.linalg.norm(found.mean - clean.mean) < 0.1 * typical
    assert found.centred_norm == pytest.approx(clean.centred_norm, rel=0.05)
    assert found.baseline_mse == pytest.approx(clean.baseline_mse, abs=0.05)


@pytest.mark.parametrize("factor", [20, 50, 100, 1000])
def test_one_percent_of_sinks_among_real_activations(factor):
    """With them v − mean is one vector for every row; without them it is what it was."""
    rng = np.random.default_rng(factor)
    rows = np.tile(held_out(), (5, 1))
    found = moments(in_batches(mixed(rows, sinks(rows, 0.01, factor, rng), rng)))
    assert found.left_out == round(0.01 * len(rows))
    assert cosine(found.mean, rows.mean(axis=0)) > 0.999999
    some = rows[: len(rows) // 5]  # each once
    centred = metrics.unit(some - found.plain_mean)
    alike = float((centred @ centred.T).mean())
    assert alike > {20: 0.1, 50: 0.4, 100: 0.7, 1000: 0.99}[factor], "the harm that is undone"
    assert abs(float((lambda u: (u @ u.T).mean())(metrics.unit(some - found.mean)))) < 0.01


# --- nothing is lost where nothing is wrong -----------------------------------------------------------------------
@quick
@given(st.integers(0, 2**31), st.integers(1, 200), st.integers(1, 9), st.sampled_from([1, 7, 64]))
def test_a_table_without_outliers_has_the_moments_of_all_its_rows_to_the_last_bit(seed, count, width, size):
    rng = np.random.default_rng(seed)
    rows = (rng.normal(size=(count, width)) + 5).astype(np.float32)
    found = moments(in_batches(rows, size))
    total = sum(batch.astype(np.float64).sum(axis=0) for batch in in_batches(rows, size)())
    assert found.left_out == 0 and found.said() is None
    np.testing.assert_array_equal(found.mean, (total / count).astype(np.float32))
    np.testing.assert_array_equal(found.mean, found.plain_mean)
    wide = rows.astype(np.float64)
    assert found.centred_norm == pytest.approx(np.median(np.linalg.norm(wide - wide.mean(axis=0), axis=1)), abs=1e-12)


def test_no_real_activation_is_left_out():
    rows = held_out()
    found = moments(in_batches(rows))
    assert len(rows) >= 400
    assert (found.rows, found.left_out) == (len(rows), 0)
    assert found.facts()["cosine_with_that_of_all_rows"] == 1.0


@pytest.mark.parametrize(
    ("name", "draw", "most"),
    [
        ("lognormal 0.13, as the demo's", lambda rng, n: np.exp(0.13 * rng.normal(size=n)), 0),
        ("lognormal 0.6", lambda rng, n: np.exp(0.6 * rng.normal(size=n)), 0.0003),
        ("lognormal 1", lambda rng, n: np.exp(rng.normal(size=n)), 0.0006),
        ("gamma", lambda rng, n: rng.gamma(0.5, size=n), 0.0001),
        ("Laplace of the log", lambda rng, n: np.exp(0.3 * rng.laplace(size=n)), 0.001),
        ("Pareto 3", lambda rng, n: 1 + rng.pareto(3, size=n), 0.001),
    ],
)
def test_norms_with_heavy_tails_lose_a_hair_at_most(name, draw, most):
    norms = draw(np.random.default_rng(3), 200_000)
    assert np.mean(norms > metrics.norm_limit(norms)) <= most


@given(st.lists(st.floats(allow_nan=True, allow_infinity=True), max_size=20))
def test_a_limit_is_above_at_least_half_of_the_norms_whatever_they_are(norms):
    limit = metrics.norm_limit(np.abs(norms))
    real = [norm for norm in np.abs(norms) if 0 < norm < np.inf]
    assert limit > 0 and not np.isnan(limit)
    assert sum(norm <= limit for norm in real) >= len(real) / 2


# --- what is said -------------------------------------------------------------------------------------------------
def test_statistics_show_both_means_and_warn_where_they_disagree(tmp_path, capsys):
    rng = np.random.default_rng(0)
    rows = held_out()
    extra = sinks(rows, 0.01, 100, rng)
    table = mixed(rows, extra, rng)
    eval_rows = mixed(rows[:200], sinks(rows, 0.01, 100, rng), rng)
    found = json.loads(measure(tmp_path, in_batches(table), eval_rows, {}).read_text())
    mean, said = found["mean"], capsys.readouterr().err
    assert (found["training_rows"], mean["rows_left_out"], found["eval_rows_left_out"]) == (
        len(table),
        len(extra),
        len(extra),
    )
    assert mean["norm"] == pytest.approx(np.linalg.norm(rows.mean(axis=0)), rel=1e-5)
    assert mean["norm_of_all_rows"] == pytest.approx(np.linalg.norm(table.mean(axis=0)), rel=1e-4)
    assert mean["cosine_with_that_of_all_rows"] == pytest.approx(cosine(rows.mean(0), table.mean(0)), abs=1e-5)
    assert mean["cosine_with_that_of_all_rows"] < 0.99
    assert f"warning: {len(extra)} of {len(table)} rows have a norm above" in said and "10 times the median" in said
    np.testing.assert_allclose(load_file(tmp_path / MEAN_FILE)["mean"], rows.mean(axis=0), rtol=1e-5, atol=1e-3)
    assert found["baseline_mse"] == pytest.approx(metrics.mean_baselines(rows[:200]).mean_norm, abs=1e-9)


def test_few_outliers_that_change_little_are_counted_without_a_warning(tmp_path, capsys):
    rows = np.tile(held_out(), (10, 1))
    one = rows[:1] * np.float32(12)
    found = json.loads(measure(tmp_path, in_batches(np.concatenate([rows, one])), rows[:50], {}).read_text())
    said = capsys.readouterr().err
    assert found["mean"]["rows_left_out"] == 1
    assert f"1 of {len(rows) + 1:,} rows" in said and "nearly the same with them" in said and "warning" not in said


def test_where_there_is_none_nothing_is_said_and_both_means_are_one(tmp_path, capsys):
    rows = held_out()
    found = json.loads(measure(tmp_path, in_batches(rows), rows, {}).read_text())
    assert capsys.readouterr().err == ""
    assert found["mean"]["rows_left_out"] == 0 and found["mean"]["norm"] == found["mean"]["norm_of_all_rows"]
    assert found["baseline_mse"] == metrics.mean_baselines(rows).mean_norm
