"""Each source family counts alike: the mean of means, its interval within families, its p, two pairs compared by it."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cards.report import report, summary
from nla_sdk import metrics
from nla_sdk.evaluation.ages import as_of
from nla_sdk.evaluation.reading import load, save
from nla_sdk.evaluation.schema import EVALUATION, ROWS
from nla_sdk.io.tables import read_vectors
from tests.evaluate.planted import SETTINGS, Oracle, PlantedPair, evaluate, random_of, table
from training.evaluate.compare import lines, paired
from training.evaluate.measures.nulls import Families

QUICK = SETTINGS.model_copy(update={"controls_n": 0, "signal_n": 0, "permutations": 199})


def uneven(file, families):
    """Held-out rows of 30 documents, whose families are named by document number."""
    rows = pq.read_table(table(file))
    names = [families(int(name[3:])) for name in rows["doc_id"].to_pylist()]
    at = rows.column_names.index("source_family")
    pq.write_table(rows.set_column(at, "source_family", pa.array(names)), file)
    return file


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Two pairs on rows of a large family, a small one, and one that is too small; the second is worse in the small."""
    root = tmp_path_factory.mktemp("families")
    data = uneven(root / "heldout.parquet", lambda at: "tiny" if at < 2 else "small" if at < 6 else "large")
    known = Oracle(data)

    def worse(text):
        blur = 2.0 if any(f"doc{at:03d}" in text for at in range(2, 6)) else 0.0
        return known.hear(text) + blur * random_of("blur" + text)

    for name, ear in (("a", known.hear), ("b", worse)):
        evaluate(PlantedPair(root / name, known.say, ear), data, root / name / "out", QUICK)
    return root


def fve_of(folder) -> tuple[np.ndarray, np.ndarray]:
    rows = pq.read_table(folder / "out" / ROWS)
    activations, made = read_vectors(rows).astype(float), read_vectors(rows, "reconstruction").astype(float)
    mse = 2 * (1 - metrics.cosine(made, activations))
    mean = (activations / np.linalg.norm(activations, axis=1, keepdims=True)).mean(axis=0)
    return 1 - mse / np.mean(2 * (1 - metrics.cosine(mean, activations))), np.array(rows["source_family"].to_pylist())


def test_the_mean_is_that_of_the_families_means_and_a_family_of_four_rows_is_left_out(two):
    found = load(two / "b" / "out" / EVALUATION)
    trip, (fve, families) = found.round_trip, fve_of(two / "b")
    plain = np.mean([fve[families == name].mean() for name in ("large", "small")])
    assert trip.fve_balanced.value == pytest.approx(plain, abs=1e-6)
    assert (trip.fve_balanced.families, trip.fve_balanced.n) == (2, 56) and set(trip.by_family) == {"large", "small"}
    assert trip.fve_balanced.value < trip.fve.value - 0.1, "the small family counts half"
    assert found.ablation.conditions["real"].fve_balanced == trip.fve_balanced
    for name in ("shuffled", "unrelated", "nonsense", "empty"):
        cosine = pq.read_table(two / "b" / "out" / ROWS)[f"cosine_{name}"].to_numpy()
        of_rows = 1 - 2 * (1 - cosine) / trip.reference.baseline_mse
        plain = np.mean([of_rows[families == one].mean() for one in ("large", "small")])
        assert found.ablation.conditions[name].fve_balanced.value == pytest.approx(plain)


def test_tokens_are_those_of_the_evaluated_rows(two):
    written = pq.read_table(two / "b" / "out" / ROWS)["tokens_written"].to_pylist()
    tokens = load(two / "b" / "out" / EVALUATION).round_trip.tokens
    assert (tokens.median, tokens.max) == (np.median(written), max(written))


def test_two_pairs_are_compared_with_each_family_counting_alike(two):
    files = [two / name / "out" / EVALUATION for name in ("a", "b")]
    test, (a, families), (b, _) = paired(*files), fve_of(two / "a"), fve_of(two / "b")
    plain = np.mean([(b - a)[families == name].mean() for name in ("large", "small")])
    assert test.balanced.value == pytest.approx(plain, abs=1e-6) and test.balanced.interval_95[1] < 0
    assert (test.balanced.families, test.balanced.n) == (2, 56)
    assert test.balanced.p > 0.05, "four documents differ: their signs alone come out so in one of eight"
    text = "\n".join(lines(*files))
    for one in files:
        assert f"{load(one).round_trip.fve_balanced.value:.3f} [" in text
    assert "each of 2 families counting alike (56 rows): FVE −".replace("−", "-") in text


