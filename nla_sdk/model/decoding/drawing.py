"""The next token of each row: the likeliest, or drawn by the row's own generator; and the tokens that end a text."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import torch

from ..backbone import Backbone


def draw(
    logits: torch.Tensor,
    temperature: float,
    generators: Sequence[torch.Generator] | None,
    alive: Iterable[int],
) -> torch.Tensor:
    """Indices [n] into logits [n, vocabulary].

    Args:
        generators: one for each row there ever was; None: greedy.
        alive: which of these rows each row of `logits` is.
    """
    if generators is None:
        return logits.argmax(dim=-1)
    probabilities = torch.softmax(logits.float() / temperature, dim=-1).cpu()
    # No probabilities come of logits with NaN, which the caller sees, and none of a temperature so small that its
    # quotients overflow, which is greedy.
    drawn = [
        torch.multinomial(p, 1, generator=generators[row]) if there else scores.argmax()[None].cpu()
        for p, there, scores, row in zip(probabilities, (probabilities[:, 0] >= 0).tolist(), logits, alive, strict=True)
    ]
    return torch.cat(drawn).to(logits.device)


def row_generator(vector: torch.Tensor, seed: int, sample: int) -> torch.Generator:
    """A CPU random generator that depends on the vector's numbers, the seed and the sample's number only."""
    content = vector.detach().float().cpu().numpy().tobytes()
    digest = hashlib.sha256(content + f"|{seed}|{sample}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def end_token_ids(backbone: Backbone) -> frozenset[int]:
    """Tokens that end an output: the tokenizer's and the generation config's EOS."""
    ids: set[int] = set()
    for source in (backbone.tokenizer, backbone.model.generation_config, backbone.model.config.get_text_config()):
        found = getattr(source, "eos_token_id", None)
        ids.update(found if isinstance(found, (list, tuple)) else [] if found is None else [found])
    return frozenset(ids)
