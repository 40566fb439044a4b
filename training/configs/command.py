"""How every stage's command line is built: `--config`, `--set`, and the error boundary that it shares with `nla`."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from nla_sdk.cli import boundary
from nla_sdk.cli.options import EngineOptions, expand

from . import overrides
from .config import Config

if TYPE_CHECKING:
    from nla_sdk.jobs.cluster.held import Held
    from nla_sdk.jobs.cluster.pool import Pool
    from nla_sdk.jobs.cluster.stages import Spread

STOPPED = "stopped; what was finished before is kept. Run the same command again to go on."
UNCHANGED = "stopped; nothing was changed. Run the same command again."
LESS_MEMORY = "Try quantization: nf4, a smaller micro_batch or max_length; `python -m training.fit.plan` counts."

OverwriteOption = Annotated[
    bool, typer.Option("--overwrite", help="Replace finished tables that were made with other settings.")
]
PushOption = Annotated[
    str | None, typer.Option("--push-dataset", metavar="OWNER/NAME", help="Publish the finished tables as a dataset.")
]


@dataclass(frozen=True)
class ConfigOptions:
    """Which config, and what it says differently this time."""

    config: Annotated[Path, typer.Option("--config", help="The YAML file that configures all stages.")]
    set: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Instead of the config's, as in av.lr=3e-5; repeat for more."),
    ] = None

    def load(self, changes: Mapping[str, Any] | None = None) -> Config:
        """The config with `--set` and with `changes`, which other options make; None in them is no change.

        Raises:
            InputError: it is missing or malformed, or a change is; the message names the key.
        """
        given = {key: value for key, value in (changes or {}).items() if value is not None}
        return Config.load(self.config, overrides.parse(self.set or ()) | given)


def run_command(command: typer.Typer | Callable[..., object], *, stopped: str = STOPPED) -> NoReturn:
    """Run a command of `python -m training.…` and exit, as `nla_sdk.cli.boundary` says.

    Args:
        stopped: said on Ctrl-C, where the work does not say itself what it keeps; `UNCHANGED` where it keeps nothing.
    """
    boundary.run(command, stopped=stopped, less_memory=LESS_MEMORY)


def spread_of(engine: EngineOptions) -> Spread | None:
    """What gives a stage its actors; None: it works here.

    Raises:
        InputError: options of a cluster without one.
    """
    if not engine.refuse_early(""):  # a stage has its own place to write to
        return None

    def spread(unit: Held) -> AbstractContextManager[Pool]:
        return engine.opened(unit, unit.lying())

    return spread


def cluster_stage(run: Callable[..., object]) -> Callable[..., object]:
    """A command for the stage function `run(config, spread=…)`, whose chunks the actors of a cluster may make."""

    def command(config: ConfigOptions, engine: EngineOptions) -> None:
        print(run(config.load(), spread=spread_of(engine)))

    return _named(command, run)


def trainer_command(
    run: Callable[..., object], role: str, show_plan: Callable[[Config, str], int]
) -> Callable[..., object]:
    """A command for the trainer `run(config, name=…)` of `role`.

    Args:
        show_plan: `show_plan(config, role)` prints what memory the run would need, and returns an exit code.
    """

    def command(
        config: ConfigOptions,
        name: Annotated[str, typer.Option(help="Of the run: its folder inside the config's `out:`.")] = role,
        continue_from: Annotated[
            Path | None, typer.Option(help="Start from this half, with a new optimizer; give the run another --name.")
        ] = None,
        lr: Annotated[float | None, typer.Option(help="Instead of the config's learning rate.")] = None,
        plan: Annotated[bool, typer.Option("--plan", help="Say what memory the run would need, and stop.")] = False,
    ) -> None:
        loaded = config.load({f"{role}.lr": lr, f"{role}.continue_from": continue_from})
        if plan:
            raise typer.Exit(show_plan(loaded, role))
        made = run(loaded, name=name)
        if os.environ.get("RANK", "0") == "0":
            print(made)

    return _named(command, run)


def data_stage(run: Callable[..., object]) -> Callable[..., object]:
    """A command for the stage function `run(config, overwrite=…, push_dataset=…)`, which makes tables."""

    def command(config: ConfigOptions, overwrite: OverwriteOption = False, push_dataset: PushOption = None) -> None:
        print(run(config.load(), overwrite=overwrite, push_dataset=push_dataset))

    return _named(command, run)


def _named(command: Callable[..., object], run: Callable[..., object]) -> Callable[..., object]:
    """The command with its options taken apart, and the docstring of the stage's module as its help."""
    command.__doc__ = sys.modules[run.__module__].__doc__
    return expand(command)
