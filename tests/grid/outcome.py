"""A command run in this process as its own would run it, and what a bad input must come to."""

from __future__ import annotations

import io
import runpy
import warnings
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import pytest

from nla_sdk.cli.app import main

KEPT = ("chunks", ".chunks", ".sqlite", ".sqlite-wal", ".sqlite-shm")
"""Where unfinished work is: no final name."""


@dataclass(frozen=True)
class Outcome:
    """How a command ended.

    Attributes:
        written: files that are new or changed, beside unfinished work.
    """

    exit_code: int
    stdout: str
    stderr: str
    written: list[str]

    @property
    def lines(self) -> list[str]:
        """What it said on stderr, without warnings."""
        return [line for line in self.stderr.splitlines() if line.strip() and not line.startswith("warning: ")]


def run(*arguments: object) -> Outcome:
    """`nla …` or `python -m training.…` in the current folder.

    Raises:
        Exception: whatever would have been a traceback.
    """
    name, *rest = map(str, arguments)
    before, out, err = _files(), io.StringIO(), io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        redirect_stdout(out),
        redirect_stderr(err),
        warnings.catch_warnings(),
        pytest.raises(SystemExit) as end,
    ):
        warnings.simplefilter("ignore")
        patch.setattr("sys.argv", [name, *rest])
        if name == "nla":
            main(rest)
        runpy.run_module(f"training.{name}", run_name="__main__", alter_sys=True)
    after = _files()
    written = sorted(path for path in after if after[path] != before.get(path))
    return Outcome(end.value.code, out.getvalue(), err.getvalue(), written)


def refused(outcome: Outcome, names: Sequence[str] = ()) -> None:
    """It ended in one or two lines that name what is wrong (any of `names`), and left nothing under a final name."""
    assert outcome.exit_code == 2, f"exit {outcome.exit_code}: {outcome.stdout[-500:]}{outcome.stderr[-500:]}"
    assert 1 <= len(outcome.lines) <= 2, outcome.stderr
    assert outcome.lines[-1].startswith("error: "), outcome.stderr
    assert not outcome.written, outcome.written
    assert len(outcome.lines[-1]) < 1500, outcome.lines[-1]
    assert not names or any(name in outcome.stderr for name in names), f"{names[0]} is not named: {outcome.stderr}"


def _files() -> dict[str, tuple[int, int]]:
    return {
        path.as_posix(): (path.lstat().st_size, path.lstat().st_mtime_ns)
        for path in Path(".").rglob("*")
        if not path.is_dir() and not any(part.endswith(KEPT) for part in path.parts)
    }
