"""Documents, identity, retrieval, collapse and altered texts against straightforward computations."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nla_sdk import metrics
from nla_sdk.claims.cutting import sentences
from nla_sdk.errors import InputError
from training.evaluate.measures import collapse, content, identity, texts
from training.evaluate.measures.nulls import Documents
from training.label import extractive

IDS = ["a", "b", "a", "c", "c", "c", "b", "d"]


# --- documents --------------------------------------------------------------------------------------------------------
def test_the_interval_is_that_of_drawing_documents_one_by_one():
    documents, values = Documents(IDS), np.random.default_rng(0).normal(size=len(IDS))
    found = documents.mean(values, draws=20_000)
    rng, means = np.random.default_rng(1), []
    for _ in range(20_000):
        rows = np.concatenate([np.flatnonzero(np.array(IDS) == name) for name in rng.choice(list("abcd"), 4)])
        means.append(values[rows].mean())
    assert found.value == pytest.approx(values.mean())
    assert found.interval_95 == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=0.03)


def test_the_interval_covers_the_truth_as_often_as_it_says():
    covered = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        documents = Documents([f"d{number}" for number in range(40) for _ in range(rng.integers(1, 5))])
        values = 1.0 + rng.normal(size=len(documents))[documents.codes] + rng.normal(size=documents.n)
        low, high = documents.mean(values, draws=400, seed=seed).interval_95
        covered += low <= 1.0 <= high
    assert covered >= 178, "95 % with 40 documents, less what a percentile bootstrap loses"


def test_gain_is_the_ratio_of_sums():
    documents = Documents(IDS)
    rng = np.random.default_rng(2)
    real, other = rng.random(8), 1 + rng.random(8)
    found = documents.gain(real, other)
    assert found.value == pytest.approx(metrics.gain(real.mean(), other.mean()))
    assert found.interval_95[0] < found.value < found.interval_95[1]


def test_one_document_has_no_interval():
    assert Documents(["a", "a"]).mean(np.array([1.0, 2.0])).interval_95 is None


def test_sign_flips_enumerate_to_the_exact_p():
    documents, deltas = Documents(list("abcd")), np.array([1.0, 2.0, 0.5, 3.0])
    exact = np.mean(
        [abs(np.dot(signs, deltas)) >= deltas.sum() for signs in np.array(np.meshgrid(*[[-1, 1]] * 4)).reshape(4, -1).T]
    )
    assert documents.sign_flip(deltas, 20_000) == pytest.approx(exact, abs=0.01)
    assert documents.sign_flip(np.zeros(4), 100) == 1.0


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from("abcde"), min_size=1, max_size=30), st.integers(0, 1000))
def test_pairings_keep_documents_together(names, seed):
    documents = Documents(names)
    for to in documents.pairings(5, seed):
        for rows in documents.rows:
            assert len(set(documents.codes[to[rows]])) == 1
        partners = {documents.codes[to[rows[0]]] for rows in documents.rows}
        assert len(partners) == len(documents), "every document is somebody's"


# --- identity ---------------------------------------------------------------------------------------------------------
def test_ranks_are_those_of_the_metrics():
    rng = np.random.default_rng(3)
    activations = rng.normal(size=(40, 6)) + 3
    made = activations + rng.normal(size=activations.shape)
    place = np.diag(identity.ranks(identity.scores(made, activations)))
    assert place.tolist() == metrics.retrieval_ranks(made, activations).tolist()
    found = identity.identity(made, activations, Documents([str(at) for at in range(40)]), draws=99)
    assert found.top1.value == pytest.approx((place == 0).mean())
    assert found.percentile.value == pytest.approx((1 - place / 39).mean())
    assert found.chance == pytest.approx(1 / 40) and found.pool.size == 40


def test_equal_reconstructions_find_nothing():
    activations = np.random.default_rng(4).normal(size=(30, 5))
    found = identity.identity(np.ones((30, 5)), activations, Documents([str(at) for at in range(30)]), draws=99)
    assert found.top1.value == pytest.approx(1 / 30), "one row is nearest to what all say"
    assert found.percentile.p > 0.05


def test_ties_count_against_a_row():
    activations = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    place = identity.ranks(identity.scores(activations, activations))
    assert np.diag(place).tolist() == [1, 1, 0]


def test_many_rows_are_sampled_by_whole_documents(monkeypatch):
    monkeypatch.setattr(identity, "MOST_ROWS", 20)
    names = [f"d{at // 3}" for at in range(60)]
    activations = np.random.default_rng(5).normal(size=(60, 4))
    found = identity.identity(activations, activations, Documents(names), draws=19)
    assert found.n == 18 and found.top1.n == 18


def test_shuffled_needs_two_documents():
    with pytest.raises(InputError, match="of one document"):
        identity.shuffled_cosine(np.ones((2, 3)), np.ones((2, 3)), Documents(["a", "a"]))


# --- retrieval --------------------------------------------------------------------------------------------------------
def test_hits_are_those_of_looking_at_each_query():
    rng = np.random.default_rng(6)
    documents = Documents([f"d{at // 2}" for at in range(20)])
    similarity = np.round(rng.random((20, 20)), 1)  # with ties
    draw = content.draw_others(documents, 0)
    found = content.hits(similarity, draw, np.arange(20))
    for at, row in enumerate(draw.queries):
        own = draw.candidates[at, draw.own[at]]
        assert own != row and documents.codes[own] == documents.codes[row]
        assert sorted(documents.codes[draw.candidates[at]]) == list(range(10))
        rest = [similarity[row, one] for one in draw.candidates[at] if one != own]
        assert found[at] == (similarity[row, own] > max(rest))


def test_texts_all_alike_are_a_broken_metric_and_not_a_p_of_nothing():
    documents = Documents([f"d{at // 2}" for at in range(20)])
    activations = np.random.default_rng(7).normal(size=(20, 4))
    for same in ("the same words", ""):
        found = content.content([same] * 20, activations, documents, draws=49)
        for one in found.retrieval:
            if one.query == "explanation":
                assert one.broken and one.top1.p is None and one.top1.value == 0


def test_documents_of_one_row_each_give_nothing_to_find():
    found = content.content(["a b", "c d", "e f"], np.eye(3), Documents(["x", "y", "z"]), draws=19)
    assert all("no document has two positions" in one.broken for one in found.retrieval)


def test_the_worst_seed_and_the_largest_p_are_reported():
    rng = np.random.default_rng(8)
    documents = Documents([f"d{at // 3}" for at in range(45)])
    said = [
        f"topic{code if rng.random() < 0.5 else rng.integers(99)} and {rng.integers(99)}" for code in documents.codes
    ]
    found = content.content(said, rng.normal(size=(45, 4)), documents, draws=99).retrieval[0]
    assert len(found.by_seed) == 4 and found.top1.value == min(found.by_seed)


def test_embeddings_are_used_where_a_model_is_at_hand():
    documents = Documents([f"d{at // 2}" for at in range(20)])
    said = [f"w{at}" for at in range(20)]  # no word in common
    known = {text: np.eye(10)[at // 2] for at, text in enumerate(said)}
    activations = np.random.default_rng(9).normal(size=(20, 4))
    found = content.content(
        said, activations, documents, embed=lambda texts: np.stack([known[text] for text in texts]), draws=49
    )
    by = {one.features: one for one in found.retrieval}
    assert by["embeddings"].top1.value == 1.0 and by["words"].top1.value == 0.0


def test_probes_tell_documents_and_families_where_they_can_be_told():
    rng = np.random.default_rng(10)
    documents = Documents([f"d{at // 4}" for at in range(80)])
    families = [f"f{code % 2}" for code in documents.codes]
    of_document = rng.normal(size=(20, 16))[documents.codes]
    of_family = 2 * rng.normal(size=(2, 16))[documents.codes % 2]
    activations = of_document + of_family + 0.1 * rng.normal(size=(80, 16))
    found = content.content(
        [f"w{rng.integers(5)}" for _ in range(80)], activations, documents, families=families, draws=9
    )
    by = {(one.on, one.target): one for one in found.probes}
    assert by["activation", "document"].accuracy.value > 0.8 and by["activation", "document"].classes == 20
    assert by["activation", "family"].accuracy.value > 0.8
    assert by["explanation", "document"].accuracy.value < 0.3


@pytest.mark.parametrize(("documents", "families"), [(12, 4), (3, 2)])
def test_a_probe_that_cannot_be_made_is_said(documents, families):
    from cards.report import report
    from tests.cards.samples import measured

    rng = np.random.default_rng(11)
    of = Documents([f"d{at}" for at in range(documents)])
    names = [f"f{at % families}" for at in range(documents)]
    said = [f"w{at}" for at in range(documents)]
    found = content.content(said, rng.normal(size=(documents, 4)), of, families=names, draws=9)
    assert len(found.probes) == 4 and all(one.broken and one.accuracy is None for one in found.probes)
    page = report(measured()[0].model_copy(update={"content": found}))
    assert page.count("not made: ") == 4


def test_families_of_few_rows_beside_larger_ones_are_no_crash():
    rng = np.random.default_rng(12)
    of = Documents([f"d{at}" for at in range(20)])
    names = ["rare" if at < 2 else f"f{at % 2}" for at in range(20)]
    found = content.content([f"w{at % 3}" for at in range(20)], rng.normal(size=(20, 4)), of, families=names, draws=9)
    assert [one.broken for one in found.probes if one.target == "family"] == [None, None]


def test_queries_of_many_rows_are_drawn_and_it_is_said(monkeypatch):
    rng = np.random.default_rng(13)
    documents = Documents([f"d{at // 2}" for at in range(60)])
    activations = rng.normal(size=(30, 8))[documents.codes] + 0.1 * rng.normal(size=(60, 8))
    said = [f"w{code}" for code in documents.codes]
    whole = content.content(said, activations, documents, sources=said, draws=19)
    assert all(one.queries == 60 and one.eligible is None for one in whole.retrieval)
    monkeypatch.setattr(content, "MOST_LOOKED_UP", 30 * 10)
    found = content.content(said, activations, documents, sources=said, draws=19)
    assert all(one.queries == 10 and one.eligible == 60 and one.top1.n == 10 for one in found.retrieval)
    assert all(one.top1.value > 0.9 for one in found.retrieval)
    again = content.content(said, activations, documents, sources=said, draws=19)
    assert again == found


def test_a_null_that_does_not_vary_is_broken_whatever_its_value():
    """The standard deviation of 5,000 times 0.1 is 1e-17 and not 0."""
    documents = Documents([f"d{at // 2}" for at in range(20)])
    similarity, draw = np.zeros((20, 20), np.float32), content.draw_others(documents, 0)
    real = content.hits

    def constant(similarity, draw, order, candidates=None):
        found = real(similarity, draw, order, candidates)
        found[:2] = True  # 2 of 20, always
        return found

    assert np.full(5000, 0.1).std() > 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(content, "hits", constant)
        found = content._retrieve("explanation", "explanations", "words", similarity, [draw], documents, (5000, 10), 0)
    assert found.broken and found.top1.p is None


def test_the_intervals_are_of_as_many_draws_as_the_settings_say():
    documents = Documents([f"d{at // 2}" for at in range(20)])
    rng = np.random.default_rng(14)
    activations = rng.normal(size=(20, 4))
    one = identity.identity(rng.normal(size=(20, 4)), activations, documents, draws=9, bootstrap_draws=1)
    assert one.percentile.interval_95[0] == one.percentile.interval_95[1]
    said = content.content([f"w{at % 3}" for at in range(20)], activations, documents, draws=9, bootstrap_draws=1)
    for figure in [*(one.top1 for one in said.retrieval), *(one.accuracy for one in said.probes)]:
        assert figure.interval_95[0] == figure.interval_95[1]


def test_a_gain_over_no_error_is_none():
    documents = Documents(IDS)
    assert documents.gain(np.ones(8), np.zeros(8)) is None
    some = np.array([1.0, 0, 0, 0, 0, 0, 0, 0])
    assert documents.gain(some, some).interval_95 is None, "a draw without document a divides by nothing"


# --- collapse and altered texts ---------------------------------------------------------------------------------------
def test_collapse_counts_strings_beginnings_and_stems():
    found = collapse.collapse(["a b c d e", "a b c d f", "a b c d e", "x y"])
    assert (found.n, found.unique, found.stems) == (4, 3, 2)
    assert found.unique_share == 0.75 and found.duplicate_share == 0.25
    assert found.commonest_stems[0] == ("a b c d", 3)
    assert found.prefixes[40] == 3 and found.distinct[1] == pytest.approx(8 / 17)
    assert found.mean_words == pytest.approx(17 / 4)


def test_claims_are_sentences_or_lines():
    said = 'Ends in "the city of." Next: Paris, or 3.5 km. "Why?" A guide.\nIn French'
    assert sentences(said) == [
        'Ends in "the city of."',
        "Next: Paris, or 3.5 km.",
        '"Why?"',
        "A guide.",
        "In French",
    ]


def test_quotes_and_prose_share_an_explanation_between_them():
    said = 'Ends in "the city of". Next “Paris”, then `x = 1`.'
    assert extractive.quotes(said) == "the city of Paris x = 1"
    assert extractive.prose(said) == "Ends in . Next , then ."


@given(st.text(max_size=200))
def test_altered_texts_never_fail_and_lose_no_claim(said):
    parts = sentences(said)
    assert "".join(" ".join(parts).split()) == "".join(said.split())
    extractive.quotes(said), extractive.prose(said), texts.first_words(said, 5)
    if len(set(parts)) > 1:
        assert texts.reordered(parts, "row", 0, "claims") != " ".join(parts) or " ".join(parts) == " ".join(
            sorted(parts)
        )


def test_nonsense_has_the_words_of_its_text_in_number_and_its_row_decides_it():
    said = "one two three four"
    assert len(texts.nonsense(said, "a", 0).split()) == 4
    assert texts.nonsense(said, "a", 0) == texts.nonsense(said, "a", 0) != texts.nonsense(said, "b", 0)
    assert texts.unrelated("a", 0) in texts.unrelated_sentences() and len(set(texts.unrelated_sentences())) == 64
