"""What the AV itself writes, as rows for the AR. `python -m training.fit.on_policy --config training/configs/demo.yaml`

An AR that has seen true labels only does not understand the AV's own words (measured on the demo base: round-trip FVE
below zero). This explains `on_policy_rows` of the AR's activations with the AV in `<out>/av/final` and writes
`<out>/on_policy.parquet`, which `training.fit.ar` mixes in when its `sources` ask for on_policy. Killed, it goes on.

The AV writes tokens that occur in the labels it was trained on (`ar.on_policy_vocabulary: all` takes that away): the
softmax over all of a vocabulary is most of a token's cost on a CPU, and most texts are the same without it.
"""

from __future__ import annotations

from pathlib import Path

from ..configs.command import run_command, run_stage
from ..configs.config import Config
from .engine.rollout import explain_rows


def run(config: Config) -> Path:
    """Explain the AR's activations; returns the table's path."""
    settings = config.ar
    return explain_rows(
        config,
        "on_policy",
        config.out / "ar_sft.parquet",
        rows=settings.on_policy_rows,
        halves={"av": config.half("av")},
        labeler="av",
        closed=settings.on_policy_vocabulary == "labels",
        explain=lambda pair, vectors: pair.explain(vectors),
        settings={},
    )


if __name__ == "__main__":
    run_command(run_stage(run))
