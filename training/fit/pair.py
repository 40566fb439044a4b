"""From text to a measured pair, in one command and in legs: `python -m training.fit.pair --config mine.yaml`

pipeline → fit.av → fit.on_policy → fit.ar → evaluate, each in a process of its own, exactly as its own command runs. A
config that says `after:` is another round, on the tables and from the halves of a finished run: it makes no tables, and
begins with fit.expert where `av.sources` asks for it.

With `--minutes 8` a leg ends after about so long: the step in flight is saved, and the same command goes on. A stage
that is finished says so and is passed by in seconds.
"""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Annotated

import typer

from nla_sdk.cli.options import expand
from nla_sdk.errors import InputError
from nla_sdk.io.progress import say

from ..configs.command import ConfigOptions, run_command
from ..configs.config import Config

INTERRUPTED = 130
PATIENCE = 180  # seconds that a stopped stage has to save what it did
TRAINERS = ("fit.av", "fit.ar")
Run = Callable[[Sequence[str], "float | None"], int]
"""`run(command, seconds)`: a command's exit code; after so many seconds it is stopped as by Ctrl-C. None: never."""


def stages(config: Config, given: Sequence[str], processes: int, embedder: str = "") -> dict[str, list[str]]:
    """The command of each stage, in order.

    Args:
        given: `--config …` and `--set …`, as every stage takes them.
        processes: that share each training step.
        embedder: for the evaluation; empty: none.
    """
    found = {}
    first = ("fit.expert",) if "expert" in config.av.sources else ()
    for name in (*(first if config.after else ("pipeline",)), "fit.av", "fit.on_policy", "fit.ar"):
        start = [sys.executable, "-m"]
        if name in TRAINERS and processes > 1:
            start += ["torch.distributed.run", "--nproc_per_node", str(processes), "-m"]
        found[name] = [*start, f"training.{name}", *given]
    halves = [text for role in ("av", "ar") for text in (f"--{role}", str(config.half(role)))]
    asked = [
        "--data",
        str(config.tables_from / "eval.parquet"),
        "--out",
        str(config.results / config.out.name / "evaluation"),
    ]
    asked += ["--embedder", embedder] if embedder else []
    found["evaluate"] = [sys.executable, "-m", "training.evaluate", *halves, *asked]
    return found


def run(commands: dict[str, list[str]], minutes: float | None = None, run_one: Run | None = None) -> str | None:
    """Run the stages in order.

    Args:
        minutes: after which the leg ends; None: at the end.
        run_one: how a command is run.
    Returns:
        The stage that a leg ended in; None: all are done.
    Raises:
        typer.Exit: a stage failed, with its exit code: it has said why.
    """
    run_one = run_one or _in_a_process
    began = time.monotonic()
    for name, command in commands.items():
        left = None if minutes is None else minutes * 60 - (time.monotonic() - began)
        if left is not None and left <= 0:
            return name
        start = time.monotonic()
        code = run_one(command, left)
        ended = left is not None and time.monotonic() - start >= left
        if code == INTERRUPTED and ended:
            return name
        if code:
            raise typer.Exit(code)
        say(f"{name}: done after {(time.monotonic() - start) / 60:.1f} minutes")
    return None


def _in_a_process(command: Sequence[str], seconds: float | None) -> int:
    # A session of its own: Ctrl-C reaches the stage once, through here, and not once more from the terminal.
    process = subprocess.Popen(command, start_new_session=True, env=_threads(command))
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        return _stopped(process)
    except KeyboardInterrupt:
        raise typer.Exit(_stopped(process)) from None


def _threads(command: Sequence[str]) -> dict[str, str]:
    """The environment: processes that share a CPU's cores do not each take all of them."""
    environment = dict(os.environ)
    if "--nproc_per_node" in command and "OMP_NUM_THREADS" not in environment:
        count = int(command[command.index("--nproc_per_node") + 1])
        environment["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // count))
    return environment


def _stopped(process: subprocess.Popen) -> int:
    """Stop a stage as Ctrl-C does; its exit code, always one of an interrupted stage."""
    os.killpg(process.pid, signal.SIGINT)
    try:
        process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # the next leg goes on from the last checkpoint
        process.wait()
    return INTERRUPTED


@expand
def main(
    config: ConfigOptions,
    processes: Annotated[int, typer.Option(min=1, help="That share each training step; on a CPU 2 are faster.")] = 1,
    minutes: Annotated[
        float | None, typer.Option(min=0.1, help="End the leg after about so many; run it again to go on.")
    ] = None,
    embedder: Annotated[str, typer.Option(help="As training.evaluate takes it.")] = "",
) -> None:
    loaded = config.load()
    if minutes is not None and math.isnan(minutes):
        raise InputError("--minutes is NaN; expected how long a leg may be.")
    given = ["--config", str(config.config), *(part for change in config.set or () for part in ("--set", change))]
    ended = run(stages(loaded, given, processes, embedder), minutes)
    if ended is not None:
        say(f"the leg ended in {ended}; run the same command again to go on")
        raise typer.Exit(INTERRUPTED)
    print(loaded.results / loaded.out.name / "evaluation")


main.__doc__ = __doc__

if __name__ == "__main__":
    run_command(main)
