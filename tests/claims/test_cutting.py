"""Explanations cut into claims, and claims taken out again."""

from __future__ import annotations

import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nla_sdk.claims.cutting import claims_of
from nla_sdk.claims.editing import instead, without
from nla_sdk.claims.forms import sentences
from nla_sdk.claims.forms.claim import KINDS, Claim
from nla_sdk.results import UNTAGGED, Explanation

TOKENS = st.lists(st.sampled_from(["mat", "x,", '"', "or", "a b", "comes", "\n", "<eos>", "\\)", ",", "é"]), min_size=1)
WORDS = st.lists(st.sampled_from(["cat", "U.S", "well-being", "naïve", "x2"]), min_size=1, max_size=6)


def capital(text: str) -> str:
    return text[0].upper() + text[1:]


def alternatives(tokens: list[str]) -> str:
    """A list of tokens as labels of sentences had it."""
    named = {"\n": "a line break", "<eos>": "the end of the text"}
    *others, last = list(dict.fromkeys(named.get(token, f'"{token}"') for token in tokens))[:5]
    return f"{', '.join(others)} or {last}" if others else last


def pairs(text: str) -> list[tuple[str, str]]:
    return [(claim.text, claim.kind) for claim in claims_of(text)]


@given(st.text(max_size=300) | st.text(alphabet='"“”.!?\n -*1aAé', max_size=80))
@example('"a" or "b" comes next.')
@example("- \n- x")
def test_every_claim_stands_where_it_says_and_is_of_a_known_kind(text):
    claims = claims_of(text)
    assert all(text[claim.start : claim.end] == claim.text != "" for claim in claims)
    assert all(claim.kind in KINDS for claim in claims)
    assert list(claims) == sorted(claims, key=lambda claim: (claim.start, -claim.end))


@given(st.text(max_size=300))
def test_no_word_of_a_plain_text_is_in_no_claim(text):
    covered = {at for claim in claims_of(text) for at in range(claim.start, claim.end)}
    assert all(at in covered for at, letter in enumerate(text) if letter.isalpha()) or not claims_of(text)


@given(TOKENS, WORDS)
def test_a_label_gives_back_the_tokens_and_words_that_it_was_made_of(tokens, words):
    said = capital(alternatives(tokens))
    text = f"{said} comes next. Expository prose about {', '.join(words)}."
    found = pairs(text)
    spelled = {"\n": "a line break", "<eos>": "the end of the text"}
    wanted = list(dict.fromkeys(spelled.get(token, token) for token in tokens))[:5]
    first_of_all = [one.lower() for one, kind in found if kind == "next token"]
    assert first_of_all == [one.lower() for one in wanted]
    assert [one for one, kind in found if kind == "word"] == words
    assert ("Expository prose", "register") in found


def test_the_form_of_sentences_also_quotes_its_ending():
    assert ("sat on the", "quote") in pairs('"mat" comes next, after "sat on the". Fiction about cat.')


def test_lists_are_cut_by_item_and_prose_by_sentence_and_both_by_quote():
    assert pairs('- a cat\n- "the dog" barks\n2) last one') == [
        ("a cat", "item"),
        ('"the dog" barks', "item"),
        ("the dog", "quote"),
        ("last one", "item"),
    ]
    assert pairs("It is on Mr. Smith. It ends in “of the”!") == [
        ("It is on Mr.", "sentence"),
        ("Smith.", "sentence"),
        ("It ends in “of the”!", "sentence"),
        ("of the", "quote"),
    ]
    assert pairs("Paris\nFrance\ntravel guides") == [("Paris", "item"), ("France", "item"), ("travel guides", "item")]
    assert pairs("Here is why:\n- one thing") == [("Here is why:", "sentence"), ("one thing", "item")]


def test_an_output_that_holds_no_explanation_claims_nothing():
    assert Explanation("Some words.").claims == claims_of("Some words.")
    assert Explanation("Some words.", status=UNTAGGED).claims == ()
    assert Explanation("", status="empty").claims == ()


# --- taken out ------------------------------------------------------------------------------------------------------
LABEL = '"mat", "sofa" or "bed" comes next. Fiction about sat, cat.'


