"""The fields of a template: what may stand in them, and that nothing else is replaced."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nla_sdk.contract import Contract
from nla_sdk.errors import ContractError, InputError, LayerError, NotAnOracleError, UnseenValueError
from tests.contract.prompts import samples
from tests.contract.samples import AR, AV, quick

TRAINED = [4, 10, 17, 25, 32, 40, 47, 55, 63, 71, 80, 90, 96]


def with_depth(rule, **changes):
    return Contract.from_dict(AV | {"av_template": samples.DEPTH, "fields": {"depth": rule}, "layers": "any"} | changes)


@quick
@given(blocks=st.integers(1, 96), data=st.data())
def test_a_depth_is_the_percentage_by_the_rule_that_was_trained(blocks, data):
    layer = data.draw(st.integers(0, blocks - 1))
    start = with_depth({"rule": "start"}).field_values(layer=layer, num_blocks=blocks)
    middle = with_depth({"rule": "middle"}).field_values(layer=layer, num_blocks=blocks)
    assert start == {"depth": str(round(100 * layer / blocks))}
    assert middle == {"depth": str(round(100 * (layer + 0.5) / blocks))}
    nearest = with_depth({"rule": "start", "values": TRAINED, "nearest": True})
    [depth] = map(int, nearest.field_values(layer=layer, num_blocks=blocks).values())
    away = [abs(value - 100 * layer / blocks) for value in TRAINED]
    assert depth == TRAINED[away.index(min(away))]


def test_the_two_rules_of_one_family_differ_and_a_value_that_was_never_trained_is_refused():
    """nla-at-home on phi-4: the command line makes 41 of block 16, training knew 40."""
    trained = with_depth({"rule": "start", "values": TRAINED, "nearest": True})
    assert trained.field_values(layer=16, num_blocks=40) == {"depth": "40"}
    shown = with_depth({"rule": "middle", "values": TRAINED})
    with pytest.raises(UnseenValueError, match="depth '41' was never trained; expected one of 4, 10, 17"):
        shown.field_values(layer=16, num_blocks=40)


def test_the_number_of_blocks_may_be_the_contracts():
    assert with_depth({"rule": "middle", "blocks": 28}).field_values(layer=20, num_blocks=62) == {"depth": "73"}
    with pytest.raises(InputError, match=r"cannot be computed without the number of blocks \(num_blocks=\)"):
        with_depth({"rule": "middle"}).field_values(layer=20)


def test_a_default_stands_there_until_a_layer_is_said():
    contract = with_depth({"rule": "start", "default": 73})
    assert contract.field_values(num_blocks=40) == {"depth": "73"}
    assert contract.field_values(layer=10, num_blocks=40) == {"depth": "25"}


def test_only_layers_that_it_may_read_are_taken():
    contract = Contract.from_dict(AV | {"layer": 9, "layers": [9, 18, 27]})
    assert contract.field_values(layer=18, num_blocks=36) == {}
    with pytest.raises(UnseenValueError, match="layer 10 was never trained; it reads 9, 18, 27"):
        contract.field_values(layer=10)
    with pytest.raises(LayerError, match="Layer 36 does not exist: layers run from 0 to 35"):
        contract.field_values(layer=36, num_blocks=36)
    with pytest.raises(LayerError, match="Layer -1 does not exist"):
        contract.field_values(layer=-1)
    with pytest.raises(InputError, match="layer is True"):
        contract.field_values(layer=True)
    with pytest.raises(UnseenValueError, match="it reads 23"):
        Contract.from_dict(AV).field_values(layer=22)
    with pytest.raises(ContractError, match=r"`layer` 23 is none of its `layers` \[9, 18\]"):
        Contract.from_dict(AV | {"layers": [9, 18]})


def test_questions_and_tags_are_for_those_who_have_a_place_for_them():
    with pytest.raises(NotAnOracleError, match="a question was asked, but its prompt has no place for one"):
        Contract.from_dict(AV).field_values(question="Why?")
    with pytest.raises(InputError, match="a model tag was given, but its prompt has no place for one"):
        Contract.from_dict(AV).field_values(model_tag="lm")
    tags = {"model_tag": {"values": ["qwen", "llama"]}}
    tagged = Contract.from_dict(AV | {"av_template": "Of {model_tag}: {injection_char}", "fields": tags})
    assert tagged.field_values(model_tag="llama") == {"model_tag": "llama"}
    with pytest.raises(UnseenValueError, match="model tag 'gpt' was never trained; expected one of qwen, llama"):
        tagged.field_values(model_tag="gpt")
    with pytest.raises(InputError, match=r"needs a model tag .*pass model_tag=\. It may be qwen, llama"):
        tagged.field_values()


@pytest.mark.parametrize(
    ("fields", "template", "message"),
    [
        ({}, "{depth}% {injection_char}", "`av_template` holds {depth}, which `fields` does not declare"),
        ({"layer": {}}, "{layer} {model_tag} {injection_char}", "holds {model_tag}, which `fields` does not declare"),
        ({"layer": {}}, "{injection_char}", "`fields.layer` is declared, but no template holds {layer}"),
        ({"layer": {}}, "{layer}{injection_char}{layer}", "holds {layer} 2 times; expected exactly once"),
        ({}, "{pct}% {injection_char}", "holds {pct}, which nothing replaces. Write {depth}"),
        ({}, "{explanation} {injection_char}", "holds {explanation}, which nothing replaces there"),
        ({"depth": {}}, "{depth}{injection_char}", "`fields.depth`: how a depth is rounded is not stated: rule: start"),
        ({"depth": {"rule": "start", "values": ["a"]}}, "{depth}{injection_char}", "expected whole numbers, percent"),
        ({"layer": {"rule": "start"}}, "{layer}{injection_char}", "`rule` and `blocks` are of {depth} only"),
        ({"layer": {"nearest": True}}, "{layer}{injection_char}", "`nearest` needs a number and its `values`"),
        (
            {"question": {"values": ["a", "b"], "default": "c"}},
            "{question}{injection_char}",
            "`default` 'c' is none of its `values` a, b",
        ),
    ],
)
def test_a_template_and_its_declared_fields_must_agree(fields, template, message):
    with pytest.raises(ContractError, match=re.escape(message)):
        Contract.from_dict(AV | {"av_template": template, "fields": fields})


def test_an_ars_template_has_no_place_for_a_vector():
    with pytest.raises(ContractError, match=re.escape("`ar_template` holds {injection_char}")):
        Contract.from_dict(AR | {"ar_template": "{explanation}{injection_char}"})


@quick
@given(
    text=st.text(alphabet=st.characters(exclude_categories=["Cs", "Cc"]), min_size=1).filter(str.strip)
    | st.sampled_from(["{depth}", "{injection_char}", "{explanation}", "{model_tag}{question}", "\\1 \\g<0> %s {}"])
)
def test_what_stands_in_a_field_is_never_read_again(text):
    template = "a {layer} b {model_tag} c {injection_char} d {question} {other}"
    contract = Contract.from_dict(
        AV | {"av_template": template, "fields": {"layer": {}, "model_tag": {}, "question": {}}}
    )
    fields = contract.field_values(model_tag=text, question=text)
    assert contract.av_prompt(fields) == f"a 23 b {text} c ㊗ d {text} {{other}}"


def test_a_contract_with_fields_is_saved_and_read_back(tmp_path):
    rule = {"rule": "start", "values": TRAINED, "nearest": True}
    contract = with_depth(rule)
    contract.save(tmp_path)
    again = Contract.load(tmp_path)
    assert again == contract and again.to_dict()["fields"] == {"depth": rule} and again.layers == "any"
