"""A contract against the live tokenizer: what does not fit is refused with both sides shown."""

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from nla_sdk.contract import Contract
from nla_sdk.errors import ContractMismatchError
from tests.contract.samples import AR, AV, CHARACTERS, CHAT, drop, ids_of, tokenizer


def test_a_chat_template_may_use_bos_as_its_turn_delimiter():
    live = tokenizer(bos="<turn>", chat=CHAT)
    ids = Contract.from_dict(AV | {"prompt_style": "chat"}).verify(live).av_prompt_ids(live)
    assert ids[0] == 3
    assert ids[1] != 3


@pytest.mark.parametrize("style", ["raw", "chat"])
def test_bos_inside_the_template_is_refused(style):
    live = tokenizer(adds="<bos> $A", chat="<bos>" + CHAT)
    contract = Contract.from_dict(AV | {"prompt_style": style, "av_template": "x <bos> <c>{injection_char}</c>"})
    with pytest.raises(ContractMismatchError, match="AV prompt holds BOS 2 times"):
        contract.verify(live)


def test_verify_completes_the_contract_and_says_so():
    live = tokenizer(merges=[("<", "/")])
    contract = Contract.from_dict(AV)
    verified = contract.verify(live)
    marker, left, right = (live.convert_tokens_to_ids(token) for token in ("㊗", ">", "</"))
    assert verified.injection_token_id == marker
    assert (verified.injection_left_neighbor_id, verified.injection_right_neighbor_id) == (left, right)
    assert verified.origins["injection_token_id"] == verified.origins["injection_left_neighbor_id"] == "derived"
    assert verified.origins["injection_char"] == "sidecar"
    assert contract.injection_token_id is None
    assert verified.verify(live) is verified


def test_the_marker_is_derived_from_its_token_id():
    live = tokenizer()
    contract = Contract.from_dict(drop(AV, "injection_char") | {"injection_token_id": live.convert_tokens_to_ids("㊗")})
    assert contract.av_prompt_ids(live) == Contract.from_dict(AV).av_prompt_ids(live)
    assert contract.verify(live).injection_char == "㊗"


