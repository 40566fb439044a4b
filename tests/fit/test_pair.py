"""One command from text to a measured pair: its stages, its legs, and what a stage's end means."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
import typer

from tests import configs
from training.configs.config import Config
from training.fit import pair

ROOT = Path(__file__).parents[2]


@pytest.fixture
def config(tmp_path) -> Config:
    sections = configs.sections(tmp_path, tmp_path / "base", extract={"sources": [{"corpus": "texts"}]})
    return Config.load(configs.write(tmp_path, sections))


def test_stages_run_in_order_and_the_evaluation_is_of_the_halves_that_they_leave(config):
    made = pair.stages(config, ["--config", "mine.yaml", "--set", "seed=1"], processes=1)
    modules = [command[command.index("-m") + 1] for command in made.values()]
    assert modules == [f"training.{name}" for name in ("pipeline", "fit.av", "fit.on_policy", "fit.ar", "evaluate")]
    assert all(command[-4:] == ["--config", "mine.yaml", "--set", "seed=1"] for command in list(made.values())[:-1])
    asked = dict(zip(made["evaluate"][3::2], made["evaluate"][4::2], strict=True))
    assert asked["--av"] == str(config.out / "av" / "final") and asked["--ar"] == str(config.out / "ar" / "final")
    assert asked["--data"] == str(config.out / "eval.parquet")


@pytest.mark.parametrize(("sources", "begins"), [(["readout"], []), (["readout", "expert"], ["fit.expert"])])
def test_a_round_after_another_run_makes_no_tables(config, sources, begins, tmp_path):
    av = config.av.model_copy(update={"sources": sources})
    again = config.model_copy(update={"after": config.out, "out": tmp_path / "round2", "av": av})
    made = pair.stages(again, [], processes=1)
    assert list(made) == [*begins, "fit.av", "fit.on_policy", "fit.ar", "evaluate"]
    assert made["evaluate"][made["evaluate"].index("--data") + 1] == str(config.out / "eval.parquet")


def test_only_training_is_shared_among_processes_and_they_share_the_cores(config, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    made = pair.stages(config, [], processes=2)
    shared = {name for name, command in made.items() if "--nproc_per_node" in command}
    assert shared == {"fit.av", "fit.ar"}
    assert pair._threads(made["fit.av"])["OMP_NUM_THREADS"] == "4"
    assert "OMP_NUM_THREADS" not in pair._threads(made["fit.on_policy"])


def test_every_stage_is_a_command_that_there_is(config):
    for command in pair.stages(config, [], processes=1).values():
        module = command[command.index("-m") + 1].replace(".", "/")
        assert any((ROOT / path).is_file() for path in (f"{module}.py", f"{module}/__main__.py"))


def test_a_leg_ends_in_the_stage_that_is_stopped_and_starts_no_other():
    ran = []

    def run_one(command, seconds):
        ran.append(command[0])
        time.sleep(seconds + 0.01)
        return pair.INTERRUPTED

    assert pair.run({"one": ["a"], "two": ["b"]}, minutes=0.001, run_one=run_one) == "one"
    assert ran == ["a"]


def test_without_a_limit_all_are_run_and_a_failed_one_ends_the_command_with_its_code():
    assert pair.run({"one": ["a"], "two": ["b"]}, run_one=lambda command, seconds: 0) is None
    ran = []

    def second_fails(command, seconds):
        assert seconds is None
        ran.append(command[0])
        return 2 if command == ["b"] else 0

    with pytest.raises(typer.Exit) as failed:
        pair.run({"one": ["a"], "two": ["b"], "three": ["c"]}, run_one=second_fails)
    assert failed.value.exit_code == 2 and ran == ["a", "b"]


def test_ctrl_c_in_a_stage_is_no_end_of_a_leg():
    with pytest.raises(typer.Exit) as stopped:
        pair.run({"one": ["a"]}, minutes=60, run_one=lambda command, seconds: pair.INTERRUPTED)
    assert stopped.value.exit_code == pair.INTERRUPTED


def test_a_stage_is_stopped_as_by_ctrl_c_and_has_time_to_save(tmp_path):
    saved = tmp_path / "saved"
    code = (
        "import pathlib, sys, time\n"
        "try:\n    print('there', flush=True); time.sleep(60)\n"
        f"except KeyboardInterrupt:\n    pathlib.Path({str(saved)!r}).write_text('all'); sys.exit(7)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], start_new_session=True, stdout=subprocess.PIPE, text=True)
    with process.stdout as said:
        assert said.readline() == "there\n"
        assert pair._stopped(process) == pair.INTERRUPTED
    assert saved.read_text() == "all" and process.returncode == 7


def test_what_the_command_line_cannot_be_is_refused_in_a_line(config, tmp_path):
    path = tmp_path / "config.yaml"
    done = subprocess.run(
        [sys.executable, "-m", "training.fit.pair", "--config", str(path), "--minutes", "0.1", "--processes", "0"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and "--processes" in done.stderr and "Traceback" not in done.stderr
