"""The exact prompts: BOS once, the marker found, the suffix never cut."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nla_sdk.contract import Contract
from nla_sdk.contract.prompts.av import unstated_prompt
from nla_sdk.errors import ContractError, ContractMismatchError, MarkerError, UnstatedPromptError
from tests.contract.samples import AR, AV, CHAT, drop, ids_of, quick, tokenizer


@quick
@given(explanation=st.text() | st.sampled_from(["{}", "{explanation}", "{0.__class__}", "a\n\n{b", "%s \\1 ㊗ 👍🏽"]))
def test_any_explanation_stands_in_the_prompt_as_it_is(explanation):
    contract = Contract.from_dict(AR)
    assert contract.ar_prompt(explanation) == f"Summary of: <text>{explanation}</text> <summary>"
    assert contract.ar_prompt(explanation) == contract.ar_prefix + explanation + contract.ar_suffix


def test_the_av_prompt_holds_the_marker_and_leaves_other_braces_alone():
    contract = Contract.from_dict(AV | {"av_template": '{"v": {injection_char}} {x}'})
    assert contract.av_prompt() == '{"v": ㊗} {x}'


@pytest.mark.parametrize("adds", ["<bos> $A", "$A", "<bos> <bos> $A"])
def test_a_raw_prompt_has_bos_exactly_once_whatever_the_tokenizer_adds(adds):
    live = tokenizer(adds=adds)
    av, ar = Contract.from_dict(AV), Contract.from_dict(AR)
    assert av.av_prompt_ids(live) == [1, *ids_of(live, av.av_prompt())]
    assert ar.ar_prompt_ids(live, "a{}") == ([1, *ids_of(live, ar.ar_prompt("a{}"))], False)
    av.verify(live)
    ar.verify(live)


def test_without_a_bos_none_is_put_there():
    live = tokenizer(bos=None)
    contract = Contract.from_dict(AV)
    assert contract.av_prompt_ids(live) == ids_of(live, contract.av_prompt())
    contract.verify(live)


@pytest.mark.parametrize(("bos", "chat"), [("<bos>", "<bos>" + CHAT), ("<bos>", CHAT), (None, CHAT)])
@pytest.mark.parametrize("adds", ["<bos> $A", "$A"])
def test_a_chat_prompt_has_bos_exactly_once_where_there_is_one(bos, chat, adds):
    live = tokenizer(bos, adds=adds, chat=chat)
    contract = Contract.from_dict(AV | {"prompt_style": "chat"})
    ids = contract.av_prompt_ids(live)
    rendered = ids_of(live, f"<turn>user\n{contract.av_prompt()}<turn>\n<turn>model\n")
    assert ids == ([1] if bos else []) + rendered
    assert ids.count(1) == (1 if bos else 0)
    assert contract.verify(live).find_marker(ids) == ids.index(live.convert_tokens_to_ids("㊗"))


def test_a_chat_contract_needs_a_chat_template():
    with pytest.raises(ContractMismatchError, match="no chat template"):
        Contract.from_dict(AV | {"prompt_style": "chat"}).av_prompt_ids(tokenizer())


@pytest.mark.parametrize("template", ["{{ raise_exception('roles') }}", "{{ messages.nothing.x }}", "{% bad %}"])
def test_a_chat_template_that_fails_is_named(template):
    contract = Contract.from_dict(AV | {"prompt_style": "chat"})
    with pytest.raises(ContractMismatchError, match="chat template fails on the AV prompt"):
        contract.av_prompt_ids(tokenizer(chat=template))


@pytest.mark.parametrize("absent", [{}, {"prompt_style": None}, {"prompt_style": []}])
def test_an_av_that_does_not_say_its_style_is_refused_and_both_are_shown(absent):
    with pytest.raises(UnstatedPromptError, match=r"raw: 'Vector: <concept>㊗</concept>'; chat: is the same text"):
        Contract.from_dict(drop(AV, "prompt_style") | absent)


@pytest.mark.parametrize(
    ("chat", "shown"),
    [
        (CHAT, r"chat: '<turn>user\\nVector: <concept>㊗</concept><turn>\\n<turn>model\\n'"),
        (None, "chat: is not possible: the tokenizer has no chat template"),
        ("{{ raise_exception('no') }}", r"chat: cannot be shown: the chat template fails \(TemplateError\)"),
    ],
)
def test_with_a_tokenizer_at_hand_the_chat_prompt_is_the_one_it_makes(chat, shown):
    error = unstated_prompt(Contract.from_dict(AV), tokenizer(chat=chat))
    assert re.search(shown, str(error)) and "raw: '<bos>Vector: <concept>" in str(error)


def test_of_a_long_prompt_both_ends_are_shown_and_a_terminal_is_not_flooded():
    template = "first words " + "x " * 5000 + "<concept>{injection_char}</concept> last words"
    with pytest.raises(UnstatedPromptError) as refused:
        Contract.from_dict(drop(AV, "prompt_style") | {"av_template": template})
    assert "first words" in str(refused.value) and "last words'" in str(refused.value)
    assert len(str(refused.value)) < 1500


def test_a_table_need_not_say_it_until_somebody_asks_for_a_prompt():
    live = tokenizer(chat=CHAT)
    table = Contract.from_dict(drop(AV, "prompt_style", "injection_scale", "role") | {"kind": "nla_dataset"})
    assert (table.prompt_style, table.injection_scale) == (None, None)
    assert table.verify(live).injection_token_id == live.convert_tokens_to_ids("㊗")
    with pytest.raises(UnstatedPromptError, match="<turn>user"):
        table.av_prompt_ids(live)


def test_find_marker_wants_it_once_and_between_its_neighbours():
    live = tokenizer()
    contract = Contract.from_dict(AV).verify(live)
    ids = contract.av_prompt_ids(live)
    at = contract.find_marker(ids)
    assert ids[at] == contract.injection_token_id
    assert contract.find_marker(tuple(ids)) == at
    with pytest.raises(MarkerError, match="occurs 2 times"):
        contract.find_marker(ids + ids)
    with pytest.raises(MarkerError, match="occurs 0 times"):
        contract.find_marker(ids[:at])
    with pytest.raises(MarkerError, match="left neighbour"):
        contract.find_marker([*ids[: at - 1], 5, *ids[at:]])
    with pytest.raises(MarkerError, match="has None as its right neighbour"):
        contract.find_marker(ids[: at + 1])
    with pytest.raises(ContractError, match="lacks `injection_token_id`"):
        Contract.from_dict(AV).find_marker(ids)


@quick
@given(
    explanation=st.text(alphabet="ab.</> \n", max_size=120),
    limit=st.integers(min_value=40, max_value=80),
    merges=st.sampled_from([(), (("<", "/"), (".", "</")), (("a", "b"), ("ab", "ab"))]),
)
def test_a_long_explanation_is_cut_and_the_suffix_never(explanation, limit, merges):
    live = tokenizer(adds="<bos> $A", merges=merges)
    contract = Contract.from_dict(AR | {"max_length": limit}).verify(live)
    suffix, prefix = contract.critic_suffix_ids, [1, *ids_of(live, contract.ar_prefix[:-1])]
    ids, cut = contract.ar_prompt_ids(live, explanation)
    whole = [1, *ids_of(live, contract.ar_prompt(explanation))]
    assert cut == (len(whole) > limit)
    assert len(ids) <= limit
    assert ids[-len(suffix) :] == suffix
    assert ids[: len(prefix)] == prefix
    if not cut:
        assert ids == whole
    elif not merges:
        assert len(ids) == limit, "no more than needed is cut"
    kept = live.decode(ids[1:]).removeprefix(contract.ar_prefix).removesuffix(contract.ar_suffix)
    assert explanation.startswith(kept)


def test_the_argument_overrides_the_contracts_max_length():
    live = tokenizer()
    contract = Contract.from_dict(AR | {"max_length": 50})
    assert contract.ar_prompt_ids(live, "a" * 99, max_length=200)[1] is False
    assert len(contract.ar_prompt_ids(live, "a" * 99, max_length=60)[0]) == 60
    assert Contract.from_dict(AR).ar_prompt_ids(live, "a" * 5000)[1] is False


def test_a_max_length_below_the_template_is_refused():
    with pytest.raises(ContractError, match="`max_length` 9 leaves no room"):
        Contract.from_dict(AR | {"max_length": 9}).ar_prompt_ids(tokenizer(), "abc")


class Counting:
    """A tokenizer that counts how often it is called."""

    def __init__(self, live):
        self.live, self.calls = live, 0

    def __call__(self, *args, **options):
        self.calls += 1
        return self.live(*args, **options)

    def __getattr__(self, name):
        return getattr(self.live, name)


def test_a_batch_is_one_call_and_equals_single_prompts():
    live = tokenizer(adds="<bos> $A")
    contract = Contract.from_dict(AR | {"max_length": 60})
    short, long = ["a cat.", "", "{}", "42"], "abc " * 50
    counting = Counting(live)
    assert contract.ar_prompt_ids_batch(counting, short) == [contract.ar_prompt_ids(live, text) for text in short]
    assert counting.calls == 1
    batch = contract.ar_prompt_ids_batch(live, [*short, long])
    assert batch[-1] == contract.ar_prompt_ids(live, long)
    assert [cut for _, cut in batch] == [False] * 4 + [True]
    assert contract.ar_prompt_ids_batch(live, []) == []
