"""The AR's prompt: BOS, chat, fields and marker as stated, what is cut, and where it reads."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nla_sdk.contract import Contract
from nla_sdk.errors import ContractError, ContractMismatchError, InputError, MarkerError, UnstatedFactError
from tests.contract.prompts import samples
from tests.contract.samples import AR, CHAT, ids_of, quick, tokenizer

TEXTS = ["a cat.", "", "{explanation} {depth}", "㊗ 42", "x" * 30]


def ar(template=samples.AR, **changes):
    return Contract.from_dict(AR | {"ar_template": template} | changes)


@pytest.mark.parametrize("adds", ["$A", "<bos> $A"])
@pytest.mark.parametrize("bos", [True, False])
def test_bos_is_there_exactly_as_stated_where_the_tokenizer_has_one(adds, bos):
    live, contract = tokenizer(adds=adds), ar(ar_bos=bos)
    for text, (ids, cut) in zip(TEXTS, contract.verify(live).ar_prompt_ids_batch(live, TEXTS), strict=True):
        assert (ids, cut) == ([1] * bos + ids_of(live, samples.AR.replace("{explanation}", text, 1)), False)
        assert contract.reading_position(ids) == len(ids) - 1
    without = tokenizer(bos=None)
    assert contract.ar_prompt_ids(without, "a")[0] == ids_of(
        without, "Summary of the following text: <text>a</text> <summary>"
    )


def test_an_ar_whose_bos_nobody_states_is_refused_where_the_tokenizer_has_one():
    said = {"role": "critic", "critic": {"num_hidden_layers": 17}, "ar_template": samples.AR, "ar_final_norm": "kept"}
    contract = Contract.from_dict({"base_model": "owner/lm", "d_model": 64, "layer": 17} | said)
    assert contract.ar_bos is None
    for ask in (contract.verify, lambda live: contract.ar_prompt_ids(live, "a")):
        with pytest.raises(
            UnstatedFactError, match=r"`ar\.bos` is not stated: whether the AR's prompt begins with BOS"
        ):
            ask(tokenizer())
    assert contract.verify(tokenizer(bos=None)).critic_suffix_ids
    assert Contract.from_dict({**AR}).ar_bos is True, "our own name for the depth means what our page says"
    corrected = Contract.from_dict(
        {"base_model": "owner/lm", "d_model": 64, "layer": 17} | said, given={"ar_num_blocks": 24}
    )
    assert (corrected.ar_num_blocks, corrected.ar_bos) == (24, None)


# --- chat -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("chat", "bos", "before", "after"),
    [
        (samples.QWEN25, None, "<turn>system\nYou are Lm, created by Owner.<turn>\n<turn>user\n", "<turn>\n"),
        (samples.QWEN36, None, "<turn>user\n", "<turn>\n"),
        (samples.GEMMA, "<bos>", "<bos><turn>user\n", "<turn>\n"),
        (CHAT.replace("{{ '<turn>model\\n' }}", ""), "<bos>", "<bos><turn>user\n", "<turn>\n"),
    ],
)
def test_a_chats_prompt_is_one_turn_without_an_opening_and_is_read_at_its_end(chat, bos, before, after):
    live = tokenizer(bos, chat=chat)
    contract = ar(ar={"prompt_style": "chat", "position": "turn"}).verify(live)
    for text, (ids, _) in zip(TEXTS, contract.ar_prompt_ids_batch(live, TEXTS), strict=True):
        assert ids == ids_of(live, before + samples.AR.replace("{explanation}", text, 1) + after)
        assert contract.reading_position(ids) == len(ids) - 1
    assert contract.critic_suffix_ids == ids_of(live, "</text> <summary>" + after)
    other = ar(ar={"prompt_style": "chat", "position": "turn"}, critic_suffix_ids=ids_of(live, "> <summary>"))
    assert other.verify(live).critic_suffix_ids == ids_of(live, "> <summary>"), "a file's ids may end with the template"


def test_an_ars_bos_that_cannot_be_as_stated_is_refused():
    contract = ar(ar={"prompt_style": "chat", "bos": False})
    with pytest.raises(
        ContractMismatchError, match=r"`ar\.bos` is false, but the tokenizer's chat template writes BOS"
    ):
        contract.verify(tokenizer(chat=samples.GEMMA))
    with pytest.raises(ContractMismatchError, match=r"`ar\.prompt_style` is chat, but the tokenizer has no chat"):
        contract.verify(tokenizer())


def test_a_turn_needs_a_chat():
    with pytest.raises(ContractError, match=r"`ar\.position` is turn, but `ar\.prompt_style` is raw"):
        ar(ar={"position": "turn"})


# --- the marker -----------------------------------------------------------------------------------------------------
def test_an_ar_that_reads_at_its_marker_finds_it_whatever_the_explanation_holds():
    live = tokenizer(bos=None)
    contract = ar(samples.AR_MARK, injection_char="㊗", ar={"position": "marker"}).verify(live)
    assert contract.injection_token_id == live.convert_tokens_to_ids("㊗")
    for ids, _ in contract.ar_prompt_ids_batch(live, TEXTS):
        assert contract.reading_position(ids) == len(ids) - 1
    behind = ar("{explanation}㊗ so", injection_char="㊗", ar={"position": "marker"}).verify(live)
    assert behind.reading_position(behind.ar_prompt_ids(live, "㊗ ㊗")[0]) == 3
    before = ar("㊗: {explanation}.", injection_char="㊗", ar={"position": "marker"}).verify(live)
    assert before.reading_position(before.ar_prompt_ids(live, "㊗ ㊗")[0]) == 0
    with pytest.raises(MarkerError, match="which the prompt of 3 tokens does not hold"):
        before.reading_position([5, 6, 7])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "no marker is stated"),
        ({"injection_char": "§"}, "holds '§' 0 times; expected exactly once"),
        ({"injection_char": "t"}, "holds 't' 8 times"),
    ],
)
def test_an_ar_that_reads_at_a_marker_has_one(changes, message):
    with pytest.raises(ContractError, match=message):
        ar(samples.AR_MARK, ar={"position": "marker"}, **changes)


def test_a_marker_that_merges_with_the_suffix_is_refused():
    with pytest.raises(ContractMismatchError, match="'㊗', where the AR reads, occurs 0 times in its prompt, not once"):
        ar(samples.AR_MARK, injection_char="㊗", ar={"position": "marker"}).verify(tokenizer(merges=[(">", "㊗")]))


# --- fields ---------------------------------------------------------------------------------------------------------
def test_an_ars_fields_are_filled_and_an_explanations_braces_are_not():
    live = tokenizer(bos=None)
    contract = ar(
        samples.AR_DEPTH,
        injection_char="㊗",
        ar={"position": "marker"},
        layer=20,
        layers="any",
        fields={"depth": {"rule": "middle"}},
    ).verify(live)
    fields = contract.field_values(num_blocks=28)
    ids, _ = contract.ar_prompt_ids(live, "{depth}", fields=fields)
    assert live.decode(ids) == "Summary of the following text from depth 73%: <text>{depth}</text> <summary>㊗"
    assert contract.ar_suffix == "</text> <summary>㊗"
    assert contract.critic_suffix_ids == ids_of(live, contract.ar_suffix)
    with pytest.raises(InputError, match="cannot be computed without the number of blocks"):
        contract.ar_prompt_ids(live, "a")


# --- what is cut ----------------------------------------------------------------------------------------------------
@quick
@given(text=st.text(alphabet="ab.</> ", max_size=90), limit=st.integers(52, 70), bos=st.booleans())
def test_what_is_too_long_is_cut_on_the_side_that_was_trained(text, limit, bos):
    live = tokenizer()
    plain = [1] * bos + ids_of(live, samples.AR.replace("{explanation}", text))
    for side in ("left", "right", "refuse"):
        contract = ar(max_length=limit, ar={"bos": bos, "truncation": side})
        if len(plain) <= limit:
            assert contract.ar_prompt_ids(live, text) == (plain, False)
        elif side == "refuse":
            with pytest.raises(InputError, match=f"in row 0 makes a prompt of {len(plain)} tokens.*none over {limit}"):
                contract.ar_prompt_ids_batch(live, [text, ""])
        elif side == "right":
            assert contract.ar_prompt_ids(live, text) == (plain[:limit], True)
        else:  # BOS stays in front: it is stated
            assert contract.ar_prompt_ids(live, text) == ([1] * bos + plain[bos - limit :], True)


def test_in_a_chat_the_explanations_end_is_cut_and_the_turn_stays_whole():
    live = tokenizer(bos=None, chat=samples.QWEN3)
    contract = ar(max_length=70, ar={"prompt_style": "chat", "position": "turn"}).verify(live)
    ids, cut = contract.ar_prompt_ids(live, "abc" * 40)
    assert cut and len(ids) == 70 and live.decode(ids).endswith("</text> <summary><turn>\n")


def test_a_marker_that_was_cut_away_is_named():
    live = tokenizer(bos=None)
    contract = ar(samples.AR_MARK, max_length=20, injection_char="㊗", ar={"position": "marker", "truncation": "right"})
    contract = contract.verify(live)
    with pytest.raises(MarkerError, match=r"does not hold.*raise `max_length` if it was cut off"):
        contract.reading_position(ids_of(live, "a prompt without it"))
    before = ar(
        "㊗ of {explanation}", max_length=20, injection_char="㊗", ar={"position": "marker", "truncation": "left"}
    )
    for one in (contract, before.verify(live)):  # an explanation's own marker is not read in its place
        for text in ("a" * 40, "㊗" * 40):
            with pytest.raises(MarkerError, match=r"`ar.truncation: (left|right)` cuts off a prompt of \d+ tokens"):
                one.ar_prompt_ids(live, text)
