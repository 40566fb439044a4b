"""What shows of a batch of activations without statistics of its base: cut off, padded, sinks, another mean."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .check import ActivationReport
from .means import ActivationMean

HALF_MAX = 65504.0  # the largest float16; where overflow is clamped, many numbers are exactly this
SINK = 5.0  # times the length of an activation; the demo's held-out rows reach 1.3 times, BOS 7 times
ENOUGH = 8  # rows whose mean says something, and whose median is the others' length
CUT, PADDED, FAR_OUT = "cut off at 65504", "equal to its neighbour", "an attention sink"


def look(vectors: torch.Tensor, mean: ActivationMean | None = None) -> ActivationReport | None:
    """What is wrong with a batch, as far as that shows by itself or beside the pair's mean; None: nothing.

    Args:
        vectors: float32 [n, d_model], raw.
        mean: of right activations, where it is known.
    """
    vectors = vectors.detach().cpu()
    if rows := _where((vectors.abs() == HALF_MAX).any(dim=1)):
        cause = "they hold 65504, the largest float16: what was larger has been cut off; read them in bfloat16"
        return _suspect(cause, rows, CUT)
    same = (vectors[1:] == vectors[:-1]).all(dim=1)
    if same.any() and not same.all():  # of one vector repeated on purpose all are
        equal = torch.cat([same, same[:1] & False]) | torch.cat([same[:1] & False, same])
        return _suspect("some rows equal their neighbours, as padding does", _where(equal), PADDED)
    return None if mean is None else _beside(vectors, mean)


def _beside(vectors: torch.Tensor, mean: ActivationMean) -> ActivationReport | None:
    norms = vectors.double().norm(dim=1)
    expected = mean.norm if mean.centred_norm is not None else None
    if expected is not None and (rows := _where(norms > SINK * expected)) and len(rows) < len(vectors):
        times = float(norms.max()) / expected
        cause = f"some rows have up to {times:.0f} times the length of an activation, as attention sinks do (BOS)"
        return _suspect(cause, rows, FAR_OUT)
    if expected is None or len(vectors) < ENOUGH:
        return None
    # A row has cosine ‖μ‖ / √(‖μ‖² + c²) with μ, give or take; the mean of several comes nearer.
    usual = float(mean.vector.double().norm()) / expected
    found = float(torch.cosine_similarity(vectors.double().mean(0), mean.vector.double(), dim=0))
    if found >= 2 * usual - 1:
        return None
    cause = (
        f"their mean has cosine {found:.2f} with that of the pair's activations, single ones have {usual:.2f}: "
        "another layer or model, or a mean has been subtracted"
    )
    return ActivationReport("suspect", cause, cosine=found, norm=float(norms.median()), expected_norm=expected)


def _suspect(cause: str, rows: Sequence[int], state: str) -> ActivationReport:
    return ActivationReport("suspect", cause, rows=tuple((row, state) for row in rows))


def _where(which: torch.Tensor) -> list[int]:
    return which.nonzero()[:, 0].tolist()
