"""Receipts are what a plain computation of each gives, row by row and claim by claim."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nla_sdk.checking.gathering import gather
from nla_sdk.checking.parts import Context, Parts
from nla_sdk.checking.steering import BEGINNINGS
from nla_sdk.claims.cutting import claims_of
from nla_sdk.claims.editing import without
from nla_sdk.claims.receipts import RECEIPTS
from nla_sdk.claims.words import content_words
from nla_sdk.errors import InputError
from nla_sdk.vectors.kinds import Vectors
from tests import tiny

FIRST = '"b", "so", a line break or the end of the text comes next. Expository prose about fish, sea, fish.'
SECOND = '"a" or "to" comes next, after "the red". A worked sum about cats, whales.'
WORDS = [FIRST, SECOND, "It is about Paris. It says “the sea”."]
TEXTS = ["The fish swam in the sea", "Two red cats", "So it was"]
PARTNERS = [1, 0, None]
KINDS = [[claim.kind for claim in claims_of(words)] for words in WORDS]


@pytest.fixture(scope="module")
def vectors():
    return tiny.random(3, tiny.D_MODEL, seed=3, scale=3.0) + tiny.random(tiny.D_MODEL, seed=77, scale=3.0)


@pytest.fixture
def centred(lora_pair):
    return lora_pair("centred")


def of(found, name):
    """[rows][claims]: value and null; None where the claim has no such receipt."""
    return [[(one[name].value, one[name].null) if name in one else None for one in row] for row in found]


def near(found, wanted, tolerance=1e-5):
    for row, plain in zip(found, wanted, strict=True):
        for one, other in zip(row, plain, strict=True):
            assert (one is None) == (other is None)
            if one is not None:
                assert one == pytest.approx(other, abs=tolerance)


def fve(pair, words, vector, kind):
    return getattr(pair.score(words, vector), kind)


@pytest.mark.parametrize(("name", "unit", "kind"), [("centred", "FVE", "fve"), ("shared", "gain", "gain")])
def test_what_a_claim_adds_is_the_difference_of_two_scores_and_its_null_that_for_the_partners_vector(
    lora_pair, vectors, name, unit, kind
):
    pair = lora_pair(name)
    found = gather(pair, WORDS, vectors, which=["ablation", "alone"], partners=PARTNERS)
    assert found.unit == unit and not found.missing

    def lost(row, text, less):
        values = [
            None if at is None else fve(pair, text, vectors[at], kind) - fve(pair, less, vectors[at], kind)
            for at in (row, PARTNERS[row])
        ]
        return tuple(values)

    plain = {"ablation": [], "alone": []}
    for row, words in enumerate(WORDS):
        claims = claims_of(words)
        plain["ablation"].append([lost(row, words, without(words, claim, claims)) for claim in claims])
        plain["alone"].append([lost(row, claim.text, "") for claim in claims])
    for receipt in ("ablation", "alone"):
        near(of(found, receipt), plain[receipt])


def test_reconstructions_that_are_known_are_not_made_again(centred, vectors, monkeypatch):
    made = centred.reconstruct(WORDS)
    seen: list[str] = []
    own = type(centred.reconstructor).prompts

    def prompts(self, texts, **how):
        seen.extend(texts)
        return own(self, texts, **how)

    monkeypatch.setattr(type(centred.reconstructor), "prompts", prompts)
    given = gather(centred, WORDS, vectors, which=["ablation"], reconstructions=made)
    assert not set(WORDS) & set(seen) and len(seen) == len(set(seen))  # and equal variants once
    seen.clear()
    read = gather(centred, WORDS, vectors, which=["ablation"])
    assert set(WORDS) <= set(seen)
    near(of(given, "ablation"), of(read, "ablation"))


def test_a_replacement_is_the_partners_claim_of_the_kind_and_the_seed_draws_it(centred, vectors):
    found = gather(centred, WORDS[:2], vectors[:2], which=["replacement"], partners=[1, 0])
    score = centred.score(FIRST, vectors[0]).fve
    others = {
        score - centred.score(FIRST.replace("about fish, sea", f"about {other}, sea"), vectors[0]).fve
        for other in ("cats", "whales")
    }
    at = KINDS[0].index("word")
    value = found[0][at]["replacement"].value
    assert min(abs(value - other) for other in others) < 1e-5
    assert "replacement" not in found[1][KINDS[1].index("quote")]  # the other row has none to put there
    again = [
        gather(centred, WORDS[:2], vectors[:2], which=["replacement"], partners=[1, 0], seed=seed)[0][at]
        for seed in (0, 0, 1, 2, 3, 4)
    ]
    assert again[0] == again[1] == found[0][at] and len({one["replacement"].value for one in again}) == 2


def named(tokenizer, claim):
    """The ids of each word of a claim, by decoding the vocabulary token by token."""
    texts = [tokenizer.decode([at]) for at in range(tiny.VOCABULARY)]
    if claim.kind == "register":
        return []
    if claim.text == "a line break":
        return [[at for at, text in enumerate(texts) if not text.strip() and "\n" in text]]
    if claim.text == "the end of the text":
        return [[tokenizer.eos_token_id]]
    if claim.kind == "next token":
        ids = [at for at, text in enumerate(texts) if text.strip() == claim.text]
        return [ids] if ids else []
    forms = [[word, f" {word}"] for word in content_words(claim.text)]
    return [sorted({tokenizer(form, add_special_tokens=False).input_ids[0] for form in both}) for both in forms]


def plain_logs(logs, tokenizer):
    """[rows][claims] of the mean log-probability of its words, beside that of the partner's claims of the kind."""

    def log(row, claim):
        each = [logs[row][ids].logsumexp(0) for ids in named(tokenizer, claim)]
        return float(torch.stack(each).mean()) if each else None

    rows = []
    for row, words in enumerate(WORDS):
        theirs = [] if PARTNERS[row] is None else claims_of(WORDS[PARTNERS[row]])
        made = []
        for claim in claims_of(words):
            others = [value for one in theirs if one.kind == claim.kind and (value := log(row, one)) is not None]
            value = log(row, claim)
            made.append(None if value is None else (value, np.mean(others) if others else None))
        rows.append(made)
    return rows


