"""What stands up to an activation's position in its text, and behind it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nla_sdk.checking.contexts import contexts_of, partners_of, text_of_each
from nla_sdk.errors import InputError, PositionError
from tests import tiny

TOKENS = tiny.tokenizer(chat=True)


@given(st.text("abe io.", min_size=1, max_size=20), st.data())
def test_before_and_behind_are_the_text_cut_at_the_token(text, data):
    ids = TOKENS(text).input_ids
    position = data.draw(st.integers(-len(ids), len(ids) - 1))
    [context], [at] = contexts_of([text], [position], TOKENS)
    assert at == position % len(ids) and context.ids == tuple(ids[: at + 1])
    assert context.before + context.behind == text
    assert context.before == TOKENS.decode(ids[1 : at + 1])


def test_of_a_chat_it_is_what_the_template_makes_of_it():
    [context], [at] = contexts_of([[{"role": "user", "content": "ab"}]], [-1], TOKENS)
    assert context.before == "[user]\nab\n[model]\n" and context.behind == ""
    assert at == len(context.ids or ()) - 1 and context.ids[0] == TOKENS.bos_token_id


def test_a_position_that_is_not_there_is_refused():
    with pytest.raises(PositionError, match="Position 9 does not exist"):
        contexts_of(["ab"], [9], TOKENS)


def test_each_row_has_its_text():
    assert text_of_each(None, None, 2) is None
    assert text_of_each("a", None, 2) == ["a", "a"]
    assert text_of_each(["a", "b"], None, 2) == ["a", "b"]
    assert text_of_each(["a", "b"], [0, 0, 1], 3) == ["a", "a", "b"]  # as Activations say
    with pytest.raises(InputError, match="2 texts and 3 activations"):
        text_of_each(["a", "b"], None, 3)
    with pytest.raises(InputError, match="text is a int; expected a text, a chat, or one for each"):
        text_of_each(3, None, 2)
    with pytest.raises(InputError, match="One of the texts is a int"):
        text_of_each(["a", 3], None, 2)


@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("xy")), max_size=6), st.booleans())
def test_a_partner_says_something_else_of_another_text_and_is_found_where_there_is_one(rows, known):
    words, texts = [one for one, _ in rows], [one for _, one in rows]
    for row, partner in enumerate(partners_of(words, texts if known else None)):
        fit = [at for at in range(len(rows)) if words[at] != words[row] and (not known or texts[at] != texts[row])]
        assert (partner is None) == (not fit) and (partner is None or partner in fit)