def test_what_is_left_of_a_label_is_a_label():
    left = {claim.text: without(LABEL, claim, claims_of(LABEL)) for claim in claims_of(LABEL)}
    assert left == {
        "mat": '"sofa" or "bed" comes next. Fiction about sat, cat.',
        "sofa": '"mat" or "bed" comes next. Fiction about sat, cat.',
        "bed": '"mat" or "sofa" comes next. Fiction about sat, cat.',
        "Fiction": '"mat", "sofa" or "bed" comes next. About sat, cat.',
        "sat": '"mat", "sofa" or "bed" comes next. Fiction about cat.',
        "cat": '"mat", "sofa" or "bed" comes next. Fiction about sat.',
    }


@given(TOKENS, WORDS)
def test_a_claim_taken_out_of_a_list_leaves_the_others_as_they_are(tokens, words):
    text = f"{capital(alternatives(tokens))} comes next. Expository prose about {', '.join(words)}."
    claims = claims_of(text)
    for claim in claims:
        group = [one.text for one in claims if one.kind == claim.kind]
        if claim.kind in ("next token", "word") and len(group) > 1:
            rest = [one.text for one in claims if one != claim]
            left = [one.text for one in claims_of(without(text, claim, claims))]
            assert [one.lower() for one in left] == [one.lower() for one in rest]


def test_the_only_one_of_a_list_takes_its_sentence_with_it():
    text = '"mat" comes next. Fiction about cat.'
    token, _, word = claims_of(text)
    assert without(text, token, claims_of(text)) == "Fiction about cat."
    assert without(text, word, claims_of(text)) == '"mat" comes next. Fiction.'


def test_sentences_items_and_quotes_leave_no_holes():
    text = "It is French. It says “the city of” there. It ends."
    claims = claims_of(text)
    assert without(text, claims[0], claims) == "It says “the city of” there. It ends."
    assert without(text, claims[2], claims) == "It is French. It says there. It ends."
    bullets = "- one\n- two\n- three"
    assert without(bullets, claims_of(bullets)[1], claims_of(bullets)) == "- one\n- three"


def test_another_claim_stands_where_it_stood():
    claims = claims_of(LABEL)
    assert instead(LABEL, claims[0], "dog") == '"dog", "sofa" or "bed" comes next. Fiction about sat, cat.'
    assert (
        instead(LABEL, claims[1], "a line break") == '"mat", a line break or "bed" comes next. Fiction about sat, cat.'
    )
    assert instead(LABEL, claims[-1], "dog") == '"mat", "sofa" or "bed" comes next. Fiction about sat, dog.'


@given(st.text(alphabet='"“”.!?\n -*1aAé,', max_size=60))
def test_taking_out_any_claim_of_any_text_makes_it_no_longer(text):
    claims = claims_of(text)
    for claim in claims:
        assert isinstance(claim, Claim)
        assert len(without(text, claim, claims)) <= len(text) + len("About ")


LONG = ['"a", ', '"a" or ', '"a", "', '"a" comes next, after "x". ', '"a" comes next, after "']


@pytest.mark.parametrize("part", LONG)
def test_a_text_of_any_length_is_cut_in_one_pass(part, monkeypatch):
    """Anybody may send one: each of its quote marks is looked at a bounded number of times."""
    looked = 0
    searches = sentences.places

    def counted(*args):
        nonlocal looked
        for at in searches(*args):
            looked += 1
            yield at

    monkeypatch.setattr(sentences, "places", counted)
    text = part * 2000 + " comes next."
    claims_of(text)
    assert 0 < looked <= 2 * text.count('"')


@pytest.mark.parametrize("space", [" ", "\n", "\u00a0"])
def test_white_space_of_any_length_is_passed_over_once(space):
    """Quadratic time would be minutes: this many take a regular expression that begins again at each one."""
    text = f"Aa.{space * 100_000}b. Cc."
    began = time.process_time()
    claims = claims_of(text)
    without(text, claims[-1], claims)
    assert time.process_time() - began < 5
