"""A config that says only what is other than in another, and one that goes on from a finished run."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from nla_sdk.errors import InputError
from tests import configs
from training.configs.config import Config

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "training" / "configs"


@pytest.fixture
def first(tmp_path) -> Path:
    return configs.write(tmp_path, configs.sections(tmp_path, "b", extract={"sources": [{"corpus": "."}]}, seed=7))


def extending(first: Path, name: str = "second.yaml", **values) -> Path:
    path = first.with_name(name)
    path.write_text(yaml.safe_dump({"extends": first.name, **values}), encoding="utf-8")
    return path


def test_a_section_is_taken_key_by_key_and_a_list_whole(first, tmp_path):
    second = extending(first, av={"lr": 0.5, "sources": ["readout", "expert"]}, seed=8)
    third = extending(second, "third.yaml", av={"batch_size": 2})
    before, found = Config.load(first), Config.load(third, {"av.epochs": 3})
    assert (found.seed, found.out, found.ar) == (8, before.out, before.ar)
    own = {"lr": 0.5, "sources": ["readout", "expert"], "batch_size": 2, "epochs": 3}
    assert found.av == before.av.model_copy(update=own)


@pytest.mark.parametrize(
    ("named", "says"),
    [
        ("second.yaml", "second.yaml extends itself, through second.yaml"),
        ("nowhere.yaml", "Cannot read the config .*nowhere.yaml"),
        (["config.yaml"], r"extends: found \['config.yaml'\]; expected the name of a config file"),
        ("", "extends: found ''; expected"),
    ],
)
def test_what_cannot_be_extended_is_named(first, named, says):
    with pytest.raises(InputError, match=says):
        Config.load(extending(first, extends=named))


def test_a_setting_of_either_file_that_there_is_not_is_refused(first):
    with pytest.raises(InputError, match="second.yaml: av.learning_rate"):
        Config.load(extending(first, av={"learning_rate": 1}))


def test_a_run_after_another_reads_its_tables_and_starts_from_its_halves(first, tmp_path):
    out, other = tmp_path / "round2", tmp_path / "av9" / "final"
    found = Config.load(extending(first, out=str(out), after=str(tmp_path / "out"), av={"continue_from": str(other)}))
    assert found.tables_from == tmp_path / "out" and found.half("av") == out / "av" / "final"
    assert (found.av.continue_from, found.ar.continue_from) == (other, tmp_path / "out" / "ar" / "final")
    assert found.half_before("av") == tmp_path / "out" / "av" / "final"
    third = extending(first, "third.yaml", out=str(tmp_path / "round3"), after=str(out), tables=str(tmp_path / "out"))
    assert Config.load(third).tables_from == tmp_path / "out"
    assert Config.load(third).ar.continue_from == out / "ar" / "final"


def test_a_run_cannot_come_after_itself(first, tmp_path):
    with pytest.raises(InputError, match="`after` is this run's own `out`"):
        Config.load(extending(first, after=str(tmp_path / "out")))


def test_the_demo_pairs_second_round_goes_on_from_its_first():
    first, second = (Config.load(DEMO / name) for name in ("demo.yaml", "demo_round2.yaml"))
    assert second.after == first.out != second.out
    assert second.split == first.split and second.av.template == first.av.template  # or it would be another pair


def test_policy_optimisation_of_the_demo_pair_starts_from_the_bundled_halves():
    second, third = (Config.load(DEMO / name) for name in ("demo_round2.yaml", "demo_grpo.yaml"))
    assert third.tables_from == second.tables_from and third.out != second.out
    assert all((ROOT / half / "nla_meta.yaml").is_file() for half in (third.grpo.av, third.grpo.ar))
