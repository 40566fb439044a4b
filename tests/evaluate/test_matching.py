"""Explanations matched with texts: the best one-to-one pairing, chance whatever the order, and what is said of it."""

from __future__ import annotations

import itertools
import math
import re
import shutil

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import min_weight_full_bipartite_matching

from cards.report import report, summary
from nla_sdk.evaluation.reading import EvaluationError, dumps
from nla_sdk.evaluation.schema import EVALUATION, Evaluation
from nla_sdk.io.tables import vector_column
from tests.evaluate.planted import SETTINGS, Oracle, PlantedPair, evaluate, table
from training.evaluate.compare import lines
from training.evaluate.extras import Embedder
from training.evaluate.measures import matching
from training.evaluate.measures.nulls import Documents
from training.evaluate.measures.tables import Tables
from training.evaluate.verify import verify

QUICK = SETTINGS.model_copy(update={"controls_n": 0, "signal_n": 0, "permutations": 19, "embedder": "letters"})


def by_letters(texts: list[str]) -> np.ndarray:
    """An embedder that counts letters and digits."""
    return np.array([[text.count(one) + 1e-3 for one in "abcdefghijklmnopqrstuvwxyz0123456789"] for text in texts])


# --- pairing ----------------------------------------------------------------------------------------------------------
@given(st.integers(0, 2**32 - 1), st.integers(2, 20))
def test_a_permutation_of_perfect_similarities_is_found_whole(seed, n):
    rng = np.random.default_rng(seed)
    similarity = np.eye(n) + 0.4 * rng.random((n, n)) / n  # no sum without the diagonal comes up to it
    assert matching.own_text(similarity, rng.permutation(n)).all()


@given(st.integers(0, 2**32 - 1), st.integers(2, 6))
def test_the_pairs_are_those_whose_similarities_sum_to_the_most(seed, n):
    rng = np.random.default_rng(seed)
    similarity = rng.random((n, n))
    best = max(itertools.permutations(range(n)), key=lambda to: sum(similarity[row, to[row]] for row in range(n)))
    found = matching.own_text(similarity, rng.permutation(n))
    assert found.tolist() == [best[row] == row for row in range(n)]


@pytest.mark.parametrize("kind", ["random", "all equal"])
def test_similarities_that_say_nothing_match_one_of_twenty(kind):
    """Of a random pairing the number that is right has mean 1 and variance 1: four standard errors over 2,000."""
    rng, runs = np.random.default_rng(3), 2000
    right = [
        matching.own_text(rng.random((20, 20)) if kind == "random" else np.ones((20, 20)), rng.permutation(20)).sum()
        for _ in range(runs)
    ]
    assert abs(np.mean(right) - 1) < 4 / math.sqrt(runs)


def test_every_hand_is_of_different_documents_which_are_dealt_alike_often():
    documents = Documents([f"d{at // 3}" for at in range(99)])
    hands, orders = matching.deal(documents, 0)
    assert hands.shape == orders.shape == (50, 20)
    assert all(len(set(documents.codes[hand])) == 20 for hand in hands)
    assert all(sorted(order) == list(range(20)) for order in orders)
    often = np.bincount(documents.codes[hands].ravel(), minlength=33)
    assert len({tuple(hand) for hand in hands}) == 50 and often.min() > 15 and len(set(hands.ravel())) > 90


def test_the_interval_is_of_documents_not_of_cards():
    """Twenty documents, ten of which are always right: dealt 50 times they are no thousand observations."""
    documents = Documents([f"d{at}" for at in range(20)])
    hands, _ = matching.deal(documents, 0)
    found = matching._figure(documents.codes[hands] < 10, hands, documents, 1000, 0)
    low, high = found.interval_95
    assert found.value == 0.5 and found.n == 20 and high - low > 0.3
    assert 0.2 < low < 0.35 and 0.65 < high < 0.8, "about 0.5 ± 1.96 · 0.5 / √20"


# --- figures ----------------------------------------------------------------------------------------------------------
def read(explanations: list[str], documents: list[str]) -> Tables:
    """Rows of which only words matter."""
    n = len(explanations)
    columns = {
        "row_id": [f"r{at}" for at in range(n)],
        "doc_id": documents,
        "status": ["ok" if text else "empty" for text in explanations],
        "explanation": explanations,
        "activation_vector": vector_column(np.random.default_rng(0).normal(size=(n, 4))),
    }
    return Tables(pa.table(columns), None, QUICK)


