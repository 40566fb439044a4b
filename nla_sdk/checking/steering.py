"""Does steering with what the AR makes of a claim raise the tokens that it names?"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..model.backbone import Backbone
from ..model.decoding.steering import ROWS_PER_BATCH, adding, write
from ..model.extraction import tokenize
from ..model.running.watching import Watch
from ..sampling import Sampling

BEGINNINGS = ("The", "It is", "This is about the", "I think that the")
"""What the source goes on from: what comes next there is open."""


def next_scores(
    source: Backbone, adapter: str | None, layer: int, vectors: torch.Tensor, watch: Watch
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities of the next token, the mean over `BEGINNINGS`: float32 [vocabulary] without a vector, and
    [n, vocabulary] with each of vectors [n, d_model] added after block `layer`."""
    plain, steered, how = [], [], Sampling(1)
    with torch.no_grad(), source.using(adapter, watch.check):
        for beginning in BEGINNINGS:
            ids = tokenize(source.tokenizer, beginning)
            plain.append(write(source, [ids], None, how, 1, watch=watch)[1][0].log_softmax(-1))
            parts = []
            for at in range(0, len(vectors), ROWS_PER_BATCH):
                part = vectors[at : at + ROWS_PER_BATCH]
                add = adding(source, layer, part, len(ids))
                parts.append(write(source, [ids] * len(part), add, how, 1, watch=watch)[1].log_softmax(-1))
            steered.append(torch.cat(parts))
    return torch.stack(plain).mean(0), torch.stack(steered).mean(0)


def raised(plain: torch.Tensor, steered: torch.Tensor, words: Sequence[tuple[int, ...]]) -> float | None:
    """Nats by which the tokens of words are likelier, the mean over words; None: there are none.

    Args:
        plain, steered: float32 [vocabulary], log-probabilities.
    """
    if not words:
        return None
    each = [torch.logsumexp(steered[list(ids)], 0) - torch.logsumexp(plain[list(ids)], 0) for ids in words]
    return float(torch.stack(each).mean())