def test_the_marker_of_a_byte_level_tokenizer_is_derived_as_text():
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    first, second = pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str("§")[0][0]
    vocab = {token: index for index, token in enumerate([*alphabet, first + second])}
    backend = Tokenizer(models.BPE(vocab=vocab, merges=[(first, second)]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    live = PreTrainedTokenizerFast(tokenizer_object=backend)
    contract = Contract.from_dict(drop(AV, "injection_char") | {"injection_token_id": vocab[first + second]}).verify(
        live
    )
    assert contract.injection_char == "§"
    with pytest.raises(ContractMismatchError, match="is 3 tokens, not one"):
        Contract.from_dict(AV).verify(live)


@pytest.mark.parametrize("token", [10**6, 0])
def test_a_token_id_that_stands_for_no_text_is_refused(token):
    live = tokenizer()
    with pytest.raises(ContractMismatchError, match=f"{token}"):
        Contract.from_dict(drop(AV, "injection_char") | {"injection_token_id": token}).verify(live)


def test_a_marker_the_tokenizer_does_not_know_is_refused():
    live = tokenizer(characters=[character for character in CHARACTERS if character != "㊗"])
    with pytest.raises(ContractMismatchError, match=r"'㊗' is unknown to the tokenizer.*0 '<unk>'"):
        Contract.from_dict(AV).verify(live)


def test_a_word_level_tokenizer_with_an_unknown_marker_is_refused():
    vocab = {word: index for index, word in enumerate(["<unk>", "Vector", ":", "<", "concept", ">", "</"])}
    backend = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    live = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")
    with pytest.raises(ContractMismatchError, match="unknown to the tokenizer"):
        Contract.from_dict(AV).verify(live)


def test_a_marker_of_two_tokens_is_refused_with_its_pieces():
    live = tokenizer()
    with pytest.raises(ContractMismatchError) as caught:
        Contract.from_dict(AV | {"injection_char": "ab", "injection_token_id": 7}, source="dir/nla_meta.yaml").verify(
            live
        )
    message = str(caught.value)
    a, b = live.convert_tokens_to_ids(["a", "b"])
    for word in (
        "dir/nla_meta.yaml",
        "is 2 tokens, not one",
        "Expected [7 '#']",
        f"found [{a} 'a', {b} 'b']",
        "owner/lm",
    ):
        assert word in message


def test_a_marker_with_another_token_id_is_refused_with_both():
    live = tokenizer()
    marker = live.convert_tokens_to_ids("㊗")
    with pytest.raises(ContractMismatchError, match=rf"Expected \[7 '#'\], found \[{marker} '㊗'\]"):
        Contract.from_dict(AV | {"injection_token_id": 7}).verify(live)


def test_a_marker_that_also_stands_elsewhere_in_the_template_is_refused():
    with pytest.raises(ContractMismatchError, match="occurs 2 times"):
        Contract.from_dict(AV | {"av_template": "㊗ marks <c>{injection_char}</c>"}).verify(tokenizer())


def test_a_marker_that_merges_with_its_neighbour_is_refused():
    with pytest.raises(ContractMismatchError, match=r"occurs 0 times.*'>㊗'"):
        Contract.from_dict(AV).verify(tokenizer(merges=[(">", "㊗")]))


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_wrong_neighbour_is_refused_with_both(side):
    live = tokenizer()
    with pytest.raises(
        ContractMismatchError, match=rf"another {side} neighbour. Expected \[7 '#'\], found \[\d+ '[<>]'\]"
    ):
        Contract.from_dict(AV | {f"injection_{side}_neighbor_id": 7}).verify(live)


def test_a_tokenizer_that_appends_eos_is_refused():
    live = tokenizer(adds="<bos> $A <eos>")
    with pytest.raises(ContractMismatchError, match=r"appends a token.*found \[2 '<eos>'\]"):
        Contract.from_dict(AV).verify(live)
    with pytest.raises(ContractMismatchError, match="ends in other tokens"):
        Contract.from_dict(AR).verify(live)


def test_the_suffix_ids_are_derived():
    live = tokenizer()
    contract = Contract.from_dict(AR).verify(live)
    assert contract.critic_suffix_ids == ids_of(live, contract.ar_suffix)
    assert contract.origins["critic_suffix_ids"] == "derived"


@pytest.mark.parametrize("dropped", [0, 1])
def test_a_suffix_whose_first_token_merges_with_a_full_stop_keeps_its_stable_rest(dropped):
    live = tokenizer(merges=[("<", "/"), (".", "</")])  # so does Gemma's: `.</` is one token
    suffix = ids_of(live, "</text> <summary>")
    assert Contract.from_dict(AR).verify(live).critic_suffix_ids == suffix[1:]
    given_ids = Contract.from_dict(AR | {"critic_suffix_ids": suffix[dropped:]})
    assert given_ids.verify(live) is given_ids


def test_other_suffix_ids_than_the_contract_says_are_refused():
    live = tokenizer()
    found = live.convert_tokens_to_ids(["y", ">"])
    with pytest.raises(ContractMismatchError) as caught:
        Contract.from_dict(AR | {"critic_suffix_ids": [7, found[1]]}).verify(live)
    assert f"Expected [7 '#', {found[1]} '>'], found [{found[0]} 'y', {found[1]} '>']" in str(caught.value)


def test_a_suffix_whose_last_token_depends_on_the_explanation_is_refused():
    live = tokenizer(merges=[(".", ">")])
    with pytest.raises(ContractMismatchError, match=r"'a cat\.' ends in other tokens"):
        Contract.from_dict(AR | {"ar_template": "{explanation}>"}).verify(live)


def test_a_template_that_ends_in_the_explanation_has_no_suffix():
    contract = Contract.from_dict(AR | {"ar_template": "about {explanation}"}).verify(tokenizer())
    assert (contract.ar_suffix, contract.critic_suffix_ids) == ("", None)


def test_a_token_of_a_prompt_beyond_the_models_embedding_is_refused_where_its_size_is_known():
    live = tokenizer()
    rows = len(live)
    marker = live.convert_tokens_to_ids("㊗")
    assert marker == rows - 1  # the last one, as Gemma 3's <image_soft_token> is
    for values in (AV, AR):
        contract = Contract.from_dict(values)
        assert contract.verify(live) == contract.verify(live, rows)
    with pytest.raises(
        ContractMismatchError, match=rf"AV prompt holds \[{marker} '㊗'\], .* its ids end at {rows - 2}"
    ):
        Contract.from_dict(AV).verify(live, rows - 1)
    assert Contract.from_dict(AR).verify(live, vocabulary=rows - 1).critic_suffix_ids
    with pytest.raises(ContractMismatchError, match="the AR prompt holds .* no embedding"):
        Contract.from_dict(AR).verify(live, 40)
