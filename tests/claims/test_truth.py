"""Whether claims hold in texts, and what words are."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nla_sdk.claims.forms.claim import Claim
from nla_sdk.claims.registers import REGISTERS, register_of
from nla_sdk.claims.truth import in_text, in_text_exact, supported
from nla_sdk.claims.words import content_words, said_by, specifics, stems, token_class

TEXT = "The whales were studied in 1889 by Gustave Eiffel. He wrote 60 letters."


def claim(text: str, kind="sentence") -> Claim:
    return Claim(text, kind, 0, len(text))


@pytest.mark.parametrize(
    ("text", "kind", "agrees", "holds"),
    [
        ("whale", "word", None, True),
        ("studies", "word", None, True),
        ("lobster", "word", None, False),
        ("Whales were studied by Eiffel in 1889.", "sentence", None, True),
        ("Whales were studied by Eiffel in 1888.", "sentence", None, False),
        ("Whales were studied by Darwin in letters.", "sentence", None, False),
        ("a paper on rockets and fuel", "item", None, False),
        ("wrote 60", "quote", None, True),
        ("wrote 61", "quote", None, False),
        ("the", "next token", 0.01, True),
        ("the", "next token", 0.0099, False),
        ("the", "next token", None, None),
        ("A factual account with figures", "register", None, True),
        ("A medical study", "register", None, False),
    ],
)
def test_a_claim_holds_by_its_stems_and_by_every_number_and_name(text, kind, agrees, holds):
    assert supported(claim(text, kind), TEXT, agrees) is holds


@given(st.text(max_size=80), st.text(max_size=80))
def test_how_much_a_text_says_is_a_share_and_all_of_itself(some, other):
    assert 0 <= in_text(claim(some, "item"), other) <= 1
    if content_words(some):
        assert in_text(claim(some, "item"), some) == 1.0
    assert in_text_exact(claim(some, "quote"), other) in (0.0, 1.0)


@given(st.lists(st.sampled_from(["cat", "dogs", "Paris", "1889"]), min_size=1))
def test_a_word_is_said_where_its_stem_is_in_any_order(words):
    assert said_by(words, " ".join(reversed(words)).upper()) == 1.0
    assert said_by([*words, "zebra"], " ".join(words)) == pytest.approx(len(words) / (len(words) + 1))


def test_word_for_word_means_whole_words_whatever_the_case():
    assert in_text_exact(claim("Gustave  eiffel"), TEXT) == 1
    assert in_text_exact(claim("tave Eiffel"), TEXT) == 0


@given(st.text(max_size=120))
def test_the_register_of_any_text_is_a_known_one(text):
    assert register_of(text).lower() in REGISTERS


def test_specifics_are_numbers_and_names_but_not_how_sentences_begin():
    found = specifics('In 1889 the tower of Gustave Eiffel, by NATO. "Then" it closed; I saw iPods.')
    assert found == {"number": ["1889"], "name": ["Gustave", "Eiffel", "NATO", "iPods"]}


@pytest.mark.parametrize(
    ("token", "position", "name"),
    [
        (" Paris", 40, "name"),
        (" the", 40, "function word"),
        (" run", None, "other word"),
        ("7", 40, "number"),
        (",", 40, "punctuation"),
        ("\n", 40, "punctuation"),
        (" Paris", 9, "first 10 positions"),
        (" Paris", 10, "name"),
    ],
)
def test_each_token_is_of_one_class(token, position, name):
    assert token_class(token, position) == name


def test_stems_of_possessives_are_those_of_the_word():
    assert stems("The whale’s and the whales' song") == ["the", "whale", "and", "the", "whale", "song"]
