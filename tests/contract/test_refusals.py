"""What is missing or malformed is refused with the key and the file named."""

import pytest
import yaml

from nla_sdk.contract import SIDECAR_NAME, Contract
from nla_sdk.errors import ContractError, NLAError
from tests.contract.samples import AR, AV, drop, put


@pytest.mark.parametrize(
    ("contract", "attribute", "dialects"),
    [
        (drop(AV, "role") | {"ar_template": "{explanation}"}, "role", ()),
        (drop(AV, "base_model"), "base_model", ("base_checkpoint",)),
        (drop(AV, "d_model"), "d_model", ("extraction.d_model",)),
        (drop(AV, "layer"), "layer", ("extraction.layer", "extraction.layer_index", "extraction_layer_index")),
        (drop(AV, "av_template"), "av_template", ("prompt_templates.av", "prompt_templates.actor")),
        (drop(AV, "injection_char"), "injection_char", ("tokens.injection_char", "injection_token_id")),
        (drop(AR, "ar_template"), "ar_template", ("prompt_templates.ar", "prompt_templates.critic")),
        (
            drop(AR, "ar_num_blocks"),
            "ar_num_blocks",
            ("ar.num_hidden_layers", "critic.num_hidden_layers", "critic.extraction_layer_index"),
        ),
        (AR | {"activation_mean": "mean.safetensors"}, "centred_norm", ()),
    ],
)
def test_what_is_missing_is_named_with_its_file_and_other_names(tmp_path, contract, attribute, dialects):
    file = tmp_path / SIDECAR_NAME
    file.write_text(yaml.safe_dump(contract, allow_unicode=True), encoding="utf-8")
    with pytest.raises(ContractError) as caught:
        Contract.load(tmp_path)
    message = str(caught.value)
    for word in (f"`{attribute}` is missing", str(file), "Add it", *dialects):
        assert word in message


@pytest.mark.parametrize(
    ("base", "key", "value"),
    [
        (AV, "kind", "nla_thing"),
        (AV, "role", "judge"),
        (AV, "d_model", "wide"),
        (AV, "extraction.d_model", 0),
        (AV, "d_model", True),
        (AV, "d_model", 15.5),
        (AV, "extraction.layer_index", -1),
        (AV, "layer", [23]),
        (AV, "base_checkpoint", 5),
        (AV, "base_model", ""),
        (AV, "base_revision", 123),
        (AV, "tokens.injection_token_id", -1),
        (AV, "prompt_templates.actor", ["a"]),
        (AV, "prompt_style", "poem"),
        (AV, "compute_dtype", "int3"),
        (AV, "max_length", 0),
        (AV, "max_new_tokens", "many"),
        (AV, "centred_norm", 0),
        (AV, "baseline_mse", "nan"),
        (AV, "provenance", "by hand"),
        (AR, "critic.num_hidden_layers", "all"),
        (AR, "ar_num_blocks", 0),
        (AR, "head_bias", "perhaps"),
        (AR, "tokens.critic_suffix_ids", ["a"]),
    ],
)
def test_a_wrong_value_is_refused_with_the_key_it_was_found_under(base, key, value):
    with pytest.raises(ContractError) as caught:
        Contract.from_dict(put(base, key, value), source="dir/nla_meta.yaml")
    assert f"`{key}` is {value!r}" in str(caught.value) or f"`{key}`" in str(caught.value)
    assert str(caught.value).startswith("dir/nla_meta.yaml: ")
    assert "pydantic" not in str(caught.value)


@pytest.mark.parametrize(
    ("base", "key", "text", "field"),
    [
        (AV, "prompt_templates.av", "no field", "{injection_char}"),
        (AV, "av_template", "{injection_char}{injection_char}", "{injection_char}"),
        (AR, "prompt_templates.critic", "no field", "{explanation}"),
        (AR, "ar_template", "{explanation} {explanation}", "{explanation}"),
    ],
)
def test_a_template_has_its_field_exactly_once(base, key, text, field):
    with pytest.raises(ContractError) as caught:
        Contract.from_dict(put(base, key, text))
    assert field in str(caught.value)
    assert key in str(caught.value)
    assert "exactly once" in str(caught.value)


@pytest.mark.parametrize("value", [None, 5, [("kind", "nla_model")]])
def test_only_a_mapping_is_a_contract(value):
    with pytest.raises(ContractError, match="expected a mapping"):
        Contract.from_dict(value)


def test_a_bad_value_of_the_release_is_told_from_one_of_the_file():
    with pytest.raises(ContractError, match=r"`extraction\.layer` \(of the known release\) is -1"):
        Contract.from_dict({}, known=put(AV, "extraction.layer", -1))


def test_prompts_of_the_other_half_say_what_is_lacking():
    with pytest.raises(ContractError, match="lacks `ar_template`"):
        Contract.from_dict(AV).ar_prompt("x")
    with pytest.raises(ContractError, match=r"lacks `injection_char`.*verify"):
        Contract.from_dict(drop(AV, "injection_char") | {"injection_token_id": 5}).av_prompt()


def test_contract_errors_are_nla_errors_and_value_errors():
    with pytest.raises(NLAError):
        Contract.from_dict({})
    with pytest.raises(ValueError, match="missing"):
        Contract.from_dict({})
