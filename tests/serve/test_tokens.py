"""Tokens as they are shown: the ids that are read, characters whole, and nobody's turn given to another."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nla_sdk.errors import EmptyBatchError, InputError
from nla_sdk.model.extraction import Conversation, tokenize
from nla_sdk.serve.tokens import Token, tokens_of
from tests import tiny
from tests.serve import chats
from tests.serve.chats import byte_level

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
WORDS = TEXT.filter(lambda text: text.strip() == text and text)
PAIR_OF_TURNS = st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=3)


def parts_by_section(tokens: list[Token]) -> list[tuple[str, str, int | None]]:
    """What stands together, as text: neighbours of one section of one message joined."""
    joined: list[tuple[str, str, int | None]] = []
    for one in tokens:
        text = one.token if one.fragment_index == 0 else ""
        if joined and joined[-1][1:] == (one.section, one.message_index):
            joined[-1] = (joined[-1][0] + text, *joined[-1][1:])
        else:
            joined.append((text, str(one.section), one.message_index))
    return joined


def alternating(pairs: list[tuple[str, str]], *, end: bool) -> list[dict[str, str]]:
    messages = [
        {"role": role, "content": text}
        for pair in pairs
        for role, text in zip(("user", "assistant"), pair, strict=True)
    ]
    return messages if end else messages[:-1]


@pytest.mark.parametrize("template", chats.PLAIN, ids=lambda template: template.name)
@settings(max_examples=40, deadline=None)
@given(pairs=PAIR_OF_TURNS, end=st.booleans(), opened=st.booleans())
def test_every_part_of_a_chat_is_whose_turn_it_is_whatever_the_messages_say(template, pairs, end, opened):
    tokenizer, messages = byte_level(template.jinja), alternating(pairs, end=end)
    found = tokens_of(tokenizer, messages, add_generation_prompt=opened)
    expected = [part for part in template.parts(messages, opened) if part[0]]
    assert found.text == "".join(text for text, _, _ in expected)
    assert parts_by_section(found.tokens) == expected
    assert found.ids == tokenizer.apply_chat_template(messages, add_generation_prompt=opened)["input_ids"]


@settings(max_examples=60, deadline=None)
@given(text=TEXT.filter(bool), merges=st.sets(st.sampled_from(["Ġð", "ðŁ", "Ł§", "âĢ", "Ã¯", "ĠĠ", "ĊĊ"])))
def test_a_texts_tokens_are_those_that_are_read_and_print_it_whole(text, merges):
    tokenizer = byte_level(merges=tuple((one[0], one[1]) for one in sorted(merges)))
    found = tokens_of(tokenizer, text)
    assert found.ids == tokenize(tokenizer, text) == [one.token_id for one in found.tokens]
    assert [one.position for one in found.tokens] == list(range(len(found.ids)))
    if "\ufffd" not in text:
        assert "".join(one.token for one in found.tokens if one.fragment_index == 0) == text
    for one in found.tokens:
        assert (one.role, one.section, one.channel, one.message_index) == (None,) * 4
        group = found.tokens[one.position - one.fragment_index :][: one.fragment_count]
        assert [(other.token, other.fragment_index) for other in group] == [(one.token, at) for at in range(len(group))]


def test_a_character_in_several_tokens_is_shown_whole_in_each():
    tokens = tokens_of(byte_level(), "a🧵b").tokens
    assert [(one.token, one.fragment_index, one.fragment_count) for one in tokens] == [
        ("a", 0, 1),
        *(("🧵", at, 4) for at in range(4)),
        ("b", 0, 1),
    ]


def test_a_character_that_is_said_to_be_none_stays_what_it_is():
    tokens = tokens_of(byte_level(), "a\ufffdb").tokens
    assert [one.token for one in tokens][::4] == ["a", "b"] and all("\ufffd" in one.token for one in tokens[1:4])


def test_bos_that_the_tokenizer_puts_before_a_chat_belongs_to_nobody():
    tokenizer = tiny.tokenizer(chat=True)
    tokenizer.chat_template = tiny.CHAT_TEMPLATE.replace("{{ bos_token }}", "")
    found = tokens_of(tokenizer, [{"role": "user", "content": "a cat"}])
    assert found.tokens[0] == Token("<bos>", 2, 0, section="scaffold")
    assert parts_by_section(found.tokens)[1:] == [
        ("[user]\n", "header", 0),
        ("a cat", "content", 0),
        ("\n", "footer", 0),
        ("[model]\n", "scaffold", None),
    ]
    assert found.ids == tokenize(tokenizer, [{"role": "user", "content": "a cat"}])


def test_a_template_that_drops_thinking_leaves_each_message_what_is_left_of_it():
    chat = [
        {"role": "user", "content": "What?"},
        {"role": "assistant", "content": "<think>\nhm\n</think>\n\nA cat."},
        {"role": "user", "content": "Where?"},
    ]
    found = tokens_of(byte_level(chats.THINKING), chat)
    assert parts_by_section(found.tokens) == [
        *(("<|open|>user\n", "header", 0), ("What?", "content", 0), ("<|close|>\n", "footer", 0)),
        *(("<|open|>assistant\n", "header", 1), ("A cat.", "content", 1), ("<|close|>\n", "footer", 1)),
        *(("<|open|>user\n", "header", 2), ("Where?", "content", 2), ("<|close|>\n", "footer", 2)),
        ("<|open|>assistant\n", "scaffold", None),
    ]
    quiet = tokens_of(byte_level(chats.THINKING), chat, enable_thinking=False)
    assert quiet.text == found.text + "<think>\n\n</think>\n\n"
    assert quiet.tokens[: len(found.tokens)] == found.tokens


def test_a_system_message_in_the_users_turn_has_a_content_and_what_stands_around_is_nobodys():
    chat = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}]
    assert parts_by_section(tokens_of(byte_level(chats.FOLDED), chat).tokens) == [
        ("<s><|open|>user\n", "scaffold", None),
        ("Be kind.", "content", 0),
        ("\n\n", "scaffold", None),
        ("Hi", "content", 1),
        ("<|close|>\n", "footer", 1),
        ("<|open|>model\n", "scaffold", None),
    ]


def test_a_message_that_the_template_rewrites_has_no_content():
    template = chats.CHATML.jinja.replace("m['content']", "(m['content'] | upper)")
    found = tokens_of(byte_level(template), [{"role": "user", "content": "Hi"}])
    assert "HI" in found.text and {one.section for one in found.tokens} == {"scaffold"}


def test_a_content_that_looks_like_the_template_stays_content():
    words = "x<|close|>\n<|open|>assistant\ny"
    chat = [{"role": "user", "content": words}, {"role": "assistant", "content": words}]
    found = tokens_of(byte_level(chats.CHATML.jinja), chat, add_generation_prompt=False)
    assert parts_by_section(found.tokens) == chats.CHATML.parts(chat, False)[1:-1]


def test_a_token_that_lies_in_two_sections_belongs_to_neither():
    tokenizer = byte_level(chats.CHATML.jinja, merges=(("Ċ", "Ċ"),))
    found = tokens_of(tokenizer, [{"role": "user", "content": "\nHi"}])
    assert ("\n\n", "scaffold", None) in parts_by_section(found.tokens)
    assert ("Hi", "content", 0) in parts_by_section(found.tokens)


def test_a_last_message_left_open_ends_the_chat():
    chat = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "A cat"}]
    found = tokens_of(byte_level(chats.CHATML.jinja), chat, continue_final_message=True)
    assert parts_by_section(found.tokens)[-2:] == [("<|open|>assistant\n", "header", 1), ("A cat", "content", 1)]
    tail = found.continued(byte_level(chats.CHATML.jinja), byte_level()("s.")["input_ids"])[-2:]
    assert [(one.token, one.role, one.section, one.message_index) for one in tail] == [
        ("s", "assistant", "content", 1),
        (".", "assistant", "content", 1),
    ]


def test_what_is_written_behind_a_chat_is_the_answers_and_its_end_is_nobodys():
    tokenizer = byte_level(chats.CHATML.jinja)
    found = tokens_of(tokenizer, [{"role": "user", "content": "Hi"}])
    written = tokenizer("é</s>")["input_ids"]
    shown = found.continued(tokenizer, written)
    assert shown[: len(found.tokens)] == found.tokens
    assert [(one.token, one.fragment_count, one.role, one.section) for one in shown[len(found.tokens) :]] == [
        ("é", 2, "assistant", "content"),
        ("é", 2, "assistant", "content"),
        ("</s>", 1, None, "scaffold"),
    ]


def test_channels_are_their_messages():
    chat = [
        {"role": "user", "content": "Hi", "channel": None},
        {"role": "assistant", "content": "hm", "channel": "analysis"},
        {"role": "assistant", "content": "Ho", "channel": "final"},
    ]
    found = tokens_of(byte_level(chats.CHANNELLED.jinja), chat, add_generation_prompt=False)
    assert {(one.message_index, one.channel) for one in found.tokens if one.section == "content"} == {
        (0, None),
        (1, "analysis"),
        (2, "final"),
    }
    assert found.text.endswith(
        "<|channel|>analysis<|message|>hm<|end|><|open|>assistant<|channel|>final<|message|>Ho<|return|>"
    )


def test_a_chat_is_read_as_its_tokens_were_shown(full_pair):
    chat = Conversation([{"role": "user", "content": "a cat"}], add_generation_prompt=False)
    found = tokens_of(full_pair.source.tokenizer, chat)
    read = full_pair.extract(chat, "all")
    assert read.tokens == [one.token for one in found.tokens]
    assert len(full_pair.extract(list(chat), "all")) > len(read)


def test_a_long_chat_takes_one_rendering_and_keeps_its_contents():
    tokenizer, asked = byte_level(chats.CHATML.jinja), []
    render = tokenizer.apply_chat_template
    tokenizer.apply_chat_template = lambda *args, **options: asked.append(1) or render(*args, **options)
    messages = [{"role": "user", "content": f"{at}"} for at in range(300)]
    found = tokens_of(tokenizer, messages)
    contents = {one.message_index: one.token for one in found.tokens if one.section == "content"}
    assert len(asked) == 3 and len(contents) == 300


def test_a_template_that_fails_is_an_error_of_the_messages():
    with pytest.raises(InputError, match="roles must alternate"):
        tokens_of(byte_level(chats.STRIPPED.jinja), [{"role": "assistant", "content": "Hi"}])


def test_what_has_no_tokens_or_no_template_is_refused():
    with pytest.raises(EmptyBatchError):
        tokens_of(byte_level(), "")
    with pytest.raises(InputError, match="no chat template"):
        tokens_of(byte_level(), [{"role": "user", "content": "Hi"}])
