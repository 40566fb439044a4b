"""Stage 2: texts → explanations. `python -m training.label --config training/configs/demo.yaml`

Labels every row of the splits once per label set of the config (`label:`), and writes
`<out>/labels/<set>/<split>.parquet`. It can be killed at any moment and goes on where it was, without paying twice.
Keys are read from the environment: ANTHROPIC_API_KEY, OPENAI_API_KEY.
"""

from __future__ import annotations

from typing import Annotated

import typer

from nla_sdk.errors import InputError

from ..configs.config import Config
from ..runs.command import ConfigOption, OverwriteOption, PushOption, friendly
from .stage import run


def command(
    config: ConfigOption,
    max_usd: Annotated[float | None, typer.Option(min=0.0, help="Stop before spending more than this.")] = None,
    max_calls: Annotated[int | None, typer.Option(min=1, help="Stop before making more calls than this.")] = None,
    concurrency: Annotated[int | None, typer.Option(min=1, help="Calls in flight at once.")] = None,
    wait_for_quota: Annotated[
        bool, typer.Option("--wait-for-quota", help="Sleep until a quota resets and go on, instead of stopping.")
    ] = False,
    only: Annotated[str | None, typer.Option("--set", metavar="NAME", help="Make this label set only.")] = None,
    overwrite: OverwriteOption = False,
    push_dataset: PushOption = None,
) -> None:
    with friendly():
        loaded = Config.load(config)
        changes = {"max_usd": max_usd, "max_calls": max_calls, "concurrency": concurrency}
        changes = {name: value for name, value in changes.items() if value is not None}
        if wait_for_quota:
            changes["wait_for_quota"] = True
        if only is not None:
            changes["sets"] = [label_set for label_set in loaded.label.sets if label_set.name == only]
            if not changes["sets"]:
                names = ", ".join(label_set.name for label_set in loaded.label.sets)
                raise InputError(f"The config has no label set {only!r}; it has {names}.")
        loaded = loaded.model_copy(update={"label": loaded.label.model_copy(update=changes)})
        print(run(loaded, overwrite=overwrite, push_dataset=push_dataset), flush=True)


command.__doc__ = __doc__

if __name__ == "__main__":
    typer.run(command)
