"""What every stage's command line does alike: read `--config`, run, and turn errors into one line and exit code 2."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from nla_sdk.errors import NLAError

from .config import Config


def run_stage(run: Callable[[Config], object]) -> Callable[[Path], None]:
    """A typer command for the stage function `run`."""

    def command(config: Annotated[Path, typer.Option(help="The YAML file that configures all stages.")]) -> None:
        try:
            print(run(Config.load(config)))
        except NLAError as error:
            print(f"error: {error}", file=sys.stderr)
            raise SystemExit(2) from None
        except KeyboardInterrupt:
            print("stopped; run the same command again to go on from the last checkpoint", file=sys.stderr)
            raise SystemExit(130) from None

    command.__doc__ = sys.modules[run.__module__].__doc__
    return command
