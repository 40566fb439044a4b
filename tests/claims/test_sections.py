"""The form of sections, said and read back."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nla_sdk.claims.cutting import claims_of
from nla_sdk.claims.editing import instead, without
from nla_sdk.claims.forms import sections
from nla_sdk.claims.forms.claim import END, LINE_BREAK
from nla_sdk.claims.forms.sections import say
from nla_sdk.claims.registers import REGISTERS
from nla_sdk.claims.truth import supported
from training.label.extractive import explain

TOKENS = st.lists(
    st.sampled_from(["mat", "x,", '"', ".", "or", "a b", "\n", "<eos>", ")", ").", ",", ', "', "é"]),
    max_size=5,
    unique=True,
)
WORDS = st.lists(
    st.sampled_from(["cat", "U.S", "U.S.", "well-being", "naïve", "x2"]), min_size=1, max_size=6, unique=True
)
STYLES = st.sampled_from(sorted(REGISTERS))


def read(text: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for claim in claims_of(text):
        assert text[claim.start : claim.end] == claim.text
        found.setdefault(claim.kind, []).append(claim.text)
    return found


def expected(tokens: list[str], words: list[str], style: str) -> dict[str, list[str]]:
    named = {"\n": LINE_BREAK, "<eos>": END}
    found = {"next token": [named.get(token, token) for token in tokens]} if tokens else {}
    return found | {"word": words, "register": [style.removeprefix("a ")]}


@given(TOKENS, WORDS, WORDS, STYLES)
def test_what_is_said_is_read_back_in_its_order(tokens, words, related, style):
    found = read(say(tokens, words, style, related=related))
    assert found == expected(tokens, words, style) | {"related word": related}
    assert list(read(say(tokens, [], style, related=related))) == ["next token"] * bool(tokens) + [
        "related word",
        "register",
    ]


@given(TOKENS, WORDS, STYLES, st.data())
def test_a_claim_taken_out_leaves_what_would_be_said_without_it(tokens, words, style, data):
    text = say(tokens, words, style)
    claims = claims_of(text)
    claim = data.draw(st.sampled_from(claims))
    at = [one for one in claims if one.kind == claim.kind].index(claim)
    parts = {"next token": list(tokens), "word": list(words), "register": [style]}
    del parts[claim.kind][at]
    assert without(text, claim, claims) == say(parts["next token"], parts["word"], *parts["register"])


def test_one_next_token_stands_alone_and_the_others_in_brackets():
    assert say(["mat"], ["cat"], "expository prose") == 'Next: "mat". About: cat. Style: expository prose.'
    assert say([" mat", "\n"], ["cat"]) == 'Next: "mat" (or a line break). About: cat.'
    assert say([], ["cat"], "a worked sum") == "About: cat. Style: worked sum."


def test_a_label_made_of_the_text_is_of_this_form():
    text = explain("The cat sat on the", [" mat", " floor"])
    assert text == 'Next: "mat" (or "floor"). After: "cat sat on the". About: sat, cat. Style: expository prose.'
    assert read(text)["quote"] == ["cat sat on the"]


@pytest.mark.parametrize(
    "text",
    [
        'Next: "mat" (or "sofa"',
        'Next: "mat". And more',
        "About: the war and its causes.",
        'About: cat. Next: "mat". Style: prose.',
        'Next: "mat". Next: "sofa".',
        "Next: the mat. About: cat.",
        "Next: ",
    ],
)
def test_any_other_text_is_cut_into_sentences(text):
    assert set(read(text)) <= {"sentence", "quote"}


@pytest.mark.parametrize("register", sorted(REGISTERS))
def test_a_style_holds_where_the_rules_find_it_in_the_text(register):
    claim = claims_of(say(["was"], ["shore"], register))[-1]
    assert supported(claim, "He walked to the shore and she followed him.") == (
        register == "a narrative about a person"
    )


def test_another_token_or_word_stands_where_it_stood():
    text = 'Next: "mat" (or "sofa"). About: sat, cat. Style: fiction.'
    claims = claims_of(text)
    assert instead(text, claims[0], "dog") == 'Next: "dog" (or "sofa"). About: sat, cat. Style: fiction.'
    assert instead(text, claims[1], LINE_BREAK) == 'Next: "mat" (or a line break). About: sat, cat. Style: fiction.'
    assert instead(text, claims[3], "dog") == 'Next: "mat" (or "sofa"). About: sat, dog. Style: fiction.'


@pytest.mark.parametrize("part", ['"a" (or ', '"a", "', '". ', '" (or "', 'x". About: "'])
def test_a_text_of_any_length_is_read_in_one_pass(part, monkeypatch):
    """Anybody may send one: each of its quote marks is looked at a bounded number of times."""
    looked = 0
    searches = sections.places

    def counted(*args):
        nonlocal looked
        for at in searches(*args):
            looked += 1
            yield at

    monkeypatch.setattr(sections, "places", counted)
    text = 'Next: "' + part * 2000
    claims_of(text)
    assert 0 < looked <= 2 * text.count('"')


@pytest.mark.parametrize("part", ["a. ", "a, ", ". ", " "])
def test_long_lists_and_white_space_are_passed_over_once(part):
    """Quadratic time would be minutes: this many take a regular expression that begins again at each one."""
    text = f'Next: "a". About: {part * 100_000}x. Style: fiction.'
    began = time.process_time()
    claims_of(text)
    assert time.process_time() - began < 5
