"""Say whether a run's training loss still falls. `python -m training.runs.trend runs/demo/run_av/log.jsonl`

A least-squares line through the raw losses of the last 50 steps (`--window`): "descending" is a slope below −0.002 a
step with R² of at least 0.10, "ascending" one above +0.002, everything else "flat"; `training.runs.verdict` says why.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from nla_sdk.errors import InputError
from nla_sdk.io.logs import read_losses

from ..configs.command import UNCHANGED, run_command
from .verdict import FEWEST, WINDOW, trend


def main(
    log: Annotated[Path, typer.Argument(metavar="LOG", help="A run's log.jsonl.")],
    window: Annotated[int, typer.Option("--window", help="How many of the last steps to look at.")] = WINDOW,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    found = trend(read_losses(log), window)
    if found.steps < FEWEST:
        raise InputError(f"{log} has {found.steps} losses in its last {window} steps; a trend needs {FEWEST}.")
    print(json.dumps(asdict(found)) if as_json else found)


main.__doc__ = __doc__

if __name__ == "__main__":
    run_command(main, stopped=UNCHANGED)
