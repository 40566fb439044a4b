"""The AV's best words, as rows to train it on: rejection sampling. `python -m training.fit.expert --config …`

Writes `expert.best_of` explanations for each of `expert.rows` activations of the rl split, one greedy and the others
sampled, keeps the one from which the AR in `<out>/ar/final` comes nearest to the activation, and puts them into
`<out>/expert.parquet`. `training.fit.av` mixes them in where its `sources` ask for expert (expert iteration: Anthony,
Tian and Barber 2017; as "ReST", Gulcehre et al. 2023). Killed, it goes on.

With `reward: {mse: 1, support: w}` the one is kept whose −mse + w · (mean calibrated probability of its claims) is
largest, by the `claims.json` of this pair (`training.fit.reward`). With `--engine ray` the actors of a cluster write
and choose (docs/howto/cluster.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from nla_sdk import NLAPair, metrics
from nla_sdk.checking.parts import Parts
from nla_sdk.claims.calibration import Calibration
from nla_sdk.halves.half import Half
from nla_sdk.jobs.cluster.stages import Spread
from nla_sdk.results import Explanation

from ..configs.command import cluster_stage, run_command
from ..configs.config import Config
from .engine.rollout import explain_rows
from .engine.rows import load_vectors
from .reward.support import PARTNERS, Support, find_calibration


def run(config: Config, *, spread: Spread | None = None) -> Path:
    """Write, choose, keep; returns the table's path.

    Args:
        spread: gives the actors that write and choose; None: this process does.
    Raises:
        InputError: a table or a half is missing; support is rewarded by another pair's calibration.
        MissingFileError: support is rewarded, and there is no calibration.
    """
    settings, halves = config.expert, {role: config.half_before(role) for role in ("av", "ar")}
    facts = {"best_of": settings.best_of, "temperature": settings.temperature, "seed": config.seed}
    best = _Nearest(settings.best_of, settings.temperature, config.seed)
    if settings.reward.support:
        calibration = find_calibration(
            "expert", settings.claims, {role: Half.find(str(half), role) for role, half in halves.items()}
        )
        facts |= {"reward": settings.reward.model_dump(), "claims_sha256": calibration.digest()}
        best = _Rewarded(config, calibration)
    return explain_rows(
        config,
        "expert",
        config.tables_from / "rl.parquet",
        rows=settings.rows,
        halves=halves,
        labeler="expert",
        closed=settings.vocabulary == "labels",
        explain=best,
        settings=facts,
        spread=spread,
    )


@dataclass(frozen=True)
class _Nearest:
    """Of several explanations of each activation the one from which the AR comes nearest."""

    best_of: int
    temperature: float
    seed: int

    def __call__(self, pair: NLAPair, vectors: np.ndarray) -> Sequence[Explanation]:
        return pair.explain(vectors, best_of=self.best_of, temperature=self.temperature, seed=self.seed)


class _Rewarded:
    """Of several explanations of each activation the one with the largest reward."""

    def __init__(self, config: Config, calibration: Calibration) -> None:
        self.config, self.settings, self.calibration = config, config.expert, calibration
        self.support: Support | None = None

    def __call__(self, pair: NLAPair, vectors: np.ndarray) -> Sequence[Explanation]:
        self.support = self.support or self._supporter(pair)
        settings, count = self.settings, self.settings.best_of
        greedy = pair.explain(vectors)
        # One sample alone comes without a list around it.
        sampled = pair.explain(vectors, n=count - 1, temperature=settings.temperature, seed=self.config.seed)
        each = [[first, *([rest] if count == 2 else rest)] for first, rest in zip(greedy, sampled, strict=True)]
        texts = [str(one) if one.parsed else "" for row in each for one in row]
        wanted = torch.from_numpy(vectors).float().repeat_interleave(count, dim=0)
        error = torch.from_numpy(metrics.direction_mse(pair.reconstructor(texts), wanted)).float()
        reward = settings.reward.support * self.support(texts, wanted) - settings.reward.mse * error
        reward = torch.nan_to_num(reward, nan=-torch.inf).view(len(each), count)
        parsed = torch.tensor([[one.parsed for one in row] for row in each])
        reward[~parsed & parsed.any(dim=1, keepdim=True)] = -torch.inf  # never words that are no explanation
        return [row[at] for row, at in zip(each, reward.argmax(dim=1).tolist(), strict=True)]

    def _supporter(self, pair: NLAPair) -> Support:
        parts = Parts.of(pair)
        if "replacement" not in self.calibration.needed:
            return Support(self.calibration, parts)
        vectors = load_vectors(self.config.tables_from / "rl.parquet", PARTNERS)
        return Support(self.calibration, parts, (vectors.float(), [str(one) for one in pair.explain(vectors)]))


if __name__ == "__main__":
    run_command(cluster_stage(run))
