"""`python -m training` lists every command there is, at once, and each of them answers `--help`."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from training.__main__ import ROOMS, commands

ROOT = Path(__file__).parents[1]
LISTED = {name: (room, line) for room, name, line in commands()}


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONIOENCODING": "utf-8", "COLUMNS": "100"}
    command = [sys.executable, *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=300)


def test_every_module_that_runs_a_command_is_listed_in_its_room_with_a_line():
    modules = {
        ".".join(file.relative_to(ROOT / "training").with_suffix("").parts).removesuffix(".__main__")
        for file in (ROOT / "training").rglob("*.py")
        if "run_command(" in file.read_text(encoding="utf-8").partition("__main__")[2]
    }
    assert set(LISTED) == modules
    assert all(room in ROOMS and len(line) > 10 for room, line in LISTED.values())
    assert {"pipeline", "data.extract", "label", "fit.av", "fit.plan", "runs.trend", "evaluate", "publish"} <= set(
        LISTED
    )


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_the_list_names_them_all_and_imports_none_of_them(arguments):
    done = python("-X", "importtime", "-m", "training", *arguments)
    assert done.returncode == 0
    assert [f"  {name} " in done.stdout for name in LISTED] == [True] * len(LISTED)
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert not imported & {"torch", "numpy", "pydantic", "yaml", "training.configs", "training.data", "rich"}


def test_what_is_no_command_is_one_line():
    done = python("-m", "training", "unheard-of")
    assert (done.returncode, done.stdout) == (2, "") and len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("name", LISTED)
@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
def test_every_listed_command_answers_help(name, monkeypatch, capsys):
    """Run as `python -m` runs it, but in this process: each start would load torch anew."""
    monkeypatch.setattr("sys.argv", [name, "--help"])
    with pytest.raises(SystemExit) as end:
        runpy.run_module(f"training.{name}", run_name="__main__", alter_sys=True)
    out = capsys.readouterr().out
    assert end.value.code == 0 and out.startswith(f"Usage: python -m training.{name} ") and "--help" in out
