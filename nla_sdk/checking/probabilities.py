"""Receipts from the source's lm_head: what it reads in the vector itself (lens), and what it says at the position."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from ..contract.prompts.tokens import check_embedded
from ..model.backbone import Backbone
from ..model.batches import read_states
from ..model.extraction import tokenize
from ..model.running.watching import UNWATCHED, Watch
from .parts import Context

ROWS = 16  # whose logits over the whole vocabulary are in memory at once


class Said:
    """Log-probabilities of tokens, from states before the final norm.

    Args:
        states: [n, d_model], of the source's residual stream.
        wanted: of each row the token ids that are asked for.
        placed: also how many tokens are likelier than each.
    """

    def __init__(
        self,
        source: Backbone,
        adapter: str | None,
        states: torch.Tensor,
        wanted: Sequence[set[int]],
        watch: Watch,
        *,
        placed: bool = False,
    ) -> None:
        self.rows: list[dict[int, float]] = []
        self.places: list[dict[int, int]] = []
        for at in range(0, len(states), ROWS):
            with torch.no_grad(), source.using(adapter, watch.check):
                part = states[at : at + ROWS].to(device=source.device, dtype=source.dtype)
                logits = source.logits(source.final_norm(part)).float()
            totals = logits.logsumexp(-1)
            for row, (scores, total) in enumerate(zip(logits, totals, strict=True)):
                ids = sorted(wanted[at + row])
                found = (scores[torch.tensor(ids, dtype=torch.long, device=scores.device)] - total).tolist()
                self.rows.append(dict(zip(ids, found, strict=True)))
                if placed:
                    self.places.append({one: int((scores > scores[one]).sum()) for one in ids})

    def log(self, row: int, words: Sequence[tuple[int, ...]]) -> float | None:
        """The mean over words of the log-probability of any of a word's tokens; None: there is none."""
        if not words:
            return None
        known = self.rows[row]
        each = [torch.logsumexp(torch.tensor([known[at] for at in ids], dtype=torch.float64), 0) for ids in words]
        return float(torch.stack(each).mean())

    def place(self, row: int, words: Sequence[tuple[int, ...]]) -> int | None:
        """How many tokens are likelier than the likeliest of the words' tokens; None: there is none."""
        return min((self.places[row][at] for at in ids_of(words)), default=None)


def at_positions(
    source: Backbone, adapter: str | None, contexts: Sequence[Context], *, fast: bool, watch: Watch = UNWATCHED
) -> torch.Tensor:
    """The source's states after its last block, at the last token of each text up to its position: [n, d_model].

    Raises:
        TextError: a token has no embedding. EmptyBatchError: a text is empty.
    """
    rows = [list(one.ids) if one.ids is not None else tokenize(source.tokenizer, one.before) for one in contexts]
    for number, ids in enumerate(rows):
        check_embedded(source.tokenizer, ids, source.vocabulary, f"The text in row {number}")
    each = list(dict.fromkeys(tuple(ids) for ids in rows))  # a text may be asked about for several rows
    with torch.no_grad(), source.using(adapter, watch.check):
        wanted = [[len(ids) - 1] for ids in each]
        states = torch.cat(read_states(source, [list(ids) for ids in each], wanted, source.num_blocks - 1, fast=fast))
    place = {ids: at for at, ids in enumerate(each)}
    return states[[place[tuple(ids)] for ids in rows]]


def ids_of(words: Sequence[tuple[int, ...]]) -> Iterator[int]:
    """All ids of some words."""
    for ids in words:
        yield from ids
