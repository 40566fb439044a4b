"""All data stages, text to training tables: `python -m training.pipeline --config training/configs/demo.yaml`

extract → split → label → build, each exactly as its own command runs it; before label, readout, where a label set
wants it. Finished stages are skipped, a killed one goes on where it was: running the same command again is always
the right thing to do.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from nla_sdk.cli.options import expand

from .configs.command import ConfigOptions, OverwriteOption, PushOption, run_command
from .configs.config import Config
from .data import build, extract, split
from .label import stage as label
from .label.readout import stage as readout

STAGES = {"extract": extract.run, "split": split.run, "readout": readout.run, "label": label.run, "build": build.run}


def run(config: Config, *, overwrite: bool = False, push_dataset: str | None = None) -> Path:
    """Run all stages; returns the folder of the finished tables."""
    options = {"overwrite": overwrite, "push_dataset": push_dataset}
    for name, stage in STAGES.items():
        if name == "readout" and config.readout is None:
            continue
        start = time.monotonic()
        stage(config, **options)
        print(f"{name}: done in {time.monotonic() - start:.0f} s", flush=True)
    return config.out


@expand
def main(
    config: ConfigOptions,
    corpus: Annotated[
        str, typer.Option(help="Read this (a file, a folder, a Hub dataset) instead of extract.sources.")
    ] = "",
    overwrite: OverwriteOption = False,
    push_dataset: PushOption = None,
) -> None:
    loaded = config.load(sources_of(config.load(), corpus))
    print(run(loaded, overwrite=overwrite, push_dataset=push_dataset))


def sources_of(config: Config, corpus: str) -> dict[str, Any]:
    """What `--corpus` changes: it is read as the config's first source is, in the place of all of them."""
    if not corpus:
        return {}
    first = next((source for source in config.extract.sources if source.positions != "last"), None)
    return {"extract.sources": [(first.model_dump(exclude_unset=True) if first else {}) | {"corpus": corpus}]}


main.__doc__ = __doc__

if __name__ == "__main__":
    run_command(main)
