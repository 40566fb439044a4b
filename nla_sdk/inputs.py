"""What a pair takes: vectors, texts and settings, as type checkers and the methods themselves tell them apart."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias, TypedDict, TypeGuard

from .errors import EmptyBatchError
from .model.extraction import is_chat

Chat: TypeAlias = Sequence[Mapping[str, str]]
"""One chat: messages of {"role", "content"}."""

Texts: TypeAlias = list[str] | tuple[str, ...] | Sequence[Chat]
"""Several texts, or several chats."""

Progress: TypeAlias = Callable[[int], None]
"""Called with the number of explanations just finished."""


class Writing(TypedDict, total=False):
    """The keyword arguments that `explain` and `round_trip` share."""

    max_new_tokens: int | None
    temperature: float
    best_of: int
    seed: int
    progress: Progress | None
    force: bool


def is_text(value: object) -> TypeGuard[str | Chat | Texts]:
    """Whether `value` is a text, a chat, or a list of texts or chats, rather than numbers.

    Raises:
        EmptyBatchError: it is an empty list.
    """
    if isinstance(value, str):
        return True
    if isinstance(value, (list, tuple)):
        if not value:
            raise EmptyBatchError("The list is empty; expected activations or texts.")
        return isinstance(value[0], (str, Mapping)) or is_chat(value[0])
    return False