def some_words(n: int = 60) -> tuple[Tables, list[str]]:
    """Texts of thirty random words, explanations of eight, two of which are the text's own."""
    rng = np.random.default_rng(8)
    vocabulary = np.array([f"w{at}q" for at in range(400)])
    texts = [" ".join(["The", *rng.choice(vocabulary, 30), "and"]) for _ in range(n)]
    said = [
        " ".join(["About", *rng.choice(vocabulary, 6), *rng.choice(text.split()[1:-1], 2)]).title() for text in texts
    ]
    return read(said, [f"d{at // 2}" for at in range(n)]), texts


def plain_share(tables: Tables, similarity) -> float:
    """Over the same hands, by another algorithm, texts in the explanations' order."""
    hands, _ = matching.deal(Documents(tables.document_names.tolist()), QUICK.seed)
    right = []
    for hand in hands:
        costs = np.array([[2.0 - similarity(i, j) for j in hand] for i in hand])
        right += (min_weight_full_bipartite_matching(csr_matrix(costs))[1] == np.arange(20)).tolist()
    return float(np.mean(right))


def test_the_share_matched_by_words_is_that_of_a_plain_tf_idf():
    tables, texts = some_words()
    words = [re.findall(r"w\d+q", text) for text in texts]  # "the" and "and" are stop words
    frequency = {word: sum(word in text for text in words) for text in words for word in text}

    def vector(text: str) -> dict[str, float]:
        counted = {word: text.lower().split().count(word) for word in set(text.lower().split()) & set(frequency)}
        weights = {word: n * (math.log((1 + 60) / (1 + frequency[word])) + 1) for word, n in counted.items()}
        return {word: one / math.hypot(*weights.values()) for word, one in weights.items()}

    left, right = [vector(text) for text in tables.texts], [vector(text) for text in texts]
    plain = plain_share(tables, lambda i, j: sum(one * right[j].get(word, 0.0) for word, one in left[i].items()))
    [found] = matching.matching(tables, texts)
    assert found.matched.value == pytest.approx(plain, abs=0.002), "a tie may fall otherwise"
    assert 0.3 < plain < 0.95 and found.matched.interval_95[0] < plain < found.matched.interval_95[1]
    assert (found.of, found.draws, found.documents, found.rows, found.chance) == (20, 50, 30, 60, 0.05)
    assert found.times_chance == pytest.approx(20 * found.matched.value) and found.matched.n <= 60


def test_the_share_matched_by_meaning_is_that_of_plain_cosines():
    tables, texts = some_words()
    _, found = matching.matching(tables, texts, by_letters)
    left, right = by_letters(tables.texts), by_letters(texts)
    cosines = left @ right.T / np.linalg.norm(left, axis=1)[:, None] / np.linalg.norm(right, axis=1)
    plain = plain_share(tables, lambda i, j: round(cosines[i, j], 6))
    assert found.features == "meaning" and found.matched.value == pytest.approx(plain, abs=0.01) and plain > 0.06


@pytest.mark.parametrize(
    ("explain", "low", "high"),
    [(lambda text, at: text, 1.0, 1.0), (lambda text, at: "Always the same.", 0.01, 0.11)],
    ids=["texts themselves", "one text for all"],
)
def test_an_explanation_that_is_its_text_is_matched_and_one_for_all_is_not(explain, low, high):
    _, texts = some_words()
    tables = read([explain(text, at) for at, text in enumerate(texts)], [f"d{at // 2}" for at in range(60)])
    assert all(low <= one.matched.value <= high for one in matching.matching(tables, texts, by_letters))


def test_of_fewer_than_twenty_documents_or_without_texts_or_words_it_says_why_not():
    tables, texts = some_words(38)
    assert matching.matching(tables, texts)[0].why_not.startswith("19 documents have a text and an explanation")
    assert "--texts FILE" in matching.matching(tables, None)[0].why_not
    tables, texts = some_words(40)
    assert matching.matching(tables, texts)[0].matched is not None
    fewer = read(["", "", *tables.texts[2:]], tables.document_names.tolist())
    found = matching.matching(fewer, texts)[0]
    assert (found.documents, found.rows, found.matched) == (19, 38, None), "an empty explanation is none"
    assert matching.matching(tables, [" ", "", *texts[2:]])[0].documents == 19
    assert matching.matching(tables, ["the and of"] * 40)[0].why_not == "no text has a word"