def test_the_lens_is_the_vector_through_final_norm_and_lm_head(pair, gemma, vectors):
    found = gather(pair, WORDS, vectors, which=["lens"], partners=PARTNERS)
    text = gemma.model.language_model
    with torch.no_grad():
        logits = gemma.lm_head(text.norm(vectors))
        logs = (30.0 * torch.tanh(logits / 30.0)).log_softmax(-1)
    near(of(found, "lens"), plain_logs(logs, pair.source.tokenizer), 1e-4)
    assert all("lens" not in one for one, kind in zip(found[0], KINDS[0], strict=True) if kind == "register")


def test_what_the_model_agrees_with_is_its_own_softmax_at_the_position(pair, gemma, vectors):
    contexts = [Context(TEXTS[0], " and more"), None, Context(TEXTS[2])]
    found = gather(pair, WORDS, vectors, which=["model_agrees"], partners=PARTNERS, texts=contexts)
    ids = pair.source.tokenizer(TEXTS[0], return_tensors="pt").input_ids
    with torch.no_grad():
        odds = gemma(ids).logits[0, -1].softmax(-1)

    def probability(claim):
        return sum(float(odds[ids].sum()) for ids in named(pair.source.tokenizer, claim))

    theirs = np.mean([probability(one) for one in claims_of(SECOND) if one.kind == "next token"])
    wanted = [(probability(one), theirs) if one.kind == "next token" else None for one in claims_of(FIRST)]
    near(of(found, "model_agrees")[:1], [wanted])
    assert of(found, "model_agrees")[1:] == [[None] * len(KINDS[1]), [None] * len(KINDS[2])]
    order = odds.argsort(descending=True).tolist()
    places = [
        min((order.index(at) for ids in named(pair.source.tokenizer, one) for at in ids), default=None)
        if one.kind == "next token"
        else None
        for one in claims_of(FIRST)
    ]
    assert found.places == [places, [None] * len(KINDS[1]), [None] * len(KINDS[2])] and any(places)


def test_tokens_are_taken_as_given_where_a_context_has_them(pair, vectors):
    ids = tuple(pair.source.tokenizer(TEXTS[0]).input_ids)
    by_text, by_ids = (
        gather(pair, [FIRST], vectors[:1], which=["model_agrees"], texts=[context])
        for context in (Context(TEXTS[0]), Context("something else", ids=ids))
    )
    assert by_text == by_ids


def test_texts_are_searched_before_and_behind_the_position(pair, vectors):
    contexts = [Context("The fish and the cats", "in the seas"), None, Context("Paris")]
    which = ["in_text", "in_text_exact", "in_text_after"]
    found = gather(pair, WORDS, vectors, which=which, texts=contexts, partners=PARTNERS)
    fish, sea, again = found[0][-3:]
    assert [fish[name].value for name in which] == [1.0, 1.0, 0.0]
    assert [sea[name].value for name in which] == [0.0, 0.0, 1.0]  # by its stem
    assert fish["in_text"].null == 0.5 and again == fish  # of the partner's cats and whales one is there
    assert not any(found[1]) and "in_text_after" not in found[2][0]
    assert found[2][0]["in_text"].value == 1.0 and found[2][0]["in_text"].null is None


def test_repeats_and_recurrence_count_claims_that_say_the_same(pair, vectors):
    samples = [["Prose about fishes.", "About a sea.", '"so" comes next.'], ["Fish."], []]
    which = ["repeats", "recurs_in_samples", "recurs_nearby"]
    found = gather(pair, WORDS, vectors, which=which, samples=samples, partners=PARTNERS)
    at = KINDS[0].index("word")
    assert [one["repeats"].value for one in found[0][at:]] == [1.0, 0.0, 1.0]
    assert [one["repeats"].null for one in found[0][at:]] == [0.0] * 3
    assert found[0][at]["recurs_in_samples"].value == pytest.approx(1 / 3)
    assert found[0][at]["recurs_in_samples"].null == 1.0
    assert found[0][1]["recurs_in_samples"].value == pytest.approx(1 / 3)  # "so", as a next token only
    assert "recurs_in_samples" not in found[2][0]
    assert found.missing == {"recurs_nearby": "no other explanations were given"}


