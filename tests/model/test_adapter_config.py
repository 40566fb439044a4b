"""adapter_config.json: each field of PEFT's LoraConfig is kept, history or refused; what is unknown is named."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from peft import LoraConfig

from nla_sdk.errors import AdapterConfigError
from nla_sdk.model.weights.adapters.config import HISTORY, INITIALISATIONS, KEPT, REFUSED, check_config, read_config
from tests import tiny

HERE = Path("av")
GOOD = {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["q_proj"]}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=5,
)


def test_every_field_of_pefts_config_is_known_once():
    fields = {field.name for field in dataclasses.fields(LoraConfig)}
    assert fields <= KEPT.keys() | HISTORY | REFUSED.keys()
    assert not (KEPT.keys() & HISTORY or KEPT.keys() & REFUSED.keys() or HISTORY & REFUSED.keys())


def test_what_peft_writes_by_default_is_taken():
    written = {**LoraConfig(target_modules=["q_proj"]).to_dict(), "peft_type": "LORA", "target_modules": ["q_proj"]}
    assert check_config(written, HERE)["r"] == 8


@pytest.mark.parametrize("key", REFUSED)
def test_what_is_no_plain_lora_is_refused_by_name(key):
    with pytest.raises(AdapterConfigError, match=f"sets {key}: .*Ask its author for it as a plain LoRA"):
        check_config(GOOD | {key: {"x": 1}}, HERE)
    for off in (None, False, [], {}):
        check_config(GOOD | {key: off}, HERE)


@pytest.mark.parametrize("word", ["pissa", "pissa_niter_16", "olora", "OLoRA", "corda", "loftq", "lora_ga"])
def test_initialisations_that_rewrite_the_base_are_refused_with_the_way_to_convert(word):
    with pytest.raises(AdapterConfigError, match="path_initial_model_for_weight_conversion"):
        check_config(GOOD | {"init_lora_weights": word, "loftq_config": {"loftq_bits": 4}}, HERE)


@pytest.mark.parametrize("word", [True, False, None, *sorted(INITIALISATIONS)])
def test_initialisations_that_leave_the_base_alone_are_plain_lora(word):
    check_config(GOOD | {"init_lora_weights": word}, HERE)


@pytest.mark.parametrize("word", ["pissa_niter_", "foo", 3, [], "true"])
def test_an_unknown_initialisation_is_refused(word):
    with pytest.raises(AdapterConfigError, match="init_lora_weights: .*which is not known here"):
        check_config(GOOD | {"init_lora_weights": word}, HERE)


@pytest.mark.parametrize("off", [None, False, "", [], {}])
def test_a_newer_pefts_field_that_is_off_asks_for_nothing(off):
    assert check_config(GOOD | {"some_new_thing": off}, HERE) == check_config(GOOD, HERE)


@pytest.mark.parametrize("on", [True, 1, "x", [1], {"a": 1}])
def test_and_one_that_is_on_is_refused_by_name(on):
    with pytest.raises(AdapterConfigError, match=r"not known here \(some_new_thing: "):
        check_config(GOOD | {"some_new_thing": on}, HERE)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("r", 0), ("r", "8"), ("r", 8.0), ("r", True), ("r", None), ("lora_alpha", None), ("lora_alpha", "16"),
        ("lora_alpha", float("nan")), ("lora_alpha", 0), ("lora_dropout", 2), ("use_dora", "yes"), ("use_rslora", 1),
        ("target_modules", "*.q_proj"), ("target_modules", [1]), ("rank_pattern", {"q": 0}), ("rank_pattern", [1]),
        ("alpha_pattern", {"(": 1}), ("modules_to_save", "norm"), ("trainable_token_indices", [-1]),
        ("trainable_token_indices", {"embed_tokens": 3}), ("layers_to_transform", "1"), ("bias", "some"),
    ],
)  # fmt: skip
def test_a_value_of_another_kind_is_refused_by_name(key, value):
    with pytest.raises(AdapterConfigError, match=f"{key} is .*expected"):
        check_config(GOOD | {key: value}, HERE)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(st.sampled_from(sorted([*KEPT, *HISTORY, *REFUSED, "new"])), JSON, max_size=4))
def test_any_config_at_all_is_taken_or_refused_in_words(changes):
    try:
        kept = check_config(GOOD | changes, HERE)
    except AdapterConfigError:
        return
    assert kept.keys() == KEPT.keys()


@pytest.mark.parametrize(
    "changes", [{"use_dora": True, "lora_bias": True}, {"target_modules": "q", "layers_to_transform": [0]}]
)
def test_what_peft_itself_does_not_take_is_refused_in_its_words(tmp_path, changes):
    tiny.write_adapter(tmp_path / "a", {}, "q_proj", **changes)
    with pytest.raises(AdapterConfigError, match="is not taken by PEFT: "):
        read_config(tmp_path / "a")
