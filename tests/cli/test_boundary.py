"""Every command line ends as `boundary` says: in which exit code, and with what words."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pytest
import typer

from nla_sdk.cli import app, boundary
from nla_sdk.cli.options import expand
from nla_sdk.errors import InputError, NLAWarning

ROOT = Path(__file__).parents[2]


class OutOfMemoryError(RuntimeError):
    """As torch's: of this name, and a RuntimeError."""


def ended(capsys, raising: BaseException | None = None, *arguments: str, **options) -> tuple[int, str, str]:
    """How a command that raises `raising` ends: exit code, stdout, stderr."""

    def command(number: int = 1) -> None:
        """Do it."""
        if raising is not None:
            raise raising
        print(number)

    with pytest.raises(SystemExit) as end:
        boundary.run(command, list(arguments), name="it", **options)
    return end.value.code, *capsys.readouterr()


@pytest.mark.parametrize(
    "raising, code, said",
    [
        (InputError("No such thing."), 2, "error: No such thing.\n"),
        (KeyboardInterrupt(), 130, "stopped\n"),
        (KeyboardInterrupt("stopped after step 3"), 130, "stopped after step 3\n"),
        (typer.Abort(), 130, "stopped\n"),
        (typer.Exit(1), 1, ""),
        (FileNotFoundError(2, "No such file or directory", "a.txt"), 2, "error: a.txt: No such file or directory\n"),
        (OSError("disk full"), 2, "error: disk full\n"),
        (MemoryError(), 2, f"error: Out of memory. {boundary.LESS_MEMORY}\n"),
        (OutOfMemoryError("CUDA out of memory. Tried"), 2, f"error: Out of memory. {boundary.LESS_MEMORY}\n"),
    ],
)
def test_what_ends_a_command_is_one_line_and_its_exit_code(capsys, raising, code, said):
    assert ended(capsys, raising) == (code, "", said)


def test_words_for_ctrl_c_and_for_memory_may_be_a_commands_own(capsys):
    assert ended(capsys, KeyboardInterrupt(), stopped="halted")[2] == "halted\n"
    assert ended(capsys, MemoryError(), less_memory="Sell something.")[2] == "error: Out of memory. Sell something.\n"


def test_a_bug_gives_its_traceback(capsys):
    with pytest.raises(RuntimeError, match="a bug"):
        boundary.run(lambda: (_ for _ in ()).throw(RuntimeError("a bug")), [], name="it")


def test_a_library_of_an_extra_is_named_with_the_extra_and_any_other_is_a_bug(capsys, monkeypatch):
    lines = [
        "numpy>=1",
        "scikit-learn>=1.5; extra == 'eval'",
        "scikit-learn>=1.5; extra == 'dev'",
        "jinja2; extra == 'eval'",
    ]
    monkeypatch.setattr("importlib.metadata.requires", lambda name: [*lines, 'jinja2>=3.1; extra == "label"'])
    for module, named in (("sklearn.linear_model", "[eval]"), ("jinja2", "[eval] or [label]")):
        said = f"error: {module} is not installed. {named} brings it: pip install 'nla-sdk[eval]'\n"
        assert ended(capsys, ModuleNotFoundError("No module", name=module)) == (2, "", said)
    for module in ("numpy", "nla_sdk.gone"):
        with pytest.raises(ModuleNotFoundError):
            ended(capsys, ModuleNotFoundError("No module", name=module))


def test_a_wrong_option_is_one_line_that_says_where_help_is(capsys):
    code, out, err = ended(capsys, None, "--number", "x")
    assert (code, out) == (2, "") and err.startswith("error: Invalid value for '--number'") and "see `it --help`" in err
    assert len(err.splitlines()) == 1
    assert ended(capsys, None, "--number", "3") == (0, "3\n", "")


def test_warnings_of_ours_are_one_line_and_others_are_not_shown(capsys):
    def command() -> None:
        warnings.warn("look here", NLAWarning, stacklevel=1)
        warnings.warn("nobody's business", UserWarning, stacklevel=1)

    with pytest.raises(SystemExit):
        boundary.run(command, [], name="it")
    assert capsys.readouterr().err == "warning: look here\n"


def test_without_a_command_nla_shows_its_help_and_calls_it_no_error(capsys):
    with pytest.raises(SystemExit) as end:
        app.main([])
    out, err = capsys.readouterr()
    assert end.value.code == 2 and out == "" and err.startswith("Usage: nla") and "round-trip" in err


def test_examples_in_a_commands_help_keep_their_lines(capsys):
    def command() -> None:
        pass

    command.__doc__ = "Does it.\n\n    first line\n    second line\n\nThe end."
    with pytest.raises(SystemExit):
        boundary.run(command, ["--help"], name="it")
    assert "first line\n" in capsys.readouterr().out


def test_a_group_of_options_is_taken_apart_wherever_annotations_are_strings(capsys):
    @dataclass(frozen=True)
    class Group:
        first: Annotated[int, typer.Option(help="The first.")]
        second: Annotated[str, typer.Option("--other")] = "b"

    def command(group, third=3) -> None:
        print(group.first, group.second, third)

    command.__annotations__ = {"group": Group, "third": "int", "return": None}
    with pytest.raises(SystemExit):
        boundary.run(expand(command), ["--first", "1", "--other", "x"], name="it")
    assert capsys.readouterr().out == "1 x 3\n"


def test_a_reader_that_left_is_silence_in_training_too(tmp_path):
    log = tmp_path / "log.jsonl"
    log.write_text("".join(f'{{"step": {step}, "loss": 1.0}}\n' for step in range(9)), encoding="utf-8")
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "training.runs.trend", str(log)]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, cwd=ROOT, timeout=120)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


def test_usage_errors_of_training_are_one_line_that_names_the_command():
    command = [sys.executable, "-m", "training.runs.trend", "--wrong-option"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: No such option: --wrong-option; see `python -m training.runs.trend --help`\n"


def test_a_process_that_ends_does_not_look_for_garbage_first():
    code = """
import atexit, gc
atexit.register(lambda: print(gc.get_freeze_count() > 0))
from nla_sdk.cli import boundary
def command() -> None:
    print(gc.isenabled(), gc.get_threshold()[0] >= 50_000)
boundary.run(command, [], name="it")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.split() == ["True", "True", "True"]
