"""How sure a vector makes one of what it is said to hold: the probability that a next token, or a word, is so.

A network of two hidden layers reads the activation and gives, for every next token and word that labels know, the
probability that the source has the token among its likeliest, and that the text so far has the word (by its stem). It
is fitted twice, on each half of the documents: what is said of a training row comes from the network that has not seen
its document, so that nobody is surer of what was trained on than of what was not. What one half says of the other's
rows corrects the network's own odds (Platt 1999), for tokens and words apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from nla_sdk.io.files import hash64
from nla_sdk.io.progress import progress_bar

if TYPE_CHECKING:
    import scipy.sparse

HIDDEN, DROPOUT, DECAY = 896, 0.3, 0.01
EPOCHS, BATCH, RATE = 4, 512, 1e-3
ASKED = 20  # of the surest of a row, that the odds are corrected by: nobody asks for others


class _Net(nn.Sequential):
    def __init__(self, width: int, names: int) -> None:
        layers: list[nn.Module] = []
        for before in (width, HIDDEN):
            layers += [nn.Linear(before, HIDDEN), nn.GELU(), nn.LayerNorm(HIDDEN), nn.Dropout(DROPOUT)]
        super().__init__(*layers, nn.Linear(HIDDEN, names))


@dataclass(frozen=True)
class Confidence:
    """Fitted: `of` gives probabilities.

    Attributes:
        nets: one for each half of the documents, fitted on the other half.
        scale: a direction's numbers times this are what the nets read.
        odds: of each name the factor and the term that correct its log-odds, float32 [names] each.
    """

    nets: tuple[nn.Module, nn.Module]
    scale: float
    odds: tuple[np.ndarray, np.ndarray]

    @classmethod
    def fit(
        cls,
        directions: np.ndarray,
        holds: scipy.sparse.csr_matrix,
        documents: Sequence[str],
        kinds: np.ndarray,
        seed: int = 0,
    ) -> Confidence:
        """Fit on centred directions float32 [n, d].

        Args:
            holds: [n, names], 1 where a name is so of a row.
            documents: of each row.
            kinds: int [names]: names whose odds are corrected alike.
        """
        scale = float(1.0 / max(directions.std(), 1e-30))
        halves = half_of(documents)
        bar = progress_bar(2 * EPOCHS, "epoch", "confidence")
        nets = tuple(_fitted(directions * scale, holds, np.flatnonzero(halves != half), seed, bar) for half in (0, 1))
        bar.close()
        plain = np.ones(len(kinds), np.float32), np.zeros(len(kinds), np.float32)
        made = cls((nets[0], nets[1]), scale, plain)
        return cls(made.nets, scale, made._corrected(directions, holds, halves, kinds))

    def of(self, directions: np.ndarray, documents: Sequence[str] | None = None) -> np.ndarray:
        """float32 [n, names]: probabilities.

        Args:
            documents: of rows that were fitted on; None: of none of these, and both nets are asked.
        """
        return _sigmoid(self._log_odds(directions, None if documents is None else half_of(documents)))

    def _log_odds(self, directions: np.ndarray, halves: np.ndarray | None) -> np.ndarray:
        given = torch.from_numpy(np.ascontiguousarray(directions * self.scale, dtype=np.float32))
        with torch.no_grad():
            each = [net(given).numpy() for net in self.nets]
        raw = (each[0] + each[1]) / 2 if halves is None else np.where(halves[:, None] == 0, each[0], each[1])
        return raw * self.odds[0] + self.odds[1]

    def _corrected(
        self, directions: np.ndarray, holds: scipy.sparse.csr_matrix, halves: np.ndarray, kinds: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        from sklearn.linear_model import LogisticRegression

        factors, terms = (np.copy(one) for one in self.odds)
        said: dict[int, list[tuple[np.ndarray, np.ndarray]]] = {}
        for start in range(0, len(directions), 4096):
            part = slice(start, start + 4096)
            odds = self._log_odds(directions[part], halves[part])
            there = holds[part].toarray()
            for kind in np.unique(kinds):
                of = np.flatnonzero(kinds == kind)
                surest = np.argsort(-odds[:, of], axis=1)[:, :ASKED]
                said.setdefault(int(kind), []).append(
                    (
                        np.take_along_axis(odds[:, of], surest, 1).ravel(),
                        np.take_along_axis(there[:, of], surest, 1).ravel() > 0,
                    )
                )
        for kind, parts in said.items():
            odds, there = (np.concatenate(one) for one in zip(*parts, strict=True))
            if 0 < there.mean() < 1:
                found = LogisticRegression(C=1e6).fit(odds[:, None], there)
                factors[kinds == kind], terms[kinds == kind] = found.coef_[0, 0], found.intercept_[0]
        return factors, terms


def half_of(documents: Sequence[str]) -> np.ndarray:
    """int [n], 0 or 1: the half that each document is in, by a hash of its id."""
    known = {one: hash64(f"half|{one}") % 2 for one in set(documents)}
    return np.array([known[one] for one in documents])


def _fitted(given: np.ndarray, holds: scipy.sparse.csr_matrix, rows: np.ndarray, seed: int, bar) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = _Net(given.shape[1], holds.shape[1])
        shares = np.clip(np.asarray(holds[rows].mean(axis=0)).ravel(), 1e-5, 1 - 1e-5)
        last = net[-1]
        assert isinstance(last, nn.Linear)
        with torch.no_grad():  # begins at each name's share
            last.weight.mul_(0.1)
            last.bias.copy_(torch.from_numpy(np.log(shares / (1 - shares))))
        optimizer = torch.optim.AdamW(net.parameters(), lr=RATE, weight_decay=DECAY)
        steps = -(-len(rows) // BATCH)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=EPOCHS * steps)
        draws = np.random.default_rng(seed)
        for _ in range(EPOCHS):
            order = draws.permutation(rows)
            for batch in np.array_split(order, steps):
                wanted = torch.from_numpy(holds[batch].toarray().astype(np.float32))
                read = torch.from_numpy(np.ascontiguousarray(given[batch], dtype=np.float32))
                loss = functional.binary_cross_entropy_with_logits(net(read), wanted, reduction="sum") / len(batch)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
            bar.update(1)
    return net.eval()


def _sigmoid(values: np.ndarray) -> np.ndarray:
    return (1.0 / (1.0 + np.exp(-np.clip(values, -60, 60)))).astype(np.float32)