def test_a_file_from_before_the_figure_is_compared_by_its_rows(two, tmp_path):
    for name in (ROWS, "variants.parquet"):
        if (two / "a" / "out" / name).exists():
            (tmp_path / name).write_bytes((two / "a" / "out" / name).read_bytes())
    older = as_of(load(two / "a" / "out" / EVALUATION), 2).model_copy(update={"schema_version": 2})
    save(older, tmp_path / EVALUATION)
    both = list(lines(tmp_path / EVALUATION, two / "b" / "out" / EVALUATION))
    assert both[2:] == list(lines(two / "a" / "out" / EVALUATION, two / "b" / "out" / EVALUATION))[2:]


def test_rows_without_families_are_said_to_have_none(tmp_path, two):
    data = tmp_path / "heldout.parquet"
    pq.write_table(pq.read_table(two / "heldout.parquet").drop_columns(["source_family"]), data)
    known = Oracle(data)
    found = evaluate(PlantedPair(tmp_path, known.say, known.hear), data, tmp_path / "out", QUICK)
    assert found.round_trip.fve_balanced is None and "alike" not in report(found) + summary(found)
    text = "\n".join(lines(two / "a" / "out" / EVALUATION, tmp_path / "out" / EVALUATION))
    assert "not with each family counting alike: a table does not say the rows' families" in text


def test_it_stands_in_the_report_and_the_summary(two):
    found = load(two / "a" / "out" / EVALUATION)
    said = f"{found.round_trip.fve_balanced.value:.3f} ["
    assert f"each of 2 source families counting alike** (n = 56) | **{said}" in report(found)
    assert said in summary(found) and f"{found.round_trip.tokens.median:.1f} tokens in the median" in summary(found)
    empty = found.ablation.conditions["empty"]
    assert f"{empty.fve.value:.3f}".replace("-", "−") in report(found) and "FVE, families alike" in report(found)


# --- the arithmetic ---------------------------------------------------------------------------------------------------
@given(st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 9), st.floats(-5, 5)), min_size=1, max_size=60))
def test_the_mean_of_means_is_the_plain_one_whatever_the_families(rows):
    families, documents, values = (list(column) for column in zip(*rows, strict=True))
    found = Families(families, [f"d{one}" for one in documents])
    plain = {name: [v for f, v in zip(families, values, strict=True) if f == name] for name in set(families)}
    plain = {name: each for name, each in plain.items() if len(each) >= 5}
    figure = found.mean(np.array(values), draws=20)
    assert len(found) == len(plain) and (figure is None) == (len(plain) < 2)
    if figure is not None:
        assert figure.value == pytest.approx(np.mean([np.mean(each) for each in plain.values()]), abs=1e-9)
        assert (figure.families, figure.n) == (len(plain), sum(map(len, plain.values())))
        one = {name: {d for f, d in zip(families, documents, strict=True) if f == name} for name in plain}
        assert (figure.interval_95 is None) == any(len(each) < 2 for each in one.values())


def test_the_interval_holds_the_truth_in_90_of_100_runs_where_rows_cluster_by_document():
    right = 0
    for run in range(100):
        rng = np.random.default_rng([5, run])
        families, documents, values = [], [], []
        for name, count, mean in (("large", 60, 0.5), ("small", 25, -0.2)):
            for at in range(count):
                of_document = rng.normal()
                for _ in range(rng.integers(1, 4)):
                    families.append(name), documents.append(f"{name}{at}")
                    values.append(mean + of_document + 0.3 * rng.normal())
        low, high = Families(families, documents).mean(np.array(values), draws=200, seed=run).interval_95
        right += low <= 0.15 <= high
    assert right >= 90


def test_p_is_small_where_families_differ_and_not_of_null_data():
    families, documents = ["a"] * 30 + ["b"] * 60, [f"d{at}" for at in range(90)]
    found = Families(families, documents)
    rng = np.random.default_rng(6)
    assert found.sign_flip(0.8 + rng.normal(size=90), 999) < 0.01
    false = sum(found.sign_flip(rng.normal(size=90), 199, seed) <= 0.05 for seed in range(200))
    assert false <= 17, "as every test here: docs/evaluation.md"
