"""Source model: text → activations (the residual stream after one decoder block, at chosen positions)."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from ..contract.prompts.tokens import check_embedded, flat
from ..errors import EmptyBatchError, InputError, LayerError, PositionError, first_line
from ..io.text import check_texts
from ..results import Activations
from .backbone import Backbone
from .batches import read_states
from .faults import first_rows, no_numbers

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Conversation(list["Mapping[str, str]"]):
    """A chat that says how the chat template is to be applied to it; a plain list of messages is opened for an answer.

    Attributes:
        add_generation_prompt: whether the opening of the assistant's answer is written behind the last message.
        continue_final_message: whether the last message is left open, to be gone on with; then nothing is opened.
        enable_thinking: handed to the template where it is not None; templates that know no such thing ignore it.
    """

    def __init__(
        self,
        messages: Iterable[Mapping[str, str | None]],
        *,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        enable_thinking: bool | None = None,
    ) -> None:
        super().__init__({key: value for key, value in one.items() if value is not None} for one in messages)
        self.add_generation_prompt = add_generation_prompt and not continue_final_message
        self.continue_final_message = continue_final_message
        self.enable_thinking = enable_thinking


def rendered(tokenizer: PreTrainedTokenizerBase, chat: Sequence[Mapping[str, str]], *, ids: bool = False) -> Any:
    """A chat through the tokenizer's chat template: its text, or its token ids.

    Raises:
        InputError: there is no chat template, or it fails on these messages.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise InputError(
            "Chat messages were passed, but this base model's tokenizer has no chat template; pass plain text."
        )
    how = chat if isinstance(chat, Conversation) else Conversation(chat)
    options: dict[str, Any] = {"continue_final_message": True} if how.continue_final_message else {}
    if how.enable_thinking is not None:
        options["enable_thinking"] = how.enable_thinking
    try:
        made = tokenizer.apply_chat_template(
            [dict(message) for message in how], add_generation_prompt=how.add_generation_prompt, tokenize=ids, **options
        )
    except Exception as error:  # a template is somebody's program, and raises what it likes
        roles = [message.get("role") for message in how]
        raise InputError(
            f"The tokenizer's chat template fails on messages of the roles {roles} ({type(error).__name__}: "
            f"{first_line(error)}). Pass a chat as the template takes it, or plain text."
        ) from error
    return flat(made) if ids else str(made)


def tokenize(tokenizer: PreTrainedTokenizerBase, text: str | Sequence[Mapping[str, str]]) -> list[int]:
    """Token ids of a text or of one chat (a list of {"role", "content"}), with exactly one BOS where there is one.

    Raises:
        EmptyBatchError: an empty text. InputError: something else than text or messages, no chat template, or one that
            fails on the messages.
    """
    if isinstance(text, str):
        if not text:
            raise EmptyBatchError("The text is empty; expected at least one character to read an activation at.")
        ids = list(tokenizer(text, verbose=False).input_ids)
    else:
        ids = rendered(tokenizer, text, ids=True)
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