def test_a_dictionary_speaks_by_the_labels_of_the_nearest_directions_over_the_mean(centred, vectors):
    over = vectors - centred.reconstructor.mean
    far = torch.stack([-over[0] + 0.01 * tiny.random(tiny.D_MODEL, seed=at) for at in range(10)])
    features = Vectors(torch.cat([over[:1], far]), "direction", 4, labels=("old fish", *["whale"] * 10))
    found = gather(centred, WORDS, vectors, which=["dictionary"], partners=PARTNERS, dictionary=features)
    fish, sea = found[0][KINDS[0].index("word")], found[0][KINDS[0].index("word") + 1]
    assert fish["dictionary"].value == 1.0 and sea["dictionary"].value == 0.0
    with pytest.raises(InputError, match="0 labels of 11 directions"):
        gather(centred, WORDS, vectors, which=["dictionary"], dictionary=Vectors(features.vectors, "direction", 4))


def test_steering_is_how_much_likelier_the_named_tokens_become_after_a_few_beginnings(pair, gemma, vectors):
    added = {word: tiny.random(tiny.D_MODEL, seed=at, scale=2.0) for at, word in enumerate("abcdefgh")}

    def towards(texts):
        return torch.stack([added[text[0].lower()] for text in texts])

    words = "It is about Paris."
    parts = Parts(source=pair.source, layer=pair.layer, towards=towards)
    added["i"] = tiny.random(tiny.D_MODEL, seed=99, scale=2.0)
    found = gather(parts, [words], vectors[:1], which=["steering"])
    plain, steered = [], []
    for beginning in BEGINNINGS:
        ids = pair.source.tokenizer(beginning, return_tensors="pt").input_ids

        def add(module, args, output):
            output[:, 1:] += added["i"]  # BOS is left alone
            return output

        with torch.no_grad():
            plain.append(gemma(ids).logits[0, -1].log_softmax(-1))
            handle = gemma.model.language_model.layers[pair.layer].register_forward_hook(add)
            steered.append(gemma(ids).logits[0, -1].log_softmax(-1))
            handle.remove()
    before, after = torch.stack(plain).mean(0), torch.stack(steered).mean(0)
    ids = named(pair.source.tokenizer, claims_of(words)[0])
    wanted = np.mean([float(after[one].logsumexp(0) - before[one].logsumexp(0)) for one in ids])
    assert found[0][0]["steering"].value == pytest.approx(wanted, abs=1e-4)


def test_meaning_is_the_largest_cosine_with_a_sentence_of_the_text(vectors):
    known = {"Paris is old.": [1.0, 0.0], "It rains.": [0.0, 1.0], "the sea": [0.6, 0.8]}

    def encode(texts):
        return torch.tensor([known.get(text, [-1.0, 0.0]) for text in texts])

    context = Context("Paris is old. It rains.")
    found = gather(Parts(encode=encode), WORDS[2:], vectors[2:], which=["in_text_meaning"], texts=[context])
    values = [one["in_text_meaning"].value for one in found[0]]
    assert values == pytest.approx([0.0, 0.0, 0.8])


def test_without_a_partner_chance_is_what_a_calibration_says(vectors):
    parts = Parts(chance={"word": {"repeats": 0.25}})
    found = gather(parts, WORDS[:1], vectors[:1], which=["repeats"])
    nulls = {kind: one["repeats"].null for kind, one in zip(KINDS[0], found[0], strict=True)}
    assert nulls == {"next token": None, "register": None, "word": 0.25}


def test_what_cannot_be_had_is_absent_and_said(vectors):
    found = gather(Parts(), WORDS, vectors, which=list(RECEIPTS))
    assert set(found.missing) == set(RECEIPTS) - {"repeats"}
    assert all(set(one) == {"repeats"} for row in found for one in row) and found.unit is None
    assert found.missing["ablation"] == "there is no AR" and found.missing["in_text"] == "the text was not given"


def test_lists_of_other_lengths_and_unknown_receipts_are_refused(vectors):
    with pytest.raises(InputError, match="3 explanations and 2 partners; expected as many"):
        gather(Parts(), WORDS, vectors, which=["repeats"], partners=[None, None])
    with pytest.raises(InputError, match="There is no receipt 'truth'; known are in_text"):
        gather(Parts(), WORDS, vectors, which=["truth"])
    with pytest.raises(InputError, match="3 explanations and 2 vectors"):
        gather(Parts(), WORDS, vectors[:2], which=["repeats"])


def test_no_rows_and_explanations_that_claim_nothing_have_no_receipts(pair, vectors):
    assert gather(pair, [], vectors[:0], which=list(RECEIPTS)) == []
    assert gather(pair, [""], vectors[:1], which=["ablation", "lens", "repeats"]) == [[]]