# --- in a file --------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("matching")
    data = table(root / "heldout.parquet", documents=22, texts=True)
    known = Oracle(data)
    found = evaluate(
        PlantedPair(root, known.say, known.hear), data, root / "out", QUICK, embed=Embedder("letters", None, by_name)
    )
    return root, data, found


def by_name(texts: list[str]) -> np.ndarray:
    """An embedder that knows the documents' names, and of one in three texts nothing."""
    names = [int((re.search(r"doc(\d+)", text) or [0, 99])[1]) for text in texts]
    return np.array([np.eye(100)[name] if name % 3 else np.ones(100) for name in names])


def test_it_stands_in_the_file_the_pages_and_the_comparison(made):
    root, _, found = made
    words, meaning = found.matching
    assert 1.0 >= words.matched.value > 0.95 and 0.5 < meaning.matched.value < 1.0, "the planted AV names its document"
    page, told = report(found), summary(found)
    for one in (words, meaning):
        assert f"{100 * one.matched.value:.1f} % [" in page and f"{100 * one.matched.value:.1f} % [" in told
    assert "20 × chance" in page and "(chance 5 %)" in told and "44 of 44 rows of 22 documents" in page
    text = "\n".join(lines(root / "out" / EVALUATION, root / "out" / EVALUATION))
    assert "matched with its text of 20: words" in text and f"{meaning.matched.value:.3f} [" in text


@pytest.fixture
def forge(made, figures_made_once, tmp_path):
    root, data, found = made

    def forged(change, with_data=True):
        values = found.model_dump(mode="json", exclude_none=True)
        for name in found.files:
            shutil.copy(root / "out" / name, tmp_path / name)
        change(values)
        (tmp_path / EVALUATION).write_text(dumps(Evaluation.model_validate(values)), encoding="utf-8")
        return verify(tmp_path / EVALUATION, data=data if with_data else None)

    return forged


def test_matching_by_words_is_recomputed_where_the_texts_are_at_hand(forge):
    said = "explanations matched with the texts by words"
    assert said in forge(lambda values: None).checked
    assert (
        "the texts that explanations were matched with (pass --texts FILE)"
        in forge(lambda values: None, with_data=False).not_at_hand
    )


@pytest.mark.parametrize(
    ("change", "message", "at_hand"),
    [
        (lambda one: one["matched"].update(value=0.9), "matching.0.matched.value is 0.9, the rows give 0.98", True),
        (lambda one: one["matched"].update(n=43), "matching.0.matched.n is 43", True),
        (lambda one: one.update(documents=23), "matching.words.documents is 23, the rows give 22 at most", False),
        (lambda one: one.update(rows=45), "matching.words.rows is 45, the rows give 44 at most", False),
        (lambda one: one.update(draws=5000), "expected 20 in 50", False),
        (lambda one: one.update(of=10, chance=0.1), "expected 20 in 50", False),
        (lambda one: one.update(chance=0.01), "chance is 0.01, but 0.05 follows", False),
        (lambda one: one["matched"].update(value=1.5), "matched is 1.5, no share", False),
        (lambda one: one["matched"].update(n=5000), "which cannot be", False),
        (lambda one: one.update(why_not="no"), "either what was matched or why nothing was", False),
    ],
    ids=range(10),
)
def test_a_forged_match_is_found(forge, change, message, at_hand):
    with pytest.raises(EvaluationError, match=message):
        forge(lambda values: change(values["matching"][0]), with_data=at_hand)


def test_a_match_that_is_left_out_or_of_no_embedder_is_found(forge):
    for at_hand in (True, False):
        with pytest.raises(EvaluationError, match="matching is"):
            forge(lambda values: values.pop("matching"), with_data=at_hand)
    with pytest.raises(EvaluationError, match="needs an embedder, and settings name none"):
        forge(lambda values: values["settings"].pop("embedder"))


def test_rows_without_texts_say_so_and_verify(tmp_path):
    data = table(tmp_path / "heldout.parquet", documents=22)
    known = Oracle(data)
    plain = QUICK.model_copy(update={"embedder": None})
    found = evaluate(PlantedPair(tmp_path, known.say, known.hear), data, tmp_path / "out", plain)
    assert [one.matched for one in found.matching] == [None]
    assert "not measured: no texts" in summary(found) and "not measured: no texts" in report(found)
    assert "matched" not in " ".join(verify(tmp_path / "out" / EVALUATION, data=data).not_at_hand)
