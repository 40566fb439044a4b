"""Commands of `nla` and of `python -m training.…`, run in this process as their own would run them."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass

import pytest

from nla_sdk.cli import app as nla
from training.configs.command import run_command


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    exit_code: int
    stdout: str
    stderr: str


def run_nla(
    capsys: pytest.CaptureFixture[str], arguments: Sequence[object], stdin: bytes = b""
) -> tuple[int, str, str]:
    """Run `nla` with these arguments: its exit code, stdout and stderr."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8"))
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            nla.main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return end.value.code, out, err


def invoke(command: Callable[..., object], *arguments: object) -> Ended:
    """Run a command with these arguments."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr("sys.argv", ["it", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            run_command(command)
    return Ended(end.value.code, out.getvalue(), err.getvalue())
