"""Token ids of a text, whatever the tokenizer adds, nests or prints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...errors import TextError


def _call(tokenizer: Any, text: str | list[str], **options: Any) -> Any:
    # verbose=False: "sequence is longer than the model's maximum" is ours to deal with, not to print
    return tokenizer(text, verbose=False, **options)["input_ids"]


def flat(ids: Any) -> list[int]:
    """A plain list of ids from whatever holds one row of them: transformers 5 gives a dict, others nest once more."""
    if hasattr(ids, "keys"):
        ids = ids["input_ids"]
    if hasattr(ids, "tolist"):
        ids = ids.tolist()
    if len(ids) == 1 and isinstance(ids[0], (list, tuple)):
        ids = ids[0]
    return [int(token) for token in ids]


def one_bos(tokenizer: Any, ids: list[int]) -> list[int]:
    """The ids with BOS exactly once in front, where the tokenizer has one; whether it adds it by itself differs."""
    bos = getattr(tokenizer, "bos_token_id", None)
    if bos is None:
        return ids
    text = next((position for position, token in enumerate(ids) if token != bos), len(ids))
    return [bos, *ids[text:]]


def encode(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    """Ids of whole prompts, with BOS where there is one, in one call of the tokenizer."""
    return [one_bos(tokenizer, list(ids)) for ids in _call(tokenizer, texts)] if texts else []


def plain(tokenizer: Any, text: str) -> list[int]:
    """Ids of a text without anything put around it."""
    return flat(_call(tokenizer, text, add_special_tokens=False))


def plain_batch(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    """`plain` of many texts, in one call of the tokenizer."""
    return [list(ids) for ids in _call(tokenizer, texts, add_special_tokens=False)] if texts else []


def standing_alone(tokenizer: Any, text: str) -> list[int]:
    """Ids of a text by itself; SentencePiece-like tokenizers put a space token before it, dropped here."""
    ids = plain(tokenizer, text)
    return ids[1:] if len(ids) == 2 and not tokenizer.decode(ids[:1]).strip() else ids


def control_tokens(tokenizer: Any, text: str) -> list[str]:
    """The control tokens that a tokenizer reads in a text, as they are written: `<|im_end|>`, `<bos>`."""
    added = getattr(tokenizer, "added_tokens_decoder", {}).values()
    known = {str(token) for token in added if token.special} | set(getattr(tokenizer, "all_special_tokens", ()))
    return sorted(token for token in known if token and token in text)


def check_embedded(tokenizer: Any, ids: Sequence[int], vocabulary: int, where: str) -> None:
    """Refuse tokens that the model has no embedding for: the lookup would end in an IndexError, or in another row.

    Args:
        vocabulary: how many it has; `Backbone.vocabulary`.
        where: they stand, as the message begins: `The text in row 3`.
    Raises:
        TextError: names the first one.
    """
    if (token := max(ids, default=0)) >= vocabulary:
        raise TextError(
            f"{where} holds the token {pieces(tokenizer, token)}, for which the model has no embedding: its ids "
            f"end at {vocabulary - 1}. Leave it out, or write it otherwise."
        )


def neighbours(ids: Sequence[int], position: int) -> tuple[int | None, int | None]:
    """The ids left and right of a position; None at an end."""
    return (
        ids[position - 1] if position else None,
        ids[position + 1] if position + 1 < len(ids) else None,
    )


def common_tail(a: Sequence[int], b: Sequence[int]) -> int:
    """How many ids at their ends two sequences have in common."""
    length = 0
    while length < min(len(a), len(b)) and a[-1 - length] == b[-1 - length]:
        length += 1
    return length


def pieces(tokenizer: Any, ids: int | Sequence[int] | None) -> str:
    """Ids with the pieces they stand for, for messages: `[29 '>', 522 '</']`."""
    if ids is None:
        return "nothing"
    ids = [ids] if isinstance(ids, int) else list(ids)
    texts = tokenizer.convert_ids_to_tokens(ids)
    return "[" + ", ".join(f"{token} {text!r}" for token, text in zip(ids, texts, strict=True)) + "]"
