"""Source model: text → activations (the residual stream after one decoder block, at chosen positions)."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch

from ..contract.prompts.tokens import check_embedded
from ..errors import EmptyBatchError, InputError, LayerError, PositionError
from ..io.text import check_texts
from ..results import Activations
from .backbone import Backbone
from .batches import read_states
from .faults import first_rows, no_numbers

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def tokenize(tokenizer: PreTrainedTokenizerBase, text: str | Sequence[Mapping[str, str]]) -> list[int]:
    """Token ids of a text or of one chat (a list of {"role", "content"}), with exactly one BOS where there is one.

    Raises:
        EmptyBatchError: an empty text. InputError: something else than text or messages, or no chat template.
    """
    if isinstance(text, str):
        if not text:
            raise EmptyBatchError("The text is empty; expected at least one character to read an activation at.")
        ids = list(tokenizer(text, verbose=False).input_ids)
    else:
        if not getattr(tokenizer, "chat_template", None):
            raise InputError(
                "Chat messages were passed, but this base model's tokenizer has no chat template; pass plain text."
            )
        encoded = tokenizer.apply_chat_template(
            [dict(message) for message in text], add_generation_prompt=True, tokenize=True
        )
        ids = list(encoded["input_ids"] if isinstance(encoded, Mapping) or hasattr(encoded, "keys") else encoded)
    bos = tokenizer.bos_token_id
    if bos is None:
        return ids
    while len(ids) > 1 and ids[0] == ids[1] == bos:
        ids = ids[1:]
    return ids if ids and ids[0] == bos else [bos, *ids]


def resolve_positions(positions: int | str | Sequence[int], length: int) -> list[int]:
    """Positions as given (negative from the end, or "all") → indices in 0…length − 1.

    Raises:
        PositionError: out of range. EmptyBatchError: an empty list.
    """
    if isinstance(positions, str):
        if positions != "all":
            raise PositionError(f"positions={positions!r} is not known; use 'all', an integer or a list of integers.")
        return list(range(length))
    try:
        wanted = [operator.index(position) for position in _as_list(positions)]
    except TypeError as error:
        raise PositionError(f"positions={positions!r}: expected 'all', an integer or a list of integers.") from error
    if not wanted:
        raise EmptyBatchError("The list of positions is empty; expected at least one.")
    for position in wanted:
        if not -length <= position < length:
            raise PositionError(
                f"Position {position} does not exist: the text has {length} tokens ({-length} to {length - 1})."
            )
    return [position % length for position in wanted]


def _as_list(positions: int | Sequence[int]) -> list[int]:
    try:
        return list(positions)
    except TypeError:  # a single one, also a NumPy or torch integer
        return [positions]


def is_chat(text: object) -> bool:
    """Whether `text` is one chat: a non-empty list of {"role", "content"} mappings."""
    return isinstance(text, Sequence) and not isinstance(text, str) and len(text) > 0 and isinstance(text[0], Mapping)


class Extractor:
    """Reads activations from a backbone with all adapters off, or with one that makes it the fine-tune to be read."""

    def __init__(self, backbone: Backbone, adapter: str | None = None, *, fast: bool = True) -> None:
        self.backbone = backbone
        self.adapter = adapter
        self.fast = fast

    def __call__(
        self,
        text: str | Sequence[str] | Sequence[Mapping[str, str]] | Sequence[Sequence[Mapping[str, str]]],
        positions: int | str | Sequence[int] = -1,
        *,
        layer: int,
    ) -> Activations:
        """Read the residual stream after block `layer`.

        Args:
            text: a string, a chat (list of messages), or a list of strings or chats.
            positions: -1 (the last token), another index, "all", or a list of indices; the same for every text.
            layer: 0-indexed block.
        Raises:
            EmptyBatchError, PositionError, LayerError, InputError.
            TextError: what no tokenizer takes, or a token without an embedding; names the row.
            NonFiniteOutputError: the model gives NaN or infinity; names the texts (rows) and the cause.
        Example:
            >>> extractor("The cat sat on the mat.", "all", layer=12).vectors.shape
            torch.Size([8, 640])
        """
        if not 0 <= layer < self.backbone.num_blocks:
            raise LayerError(
                f"Layer {layer} does not exist: {self.backbone.ref} has layers 0 to {self.backbone.num_blocks - 1}."
            )
        if not isinstance(text, str) and not isinstance(text, Sequence):
            raise InputError(f"Expected a text, a chat or a list of them, got a {type(text).__name__}.")
        texts = [text] if isinstance(text, str) or is_chat(text) else list(text)
        if not texts:
            raise EmptyBatchError("The list of texts is empty; expected at least one.")
        if not all(isinstance(item, str) or is_chat(item) for item in texts):
            raise InputError("Every text must be a string or a list of {'role', 'content'} messages.")
        check_texts(texts, "The text")
        rows = [tokenize(self.backbone.tokenizer, item) for item in texts]
        for number, ids in enumerate(rows):
            check_embedded(self.backbone.tokenizer, ids, self.backbone.vocabulary, f"The text in row {number}")
        wanted = [resolve_positions(positions, len(ids)) for ids in rows]
        with torch.no_grad(), self.backbone.using(self.adapter):
            read = read_states(self.backbone, rows, wanted, layer, fast=self.fast)
            vectors = [states.float().cpu() for states in read]
            if lost := [at for at, states in enumerate(vectors) if not states.isfinite().all()]:
                at = lost[0]
                position = wanted[at][first_rows(~vectors[at].isfinite().all(dim=-1))[0]]
                what = f"The activation at layer {layer}, position {position},"
                raise no_numbers(what, lost, self.backbone, rows[at], block=layer)
        pieces = [self.backbone.tokenizer.decode([rows[i][p]]) for i, where in enumerate(wanted) for p in where]
        return Activations(
            vectors=torch.cat(vectors),
            tokens=pieces,
            positions=[p for where in wanted for p in where],
            texts=[i for i, where in enumerate(wanted) for _ in where],
            layer=layer,
        )
