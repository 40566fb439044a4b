"""What every stage's command line does alike: read `--config`, run, and turn errors into one line and exit code 2."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from nla_sdk.errors import NLAError

from ..configs.config import Config

ConfigOption = Annotated[Path, typer.Option("--config", help="The YAML file that configures all stages.")]
OverwriteOption = Annotated[
    bool, typer.Option("--overwrite", help="Replace finished tables that were made with other settings.")
]
PushOption = Annotated[
    str | None, typer.Option("--push-dataset", metavar="OWNER/NAME", help="Publish the finished tables as a dataset.")
]


@contextmanager
def friendly() -> Iterator[None]:
    """Errors of ours as one line and exit code 2, Ctrl-C as one line and 130."""
    try:
        yield
    except NLAError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt as error:
        said = str(error) or "stopped; run the same command again to go on from the last checkpoint"
        print(said, file=sys.stderr)
        raise SystemExit(130) from None


def run_stage(run: Callable[[Config], object]) -> Callable[[Path], None]:
    """A typer command for the stage function `run(config)`."""

    def command(config: ConfigOption) -> None:
        with friendly():
            print(run(Config.load(config)))

    command.__doc__ = sys.modules[run.__module__].__doc__
    return command


def trainer_command(run: Callable[..., object], role: str) -> Callable[..., None]:
    """A typer command for the trainer `run(config, name=…)` of `role`."""

    def command(
        config: ConfigOption,
        name: Annotated[str, typer.Option(help="Of the run: its folder inside the config's `out:`.")] = role,
        continue_from: Annotated[
            Path | None, typer.Option(help="Start from this half, with a new optimizer; give the run another --name.")
        ] = None,
        lr: Annotated[float | None, typer.Option(help="Instead of the config's learning rate.")] = None,
        plan: Annotated[bool, typer.Option("--plan", help="Say what memory the run would need, and stop.")] = False,
    ) -> None:
        with friendly():
            loaded = Config.load(config)
            changes = {"continue_from": continue_from, "lr": lr}
            changes = {key: value for key, value in changes.items() if value is not None}
            settings = getattr(loaded, role).model_copy(update=changes)
            loaded = loaded.model_copy(update={role: settings})
            if plan:
                from ..fit.plan.estimate import show

                raise SystemExit(show(loaded, role))
            made = run(loaded, name=name)
            if os.environ.get("RANK", "0") == "0":
                print(made)

    command.__doc__ = sys.modules[run.__module__].__doc__
    return command


def data_stage(run: Callable[..., object]) -> Callable[..., None]:
    """A typer command for the stage function `run(config, overwrite=…, push_dataset=…)`, which makes tables."""

    def command(config: ConfigOption, overwrite: OverwriteOption = False, push_dataset: PushOption = None) -> None:
        with friendly():
            print(run(Config.load(config), overwrite=overwrite, push_dataset=push_dataset))

    command.__doc__ = sys.modules[run.__module__].__doc__
    return command
