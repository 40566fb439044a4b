"""How near a claim comes to a text in meaning: cosines of sentence embeddings."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import torch

from ..claims.cutting import claims_of
from ..claims.forms.claim import Claim
from ..errors import InputError, first_line
from .parts import Encode


def likeness(
    encode: Encode, claims: Sequence[Sequence[Claim]], texts: Sequence[str | None]
) -> Callable[[int, Claim], float | None]:
    """A function of a row and a claim (of any row): the largest cosine with a sentence of the row's text.

    Every sentence and claim is embedded once. A text's sentences are cut as an explanation's are.
    """
    sentences = [_sentences(text) for text in texts]
    said = dict.fromkeys(one for row in sentences for one in row)
    said.update(dict.fromkeys(claim.text for row in claims for claim in row))
    number = {text: at for at, text in enumerate(said)}
    if not number:
        return lambda row, claim: None
    vectors = encode(list(number))
    of_rows = [vectors[torch.tensor([number[one] for one in row], dtype=torch.long)] for row in sentences]

    def like(row: int, claim: Claim) -> float | None:
        if not len(of_rows[row]):
            return None
        return float((of_rows[row] @ vectors[number[claim.text]]).max())

    return like


def _sentences(text: str | None) -> list[str]:
    if text is None:
        return []
    cut = [claim.text for claim in claims_of(text) if claim.kind in ("sentence", "item")]
    return cut or ([text] if text.strip() else [])


def embedder(model: Any) -> Encode:
    """A sentence-transformers model, by its name or itself, as a function.

    Raises:
        InputError: the library is not installed, the model cannot be loaded, or it is something else.
    """
    if isinstance(model, (str, os.PathLike)):
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError:
            raise InputError('meaning= needs sentence-transformers: pip install "nla-sdk[eval]".') from None
        try:
            model = SentenceTransformer(os.fspath(model), device="cpu")
        except (OSError, ValueError, RuntimeError) as error:
            raise InputError(f"The sentence embedder {model} cannot be loaded: {first_line(error)}") from error
    encode = getattr(model, "encode", None)
    if not callable(encode):
        raise InputError(f"meaning is a {type(model).__name__}; expected a SentenceTransformer or the name of one.")

    def embedded(texts: Sequence[str]) -> torch.Tensor:
        made = torch.as_tensor(encode(list(texts), convert_to_numpy=True, show_progress_bar=False))
        return torch.nn.functional.normalize(made.float(), dim=-1)

    return embedded
