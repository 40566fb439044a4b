"""Stage 2: texts → explanations. `python -m training.label --config training/configs/demo.yaml`

Labels every row of the splits once per label set of the config (`label:`), and writes
`<out>/labels/<set>/<split>.parquet`. It can be killed at any moment and goes on where it was, without paying twice.
Keys are read from the environment: ANTHROPIC_API_KEY, OPENAI_API_KEY. With `--engine ray` the actors of a cluster ask
the providers, each with `label.concurrency` calls in flight and the keys of its node's environment
(docs/howto/cluster.md).
"""

from __future__ import annotations

from typing import Annotated

import typer

from nla_sdk.cli.options import EngineOptions, expand
from nla_sdk.errors import InputError

from ..configs.command import ConfigOptions, OverwriteOption, PushOption, run_command, spread_of
from .stage import run


@expand
def command(
    config: ConfigOptions,
    max_usd: Annotated[float | None, typer.Option(min=0.0, help="Stop before spending more than this.")] = None,
    max_calls: Annotated[int | None, typer.Option(min=1, help="Stop before making more calls than this.")] = None,
    concurrency: Annotated[int | None, typer.Option(min=1, help="Calls in flight at once.")] = None,
    wait_for_quota: Annotated[
        bool, typer.Option("--wait-for-quota", help="Sleep until a quota resets and go on, instead of stopping.")
    ] = False,
    only: Annotated[str | None, typer.Option("--only", metavar="NAME", help="Make this label set only.")] = None,
    overwrite: OverwriteOption = False,
    push_dataset: PushOption = None,
    *,
    engine: EngineOptions,
) -> None:
    spread = spread_of(engine)
    changes = {"max_usd": max_usd, "max_calls": max_calls, "concurrency": concurrency}
    changes |= {"wait_for_quota": wait_for_quota or None}
    loaded = config.load({f"label.{name}": value for name, value in changes.items()})
    if only is not None:
        chosen = [labels for labels in loaded.label.sets if labels.name == only]
        if not chosen:
            names = ", ".join(labels.name for labels in loaded.label.sets)
            raise InputError(f"The config has no label set {only!r}; it has {names}.")
        loaded = loaded.model_copy(update={"label": loaded.label.model_copy(update={"sets": chosen})})
    print(run(loaded, overwrite=overwrite, push_dataset=push_dataset, spread=spread), flush=True)


command.__doc__ = __doc__

if __name__ == "__main__":
    run_command(command)
