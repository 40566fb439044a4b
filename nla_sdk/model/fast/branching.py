"""Texts that begin alike in one sequence: what they share runs once, each goes on where it leaves the others.

Of the variants of one text, each changed at another place, about half of all tokens are beginnings that another has.
A token sees its own text's beginning and nothing else, at the positions that it has there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

LONGEST = 256  # tokens of a sequence: attention over it grows with its square
WORTH = 0.8  # of the tokens that texts have one by one: more than this is not worth a mask


@dataclass(eq=False)
class Branches:
    """One sequence of several texts.

    Attributes:
        ids: the tokens of all, each shared one once.
        paths: of each text where its tokens stand in `ids`.
    """

    ids: list[int] = field(default_factory=list)
    paths: dict[int, list[int]] = field(default_factory=dict)

    def add(self, text: int, tokens: Sequence[int], shared: int, like: int | None) -> None:
        """Another text, whose first `shared` tokens are those of the text `like`."""
        path = self.paths[like][:shared] if like is not None else []
        new = range(len(self.ids), len(self.ids) + len(tokens) - shared)
        self.ids += tokens[shared:]
        self.paths[text] = [*path, *new]


def branched(texts: Mapping[int, Sequence[int]]) -> list[Branches] | None:
    """Texts by number in as few tokens as they need; None: they have hardly anything in common.

    Example:
        >>> [one.ids for one in branched({0: [1, 2, 3, 4], 1: [1, 2, 3, 5]})]
        [[1, 2, 3, 4, 5]]
    """
    made: list[Branches] = []
    before: int | None = None
    for text in sorted(texts, key=lambda number: (list(texts[number]), number)):
        tokens = texts[text]
        shared = 0 if before is None else common(texts[before], tokens)
        if not shared or len(made[-1].ids) + len(tokens) - shared > LONGEST:
            made.append(Branches())
            shared, before = 0, None
        made[-1].add(text, tokens, shared, before)
        before = text
    alone, together = sum(map(len, texts.values())), sum(len(one.ids) for one in made)
    return made if together <= WORTH * alone else None


def common(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two texts begin with in common; at least one of the other's own is left."""
    most = min(len(one), len(other) - 1)
    return next((at for at in range(most) if one[at] != other[at]), most)


@dataclass(frozen=True, eq=False)
class Layout:
    """How a batch of such sequences is to be run.

    Attributes:
        ids: int64 [rows, tokens], padded on the right.
        positions: int64 [rows, tokens], in each token's own text, from 0 after the beginning of all.
        seen: bool [rows, 1, tokens, before + tokens]: what each token sees; padding sees itself.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    seen: torch.Tensor

    @classmethod
    def of(cls, batch: Sequence[Branches], before: int) -> Layout:
        """Behind a beginning of `before` tokens that all texts have."""
        width = max(len(one.ids) for one in batch)
        ids, positions = (torch.zeros(len(batch), width, dtype=torch.long) for _ in range(2))
        seen = torch.zeros(len(batch), 1, width, before + width, dtype=torch.bool)
        seen[..., :before] = True
        seen[:, 0].diagonal(before, 1, 2).fill_(True)
        for row, one in enumerate(batch):
            ids[row, : len(one.ids)] = torch.tensor(one.ids)
            for path in one.paths.values():
                places = torch.tensor(path)
                positions[row, places] = torch.arange(len(path))
                seen[row, 0][places[:, None], before + places] = torch.ones(
                    len(path), len(path), dtype=torch.bool
                ).tril()
        return cls(ids, positions, seen)
