"""How near reconstructions came to activations, and of several explanations the one that came nearest."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from .. import metrics
from ..results import Explanation, Results, RoundTrip, Score
from ..sampling import Sampling
from ..vectors.kinds import Kind

TEMPERATURE = 0.7  # of the candidates of `best_of`, where no other is asked for


@dataclass(frozen=True, eq=False)
class DirectionTrip(RoundTrip):
    """A direction's way through the pair; `reconstruction` is what the AR's vector has over the mean.

    Attributes:
        kind: direction or difference; its table says so, or it would be read as one of activations.
    """

    kind: Kind = field(kw_only=True)

    def to_row(self) -> dict[str, Any]:
        """The kind, then a round trip's columns."""
        return {"kind": self.kind, **super().to_row()}


def score_rows(
    reconstructions: torch.Tensor,
    vectors: torch.Tensor,
    *,
    empty: torch.Tensor,
    mean: torch.Tensor | None,
    baseline_mse: float | None,
    matched: bool,
) -> Results[Score]:
    """The score of each row of [n, d_model] against the same row of another, beside what stands for no words.

    Args:
        reconstructions: float32 [n, d_model], of words.
        vectors: float32 [n, d_model], the raw activations.
        empty: float32 [d_model], or [n, d_model] where rows are of several layers: the reconstruction of no words.
        mean: float32 [d_model], the mean direction; None where it is not known.
        baseline_mse: FVE's denominator; None where it is not known.
        matched: whether the halves name each other.
    """
    activations = vectors.cpu()
    columns = [
        np.atleast_1d(metrics.cosine(made, activations)).tolist() if made is not None else [None] * len(activations)
        for made in (reconstructions.cpu(), empty.cpu(), None if mean is None else mean.cpu())
    ]

    def fve(cosine: float | None) -> float | None:
        return None if cosine is None or baseline_mse is None else metrics.fve(2.0 * (1.0 - cosine), baseline_mse)

    def gain(mse: float, mse_empty: float) -> float | None:
        found = metrics.gain(mse, mse_empty)
        return None if found == -math.inf else found  # tables and JSON have no infinity

    return Results(
        Score(
            cosine=cosine,
            mse=(mse := 2.0 * (1.0 - cosine)),
            fve=fve(cosine),
            matched=matched,
            gain=gain(mse, 2.0 * (1.0 - of_empty)),
            empty_cosine=of_empty,
            empty_fve=fve(of_empty),
            mean_cosine=of_mean,
            mean_fve=fve(of_mean),
        )
        for cosine, of_empty, of_mean in zip(*columns, strict=True)
    )


def write_best(
    write: Callable[[Sampling], Sequence[Explanation]],
    reconstruct: Callable[[Sequence[str], Sequence[int | None]], torch.Tensor],
    vectors: torch.Tensor,
    layers: Sequence[int | None],
    sampling: Sampling,
    count: int,
) -> tuple[list[Explanation], torch.Tensor]:
    """For each vector the best of `count` explanations by the AR's cosine, and its reconstruction.

    Args:
        write: explanations of all rows, `sampling.n` of each together.
        reconstruct: texts, and the layer that each is of, to float32 [n, d_model] on the CPU.
        vectors: float32 [n, d_model], raw.
        layers: that they were read from; None: the pair's.
        sampling: of the candidates. The first one is greedy, so that a choice is never worse than `explain` alone.
        count: candidates per vector, at least 2.
    Returns:
        n explanations and float32 [n, d_model] on the CPU.
    """
    greedy = write(replace(sampling, temperature=0.0, n=1))
    samples = replace(sampling, temperature=sampling.temperature or TEMPERATURE, n=count - 1)
    sampled = write(samples)
    candidates = [
        candidate
        for row, first in enumerate(greedy)
        for candidate in (first, *sampled[row * samples.n : (row + 1) * samples.n])
    ]
    # Short explanations are often written twice: each text is reconstructed once.
    number: dict[tuple[str, int | None], int] = {}
    keys = [(str(candidate), layers[at // count]) for at, candidate in enumerate(candidates)]
    places = [number.setdefault(key, len(number)) for key in keys]
    texts, of = zip(*number, strict=True)
    made = reconstruct(texts, of)[places].view(len(vectors), count, -1)
    cosines = np.nan_to_num(metrics.cosine(made, vectors.cpu()[:, None]), nan=-np.inf)
    parsed = np.array([candidate.parsed for candidate in candidates]).reshape(cosines.shape)
    cosines[~parsed & parsed.any(axis=1, keepdims=True)] = -np.inf  # never for words that are no explanation
    best = cosines.argmax(axis=1).tolist()  # of equals the first: the greedy one
    chosen = [candidates[row * count + place] for row, place in enumerate(best)]
    return chosen, torch.stack([made[row, place] for row, place in enumerate(best)])
