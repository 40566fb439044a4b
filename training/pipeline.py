"""All data stages, text to training tables: `python -m training.pipeline --config training/configs/demo.yaml`

extract → split → label → build, each exactly as its own command runs it; before label, readout, where a label set
wants it. Finished stages are skipped, a killed one goes on where it was: running the same command again is always
the right thing to do.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from .configs.config import Config
from .configs.data import CorpusSource
from .data import build, extract, split
from .label import readout
from .label import stage as label
from .runs.command import ConfigOption, OverwriteOption, PushOption, friendly

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


def main(
    config: ConfigOption,
    corpus: Annotated[
        str, typer.Option(help="Read this (a file, a folder, a Hub dataset) instead of extract.sources.")
    ] = "",
    overwrite: OverwriteOption = False,
    push_dataset: PushOption = None,
) -> None:
    with friendly():
        print(run(with_corpus(Config.load(config), corpus), overwrite=overwrite, push_dataset=push_dataset))


def with_corpus(config: Config, corpus: str) -> Config:
    """The config with `--corpus`, read as its first source says, in the place of its own sources."""
    if not corpus:
        return config
    first = next(
        (source for source in config.extract.sources if source.positions != "last"), CorpusSource(corpus=corpus)
    )
    sources = [first.model_copy(update={"corpus": corpus})]
    return config.model_copy(update={"extract": config.extract.model_copy(update={"sources": sources})})


main.__doc__ = __doc__

if __name__ == "__main__":
    typer.run(main)
