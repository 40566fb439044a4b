"""The AV's best words, as rows to train it on: rejection sampling. `python -m training.fit.expert --config …`

Writes `expert.best_of` explanations for each of `expert.rows` activations of the rl split, one greedy and the others
sampled, keeps the one from which the AR in `<out>/ar/final` comes nearest to the activation, and puts them into
`<out>/expert.parquet`. `training.fit.av` mixes them in where its `sources` ask for expert (expert iteration: Anthony,
Tian and Barber 2017; as "ReST", Gulcehre et al. 2023). Killed, it goes on.
"""

from __future__ import annotations

from pathlib import Path

from ..configs.command import run_command, run_stage
from ..configs.config import Config
from .engine.rollout import explain_rows


def run(config: Config) -> Path:
    """Write, choose, keep; returns the table's path."""
    settings = config.expert
    return explain_rows(
        config,
        "expert",
        config.out / "rl.parquet",
        rows=settings.rows,
        halves={"av": config.half("av"), "ar": config.half("ar")},
        labeler="expert",
        closed=settings.vocabulary == "labels",
        explain=lambda pair, vectors: pair.explain(
            vectors, best_of=settings.best_of, temperature=settings.temperature, seed=config.seed
        ),
        settings={"best_of": settings.best_of, "temperature": settings.temperature, "seed": config.seed},
    )


if __name__ == "__main__":
    run_command(run_stage(run))
