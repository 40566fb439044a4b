"""Settings by dotted name take the place of the config's own, are validated like them, and are refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from nla_sdk.errors import InputError
from tests import configs
from training.configs.config import Config
from training.configs.overrides import keys, parse

ROOT = Path(__file__).parents[2]


@pytest.fixture
def file(tmp_path) -> Path:
    return configs.write(tmp_path, configs.sections(tmp_path, "base", extract={"sources": [{"corpus": "a"}]}))


def loaded(file: Path, *assignments: str) -> Config:
    return Config.load(file, parse(assignments))


def test_a_setting_of_a_section_of_a_lists_entry_and_of_the_config_itself(file):
    config = loaded(file, "av.lr=3e-5", "extract.sources.0.limit=100", "seed=7", "av.lora.r=8", "split.rl=0.05")
    assert (config.av.lr, config.extract.sources[0].limit, config.seed) == (3e-5, 100, 7)
    assert (config.av.lora.r, config.split.rl, config.extract.sources[0].corpus) == (8, 0.05, "a")
    assert config.ar == Config.load(file).ar


def test_values_are_yaml_and_the_last_one_of_a_key_counts(file):
    config = loaded(file, "extract.layers=[1, 2]", "av.quantization=null", "ar.sources.0=readout", "seed=1", "seed=2")
    assert (config.extract.layers, config.av.quantization, config.ar.sources) == ([1, 2], None, ["readout"])
    assert config.seed == 2


def test_sections_and_lists_that_the_file_leaves_out_are_those_of_the_defaults(file):
    config = loaded(file, "grpo.samples=4", "label.sets.0.splits=[eval]")
    assert config.grpo.samples == 4
    assert (config.label.sets[0].name, config.label.sets[0].splits) == ("extractive", ["eval"])


@pytest.mark.parametrize(
    "assignment, said",
    [
        ("av.lr=0", r"config\.yaml: av\.lr: Input should be greater than 0 \(found 0, set on the command line\)"),
        ("av.lora.r=x", r"av\.lora\.r: Input should be a valid integer.*\(found 'x', set on the command line\)"),
        ("extract.sources.0.share=2", r"extract\.sources\.0\.share: Input should be less than or equal to 1"),
        ("av.learning_rate=1", r"--set av\.learning_rate: there is no such setting"),
        ("lr=1", r"--set lr: there is no such setting; did you mean av\.lr, ar\.lr, grpo\.lr\?"),
        ("av.lora.rr=1", r"did you mean av\.lora\.r"),
        ("av.lr.x=1", r"--set av\.lr\.x: there is no such setting"),
        ("extract.sources.1.limit=3", r"sources has 1 entries, counted from 0; 1 is none of them"),
        ("extract.sources.x=3", r"sources has 1 entries"),
        ("seed", r"--set seed: expected a setting and its value, as in av\.lr=3e-5"),
        ("=3", "expected a setting"),
        ("av.lr=[", r"--set av\.lr=\[: the value is not YAML"),
        ("seed=2026-13-01", r"--set seed=2026-13-01: the value is not YAML: month must be in 1\.\.12"),
    ],
)
def test_what_cannot_be_set_is_refused_with_its_key(file, assignment, said):
    with pytest.raises(InputError, match=said):
        loaded(file, assignment)


def test_a_fault_of_the_file_itself_is_not_said_to_be_of_the_command_line(tmp_path):
    file = configs.write(
        tmp_path, configs.sections(tmp_path, "base", av={"lr": 0}, extract={"sources": [{"corpus": "a"}]})
    )
    with pytest.raises(InputError, match=r"av\.lr: Input should be greater than 0 \(found 0\)\.$"):
        loaded(file, "ar.lr=1")
    file.write_text("- 1")
    with pytest.raises(InputError, match="the file: Input should be a valid dictionary"):
        loaded(file, "ar.lr=1")


def test_every_setting_has_a_name_and_the_shipped_configs_take_overrides():
    names = set(keys(Config))
    assert {"av.lr", "av.lora.r", "extract.sources.0.limit", "label.sets.0.providers.0.model", "grpo.kl"} <= names
    for path in (ROOT / "training/configs").glob("*.yaml"):
        assert Config.load(path, {"ar.lr": 1e-5}).ar.lr == 1e-5
