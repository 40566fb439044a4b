"""The AV's prompt whole: markers, fields, chat, thinking, BOS and the beginning of the answer, exactly as stated."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nla_sdk.contract import Contract
from nla_sdk.errors import (
    ContractError,
    ContractMismatchError,
    InputError,
    MarkerError,
    TextError,
    UnseenValueError,
    UnstatedFactError,
)
from tests.contract.prompts import samples
from tests.contract.samples import AV, CHAT, drop, ids_of, quick, tokenizer

ORACLE = drop(AV, "injection_scale") | {
    "av_template": samples.AO,
    "injection_char": " ?",
    "prompt_style": "chat",
    "enable_thinking": False,
    "layer": 9,
    "layers": [9, 18, 27],
    "fields": {"layer": {}, "question": {"default": "What is it about ?"}},
    "injection": samples.ADD_AT_1 | {"markers": "any"},
}
QUESTION = " ?", "Is it ? ? ?", "{injection_char} {layer} {question}", "Which language?", "a\n\nb {0.__class__}"


def qwen(chat=samples.QWEN3, **options):
    """No BOS; ` ?` is one token."""
    return tokenizer(bos=None, chat=chat, merges=[(" ", "?")], **options)


def kitft(**changes):
    return Contract.from_dict(AV | {"av_template": samples.KITFT, "prompt_style": "chat"} | changes)


def test_the_censuss_template_is_the_published_one():
    assert len(samples.KITFT) == 520
    assert hashlib.sha256(samples.KITFT.encode()).hexdigest().startswith("054c09450507")


# --- byte for byte --------------------------------------------------------------------------------------------------
FILLED = samples.KITFT.replace("{injection_char}", "㊗")


@pytest.mark.parametrize(
    ("chat", "bos", "changes", "expected"),
    [
        (
            samples.QWEN25,
            None,
            {},
            f"<turn>system\nYou are Lm, created by Owner.<turn>\n<turn>user\n{FILLED}<turn>\n<turn>assistant\n",
        ),
        (
            samples.QWEN25,
            None,
            {"system": "Be brief."},
            f"<turn>system\nBe brief.<turn>\n<turn>user\n{FILLED}<turn>\n<turn>assistant\n",
        ),
        (
            samples.QWEN25,
            None,
            {"system": ""},
            f"<turn>system\n<turn>\n<turn>user\n{FILLED}<turn>\n<turn>assistant\n",
        ),
        (samples.QWEN3, None, {}, f"<turn>user\n{FILLED}<turn>\n<turn>assistant\n"),
        (
            samples.QWEN3,
            None,
            {"enable_thinking": False},
            f"<turn>user\n{FILLED}<turn>\n<turn>assistant\n<think>\n\n</think>\n\n",
        ),
        (samples.QWEN3, None, {"enable_thinking": True}, f"<turn>user\n{FILLED}<turn>\n<turn>assistant\n"),
        (samples.QWEN36, None, {}, f"<turn>user\n{FILLED}<turn>\n<turn>assistant\n<think>\n"),
        (
            samples.QWEN36,
            None,
            {"enable_thinking": False, "prefill": "<explanation>\n"},
            f"<turn>user\n{FILLED}<turn>\n<turn>assistant\n<think>\n\n</think>\n\n<explanation>\n",
        ),
        (samples.GEMMA, "<bos>", {}, f"<bos><turn>user\n{FILLED}<turn>\n<turn>model\n"),
        (
            samples.LLAMA,
            "<bos>",
            {},
            f"<bos><turn>system\n\nToday Date: 26 Jul 2024\n\n<turn><turn>user\n\n{FILLED}<turn><turn>assistant\n\n",
        ),
        (CHAT, "<bos>", {"bos": True}, f"<bos><turn>user\n{FILLED}<turn>\n<turn>model\n"),
        (CHAT, "<bos>", {"bos": False}, f"<turn>user\n{FILLED}<turn>\n<turn>model\n"),
        (None, "<bos>", {"prompt_style": "raw", "bos": True}, f"<bos>{FILLED}"),
        (None, "<bos>", {"prompt_style": "raw", "bos": False}, FILLED),
        (None, "<bos>", {"prompt_style": "raw", "prefill": "\n\n<explanation>"}, f"<bos>{FILLED}\n\n<explanation>"),
    ],
)
@pytest.mark.parametrize("adds", ["$A", "<bos> $A"])
def test_the_prompt_is_the_one_that_was_trained_byte_for_byte(chat, bos, changes, expected, adds):
    live = tokenizer(bos, adds=adds if bos else "$A", chat=chat, characters=[*map(chr, range(32, 127)), "\n", "㊗"])
    contract = kitft(**changes)
    prompt = contract.prompt(live)
    assert live.decode(prompt.ids, skip_special_tokens=False) == expected
    assert list(prompt.ids) == ids_of(live, expected)
    assert prompt.positions == (prompt.ids.index(live.convert_tokens_to_ids("㊗")),)
    verified = contract.verify(live)
    assert verified.prompt(live) == prompt and list(prompt.ids) == verified.av_prompt_ids(live)
    assert verified.find_marker(prompt.ids) == prompt.marker


def test_a_prefill_is_tokenised_with_what_it_is_appended_to():
    live = tokenizer(bos=None, chat=CHAT, merges=[("\n", "\n")])
    ids = kitft(prefill="\nYes").av_prompt_ids(live)
    assert ids[-4:] == live.convert_tokens_to_ids(["\n\n", "Y", "e", "s"])
    text = live.decode(ids)
    assert text.endswith("<turn>model\n\nYes") and ids == ids_of(live, text)


# --- BOS as it is stated ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("chat", "given", "files", "refused"),
    [
        (None, {"prompt_style": "raw"}, {}, True),
        (None, {}, {"prompt_style": "raw"}, True),
        (None, {"prompt_style": "raw", "bos": False}, {}, False),
        (CHAT, {"prompt_style": "chat"}, {}, True),
        (CHAT, {}, {"prompt_style": "chat"}, True),
        (CHAT, {"prompt_style": "chat", "bos": True}, {}, False),
        (samples.GEMMA, {"prompt_style": "chat"}, {}, False),
    ],
)
def test_a_style_that_others_state_says_nothing_of_bos_where_the_tokenizer_has_one(chat, given, files, refused):
    contract = Contract.from_dict(drop(AV, "prompt_style"), given=given, found=files)
    live = tokenizer(chat=chat)
    if refused:
        for ask in (contract.verify, contract.prompt):
            with pytest.raises(
                UnstatedFactError, match=r"`bos` is not stated: whether the AV's prompt begins with BOS"
            ):
                ask(live)
    else:
        assert contract.verify(live).av_prompt_ids(live).count(1) == given.get("bos", True)
    without = tokenizer(bos=None, chat=chat)
    if contract.bos is None:
        assert contract.verify(without)


@pytest.mark.parametrize("style", ["raw", "chat"])
def test_our_own_files_mean_bos_once_where_the_tokenizer_has_one(style):
    live = tokenizer(chat=CHAT)
    assert Contract.from_dict(AV | {"prompt_style": style}).verify(live).av_prompt_ids(live)[0] == 1


def test_a_chat_template_of_a_known_release_that_writes_no_bos_is_asked_about():
    live = tokenizer(chat=CHAT)
    contract = Contract.from_dict(drop(AV, "prompt_style"), known={"prompt_style": "chat"})
    with pytest.raises(UnstatedFactError, match="`bos`"):
        contract.verify(live)


def test_a_bos_that_cannot_be_as_stated_is_refused():
    with pytest.raises(ContractMismatchError, match="`bos` is true, but the tokenizer has no BOS"):
        kitft(bos=True).verify(qwen())
    with pytest.raises(ContractMismatchError, match="`bos` is false, but the tokenizer's chat template writes BOS"):
        kitft(bos=False).verify(tokenizer(chat=samples.GEMMA))
    with pytest.raises(ContractMismatchError, match="AV prompt holds BOS 1 times, not at all"):
        Contract.from_dict(AV | {"bos": False, "av_template": "x <bos> <c>{injection_char}</c>"}).verify(tokenizer())


# --- system ---------------------------------------------------------------------------------------------------------
def test_a_system_message_that_the_chat_template_drops_or_refuses_is_named():
    dropping = "{% for m in messages %}{% if m['role'] == 'user' %}{{ m['content'] }}{% endif %}{% endfor %}"
    with pytest.raises(ContractMismatchError, match="drops the `system` message"):
        kitft(system="Be brief.").verify(tokenizer(bos=None, chat=dropping))
    with pytest.raises(ContractMismatchError, match="drops the `system` message"):  # the prompt has this word too
        kitft(system="vector").verify(tokenizer(bos=None, chat=dropping))
    with pytest.raises(ContractMismatchError, match="chat template fails.*System role not supported"):
        kitft(system="Be brief.").verify(tokenizer(chat=samples.GEMMA))


@pytest.mark.parametrize("chat", ["nothing of it", "{{ messages[0]['content'][:40] }}"])
def test_a_chat_template_that_loses_the_message_is_refused(chat):
    with pytest.raises(ContractMismatchError, match="leaves the user's message out, or changes it around the marker"):
        kitft().prompt(tokenizer(bos=None, chat=chat))


# --- several markers, and a question ----------------------------------------------------------------------------------
@quick
@given(
    markers=st.integers(1, 7),
    question=st.sampled_from(QUESTION) | st.text(alphabet="ab ?{}\n", min_size=1).filter(str.strip),
    layer=st.sampled_from([9, 18, 27]),
    chat=st.sampled_from([samples.QWEN25, samples.QWEN3, samples.QWEN36]),
)
def test_an_oracle_gets_as_many_markers_as_vectors_and_the_question_as_it_is(markers, question, layer, chat):
    live = qwen(chat)
    contract = Contract.from_dict(ORACLE).verify(live)
    fields = contract.field_values(layer=layer, question=question)
    prompt = contract.prompt(live, markers=markers, fields=fields)
    said = f"<turn>user\nLayer: {layer}\n{' ?' * markers} \n{question}<turn>\n<turn>assistant\n"
    text = live.decode(prompt.ids, skip_special_tokens=False)
    assert said in text and list(prompt.ids) == ids_of(live, text)
    first = len(ids_of(live, text[: text.index(f"Layer: {layer}\n") + len(f"Layer: {layer}\n")]))
    assert prompt.positions == tuple(range(first, first + markers))
    assert {prompt.ids[position] for position in prompt.positions} == {contract.injection_token_id}


def test_an_oracle_without_a_question_asks_its_default_one():
    live = qwen()
    contract = Contract.from_dict(ORACLE).verify(live)
    assert contract.asks
    assert contract.prompt(live) == contract.prompt(live, fields=contract.field_values())
    assert "Layer: 9\n ? \nWhat is it about ?<turn>" in live.decode(contract.av_prompt_ids(live))


@pytest.mark.parametrize("control", ["<turn>", "<eos>"])
def test_a_question_that_would_end_the_turn_is_refused(control):
    contract = Contract.from_dict(ORACLE)
    fields = contract.field_values(question=f"Say it.{control}\nuser")
    with pytest.raises(InputError, match=f"the question holds '{control}', which the tokenizer reads as a control"):
        contract.prompt(qwen(), fields=fields)


@pytest.mark.parametrize("question", ["", "  ", 5])
def test_a_question_is_a_text(question):
    with pytest.raises(InputError, match="the question is .*; expected a text"):
        Contract.from_dict(ORACLE).field_values(question=question)


def test_a_question_with_half_a_character_is_refused():
    with pytest.raises(TextError, match="half a surrogate pair"):
        Contract.from_dict(ORACLE).field_values(question="a\ud83d")


def test_a_question_before_the_markers_that_holds_their_token_is_refused():
    live = qwen()
    contract = Contract.from_dict(ORACLE | {"av_template": "Layer {layer}. {question}:\n{injection_char}"}).verify(live)
    assert contract.prompt(live, fields={"question": "Which?"}).positions
    with pytest.raises(MarkerError, match="also stands in the text before its place"):
        contract.prompt(live, fields={"question": "Is it ?"})


def test_a_question_that_begins_with_the_marker_beside_it_is_refused():
    contract = Contract.from_dict(ORACLE | {"av_template": "Layer {layer}:\n{injection_char}{question}"}).verify(qwen())
    assert contract.injection_right_neighbor_id is None, "another question, another neighbour"
    with pytest.raises(MarkerError, match="occurs 3 times in the prompt of .* tokens; expected exactly 2 times"):
        contract.prompt(qwen(), markers=2, fields={"question": " ? or not"})


@pytest.mark.parametrize(("stated", "markers"), [(3, 2), (3, 4), ("any", 0), (1, 2)])
def test_another_number_of_vectors_than_was_trained_is_refused(stated, markers):
    contract = Contract.from_dict(ORACLE | {"injection": samples.ADD_AT_1 | {"markers": stated}})
    with pytest.raises(InputError, match=r"vectors for one prompt; expected .* \(`injection\.markers`\)"):
        contract.prompt(qwen(), markers=markers)


def test_a_stated_number_of_markers_is_the_default_and_follows_from_the_layers():
    live = tokenizer()
    layers = AV | {"av_template": "x{injection_char}y", "injection": {"layers": [3, 5, 23]}}
    contract = Contract.from_dict(layers).verify(live)
    assert contract.injection_markers == 3
    assert live.decode(contract.prompt(live).ids[1:]) == "x㊗㊗㊗y" == contract.av_prompt()
    assert contract.find_marker(contract.av_prompt_ids(live)) == 2


def test_markers_that_merge_with_each_other_are_refused_when_several_may_stand_there():
    live = tokenizer(merges=[("㊗", "㊗")])
    one = AV | {"injection_char": "㊗"}
    assert Contract.from_dict(one).verify(live)
    with pytest.raises(ContractMismatchError, match="occurs 0 times in the AV prompt, not 2 times side by side"):
        Contract.from_dict(one | {"injection": {"markers": "any"}}).verify(live)


def test_a_marker_that_the_cards_print_and_the_tokenizer_splits_is_refused():
    """As Qwen2.5 does with the ㈀ of a published card: its first half alone would be overwritten."""
    live = tokenizer(bos=None, characters=[*CHAT, "Ã", "ã"])
    with pytest.raises(ContractMismatchError, match="is 2 tokens, not one"):
        Contract.from_dict(AV | {"injection_char": "Ãã"}).verify(live)


# --- depth ----------------------------------------------------------------------------------------------------------
def test_the_depth_stands_in_the_prompt_as_it_was_trained():
    live = tokenizer(bos=None, chat=samples.QWEN25)
    contract = kitft(av_template=samples.DEPTH, prompt_style="raw", fields={"depth": {"rule": "middle"}}, layer=20)
    text = live.decode(contract.prompt(live, fields=contract.field_values(num_blocks=28)).ids)
    assert text == samples.DEPTH.replace("{depth}", "73").replace("{injection_char}", "㊗")
    assert contract.verify(live).injection_char == "㊗"
    with pytest.raises(InputError, match="depth.* cannot be computed without the number of blocks"):
        contract.prompt(live)


def test_a_field_passed_with_a_value_that_was_never_trained_is_refused():
    contract = kitft(av_template=samples.DEPTH, fields={"depth": {"rule": "start", "values": [25, 73]}})
    live = tokenizer(bos=None, chat=samples.QWEN25)
    assert contract.prompt(live, fields={"depth": "25"})
    with pytest.raises(UnseenValueError, match="depth '71' was never trained; expected one of 25, 73"):
        contract.prompt(live, fields={"depth": "71"})
    with pytest.raises(InputError, match=r"no field \{question\}; depth can be filled"):
        contract.prompt(live, fields={"question": "Why?"})


def test_what_only_a_chat_has_is_refused_of_a_raw_prompt():
    for name, value in (("system", "Be brief."), ("enable_thinking", False)):
        contract = Contract.from_dict(AV | {name: value})
        with pytest.raises(ContractError, match=f"`{name}` is stated, but `prompt_style` is raw"):
            contract.prompt(tokenizer())
