"""What the AV itself writes, as rows for the AR. `python -m training.fit.on_policy --config training/configs/demo.yaml`

An AR that has seen true labels only does not understand the AV's own words (measured on the demo base: round-trip FVE
below zero). This explains `on_policy_rows` of the AR's activations with the AV in `<out>/av/final` and writes
`<out>/on_policy.parquet`, which `training.fit.ar` mixes in when its `sources` ask for on_policy. Killed, it goes on.

The AV writes tokens that occur in the labels it was trained on (`ar.on_policy_vocabulary: all` takes that away): the
softmax over all of a vocabulary is most of a token's cost on a CPU, and most texts are the same without it. A share of
the rows (`ar.on_policy_sampled`) is sampled. With `ar.on_policy_engine` an inference server writes; the AV is loaded
here all the same, and the server's first texts are held against it. With `--engine ray` the actors of a cluster write
(docs/howto/cluster.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nla_sdk import NLAPair
from nla_sdk.jobs.cluster.stages import Spread
from nla_sdk.results import Explanation

from ..configs.command import cluster_stage, run_command
from ..configs.config import Config
from .engine.rollout import explain_rows


def run(config: Config, *, spread: Spread | None = None) -> Path:
    """Explain the AR's activations; returns the table's path.

    Args:
        spread: gives the actors that do it; None: this process does.
    """
    settings, share = config.ar, config.ar.on_policy_sampled
    # Nothing where all is greedy and written here: tables that were made so before are the same.
    more = {"sampled": [share, settings.on_policy_temperature, config.seed]} if share else {}
    return explain_rows(
        config,
        "on_policy",
        config.tables_from / "ar_sft.parquet",
        rows=settings.on_policy_rows,
        halves={"av": config.half("av")},
        labeler="av",
        closed=settings.on_policy_vocabulary == "labels",
        explain=_Writer(share, settings.on_policy_temperature, config.seed),
        settings=more | ({"engine": True} if settings.on_policy_engine else {}),
        engine=settings.on_policy_engine,
        spread=spread,
    )


@dataclass(frozen=True)
class _Writer:
    """One explanation of each activation, a share of them sampled."""

    share: float
    temperature: float
    seed: int

    def __call__(self, pair: NLAPair, vectors: np.ndarray) -> Sequence[Explanation]:
        drawn = sampled(len(vectors), self.share)
        texts: dict[int, Explanation] = {}
        for rows, settings in ((~drawn, {}), (drawn, {"temperature": self.temperature, "seed": self.seed})):
            places = np.flatnonzero(rows).tolist()
            if places:
                texts.update(zip(places, pair.explain(vectors[places], **settings), strict=True))
        return [texts[at] for at in range(len(vectors))]


def sampled(count: int, share: float) -> np.ndarray:
    """bool [count]: which of so many rows are sampled, evenly spaced.

    Example:
        >>> sampled(4, 0.5).tolist()
        [False, True, False, True]
    """
    done = np.floor(np.arange(count + 1) * share)
    return done[1:] > done[:-1]


if __name__ == "__main__":
    run_command(cluster_stage(run))
