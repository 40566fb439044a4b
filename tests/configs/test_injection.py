"""Where an AV's vector goes in, as a config says it, and the contract that follows from it."""

from __future__ import annotations

import pytest

from nla_sdk.contract import Injection as Way
from nla_sdk.errors import InputError
from tests import configs, tiny
from training.configs.config import Config
from training.data.statistics import contract_of


def config_with(folder, injection=None, **changes) -> Config:
    extract = {"sources": [{"corpus": "passages.jsonl"}], **changes.pop("extract", {})}
    settings = configs.sections(folder, "owner/lm", extract=extract, **changes)
    settings["av"] |= {} if injection is None else {"injection": injection}
    return Config.load(configs.write(folder, settings))


def way_of(config: Config) -> Way:
    return contract_of(config, "av", tiny.tokenizer(), 64).injection


def test_a_vector_goes_into_the_embedding_at_the_root_of_d_unless_said_otherwise(tmp_path):
    assert way_of(config_with(tmp_path)) == Way("embedding", None, "replace", "sqrt_d", 8.0)


def test_add_at_1_is_one_line_of_a_config(tmp_path):
    config = config_with(tmp_path, {"site": "block", "block": 1, "rule": "add"})
    assert way_of(config) == Way("block", 1, "add", "match")


def test_the_first_block_is_a_block(tmp_path):
    assert way_of(config_with(tmp_path, {"site": "block", "block": 0})) == Way("block", 0, "add", "match")


def test_the_ar_states_what_its_reader_must_not_guess(tmp_path):
    contract = contract_of(config_with(tmp_path), "ar", tiny.tokenizer(), 64)
    assert contract.to_dict()["ar"] == {"bos": True, "final_norm": "dropped", "target": "raw"}


@pytest.mark.parametrize(
    ("injection", "message"),
    [
        ({"site": "block"}, "site block needs a block"),
        ({"block": 1}, "an embedding has none"),
        ({"norm": "fixed"}, "need a scale"),
        ({"scale": 3}, "the others have none"),
        ({"layers": [2]}, "at least two different blocks"),
        ({"layers": [2, 2]}, "at least two different blocks"),
        ({"place": "block"}, "av.injection.place"),
    ],
)
def test_an_injection_that_is_not_whole_is_refused_with_its_key(tmp_path, injection, message):
    with pytest.raises(InputError, match=message):
        config_with(tmp_path, injection)


def test_several_layers_must_be_read_hold_the_pairs_own_and_have_no_one_mean(tmp_path):
    own = config_with(tmp_path).layer
    several = {"layers": [own, own + 1]}
    with pytest.raises(InputError, match=r"extract.layers lacks \[\d+\]"):
        config_with(tmp_path, several, centred=False)
    with pytest.raises(InputError, match="the mean is of one layer"):
        config_with(tmp_path, several, centred=True, extract={"layers": [own + 1]})
    with pytest.raises(InputError, match="lacks `layer`"):
        config_with(tmp_path, {"layers": [own + 1, own + 2]}, centred=False)
    config = config_with(tmp_path, several, centred=False, extract={"layers": [own + 1]})
    assert way_of(config).layers == (own, own + 1)
    assert way_of(config).markers == 2


def test_that_nothing_is_said_twice_is_one_line_of_a_config(tmp_path):
    contract = contract_of(config_with(tmp_path, av={"no_repeats": True}), "av", tiny.tokenizer(), 64)
    assert contract.output_no_repeats
    contract = contract_of(config_with(tmp_path), "av", tiny.tokenizer(), 64)
    assert "no_repeats" not in contract.to_dict()["output"]
