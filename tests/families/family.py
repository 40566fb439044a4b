"""A tiny pair of one family of the census: its files, what is stated of it, and its plain computation."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from tests import tiny

from . import plain
from .bases import D

ROWS = 16
Prepare = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class PlainAV:
    """What an AV writes, by hand.

    Attributes:
        model: of transformers, its adapters added to its weights.
        tokenizer: what it reads and writes with.
        prompt: token ids, rendered by hand.
        marker: its token id.
        inject: model, marker positions, vectors [rows, markers, d] → the context in which the prompt is run.
        parse: raw output → text.
        steps: tokens at most.
        closes: whether the closing tag ends an output.
    """

    model: Any
    tokenizer: Any
    prompt: list[int]
    marker: int
    inject: Callable[[Any, list[int], torch.Tensor], AbstractContextManager]
    parse: Callable[[str], str] = plain.tagged
    steps: int = 8
    closes: bool = True

    def written(self, vectors: torch.Tensor) -> list[tuple[str, bool]]:
        """Text of each row [rows, d] or [rows, markers, d], and whether its greedy choice was clear all along."""
        positions = [at for at, token in enumerate(self.prompt) if token == self.marker]
        vectors = vectors if vectors.ndim == 3 else vectors[:, None]
        assert len(positions) == vectors.shape[1]
        with self.inject(self.model, positions, vectors):
            rows = plain.write(
                self.model,
                self.prompt,
                len(vectors),
                self.steps,
                end=self.tokenizer.eos_token_id,
                closes=lambda tokens: self.closes and plain.CLOSE in self.tokenizer.decode(tokens),
            )
        return [(self.parse(self.tokenizer.decode(row.tokens, skip_special_tokens=True)), row.clear) for row in rows]


@dataclass(frozen=True)
class Family:
    """One family, with what a user says and calls.

    Attributes:
        rows: of RELEASES.md §1.
        halves: `av`, `ar` and what else `from_pretrained` is told.
        stated: the facts that neither its files nor a known release say.
        av, ar: the plain computation: an AV, and texts → vectors.
        explain: how a user asks; pair, vectors → explanations.
        reconstruct: likewise; pair, texts → vectors.
        shape: of one row's vectors.
    """

    rows: str
    halves: Mapping[str, Any]
    stated: Mapping[str, Any]
    av: PlainAV | None = None
    ar: Callable[[Sequence[str]], torch.Tensor] | None = None
    explain: Callable[[Any, torch.Tensor], list[str]] = lambda pair, vectors: pair.explain(vectors)
    reconstruct: Callable[[Any, list[str]], torch.Tensor] = lambda pair, texts: pair.reconstruct(texts)
    shape: tuple[int, ...] = (D,)
    notes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def contract(self) -> dict[str, Any]:
        """What is stated, and few tokens: the plain loop is slow."""
        return dict(self.stated) | ({"max_new_tokens": self.av.steps} if self.av else {})

    @functools.cached_property
    def _clear(self) -> tuple[torch.Tensor, list[str]]:
        assert self.av is not None
        vectors = tiny.random(ROWS + 8, *self.shape, seed=8, scale=2.0)
        found = self.av.written(vectors)
        clear = [row for row, (_, is_clear) in enumerate(found) if is_clear][:ROWS]
        assert len(clear) == ROWS
        return vectors[clear], [found[row][0] for row in clear]

    def clear_rows(self) -> tuple[torch.Tensor, list[str]]:
        """16 rows whose greedy texts are no near ties, and these texts."""
        return self._clear


def load(found: Family, **stated: Any) -> Any:
    """A family's pair as a user loads it, with something else stated."""
    from nla_sdk import NLAPair

    return NLAPair.from_pretrained(**({"av": None} | dict(found.halves)), contract=found.contract | stated)


def without(facts: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in facts.items() if name not in names}


def by_hand(template: str, **fields: Any) -> str:
    """A template with its fields filled in."""
    for name, value in fields.items():
        template = template.replace("{" + name + "}", str(value))
    return template


def chat(tokenizer: Any, content: str, **options: Any) -> list[int]:
    """One user message through the tokenizer's own chat template; tokenised in one go, with nothing added."""
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True, **options
    )
    return tokenizer(text, add_special_tokens=False).input_ids


def raw(tokenizer: Any, text: str, *, bos: bool) -> list[int]:
    ids = tokenizer(text, add_special_tokens=False).input_ids
    return [tokenizer.bos_token_id, *ids] if bos else ids


def folders(root: Path, *names: str) -> list[Path]:
    made = [root / name for name in names]
    for folder in made:
        folder.mkdir(parents=True, exist_ok=True)
    return made
