"""Commands of `python -m training.…`, run in this process as their own would run them."""

from __future__ import annotations

import io
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass

import pytest

from training.configs.command import run_command


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    exit_code: int
    stdout: str
    stderr: str


def invoke(command: Callable[..., object], *arguments: object) -> Ended:
    """Run a command with these arguments."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr("sys.argv", ["it", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            run_command(command)
    return Ended(end.value.code, out.getvalue(), err.getvalue())
