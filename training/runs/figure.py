"""Draw a run from its log. `python -m training.runs.figure runs/demo/run_av/log.jsonl`

It can be had at any time: of a run that goes on, was killed or is long over. Needs matplotlib.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..configs.command import UNCHANGED, run_command
from .curves import FIGURE, render


def main(
    log: Annotated[Path, typer.Argument(metavar="LOG", help="A run's log.jsonl.")],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="PNG", help="Default: training.png beside the log.")
    ] = None,
) -> None:
    drawn = render(log, out or log.parent / FIGURE)
    if drawn:
        print(drawn)


main.__doc__ = __doc__

if __name__ == "__main__":
    run_command(main, stopped=UNCHANGED)
