"""Texts as a caller has them → what stands up to each activation's position, and behind it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from ..model.extraction import is_chat, resolve_positions, tokenize
from .parts import Context

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def contexts_of(
    texts: Sequence[Any], positions: Sequence[int], tokenizer: PreTrainedTokenizerBase
) -> tuple[list[Context], list[int]]:
    """One text (or chat) and one position a row → contexts, and the positions counted from 0.

    Raises:
        PositionError, EmptyBatchError; InputError: no chat template.
    """
    known: dict[int, list[int]] = {}
    contexts, places = [], []
    for text, position in zip(texts, positions, strict=True):
        if (ids := known.get(id(text))) is None:
            ids = known[id(text)] = tokenize(tokenizer, text)
        [at] = resolve_positions(position, len(ids))
        last = at == len(ids) - 1
        before = text if last and isinstance(text, str) else _decoded(tokenizer, ids[: at + 1])
        behind = "" if last else _decoded(tokenizer, ids[at + 1 :])
        contexts.append(Context(before, behind, tuple(ids[: at + 1])))
        places.append(at)
    return contexts, places


def _decoded(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    return str(tokenizer.decode(list(ids), skip_special_tokens=True))


def text_of_each(text: Any, rows: Sequence[int] | None, count: int) -> list[Any] | None:
    """The text of each of `count` rows; None: there is none.

    Args:
        rows: of Activations which of several texts each was read from.
    Raises:
        InputError: there are not as many texts as rows.
    """
    if text is None:
        return None
    if isinstance(text, str) or is_chat(text):
        return [text] * count
    if not isinstance(text, Iterable):
        raise InputError(f"text is a {type(text).__name__}; expected a text, a chat, or one for each activation.")
    texts = list(text)
    if bad := [one for one in texts if not isinstance(one, str) and not is_chat(one)]:
        raise InputError(f"One of the texts is a {type(bad[0]).__name__}; expected a text or a chat.")
    if rows is not None and len(texts) > max(rows, default=0) and len(texts) != count:
        return [texts[at] for at in rows]
    if len(texts) != count:
        raise InputError(f"{len(texts)} texts and {count} activations; expected one text, or as many.")
    return texts


def partners_of(explanations: Sequence[str], texts: Sequence[Any] | None) -> list[int | None]:
    """For each row the next one that says something else, where texts are known of another text; None: there is none.

    Example:
        >>> partners_of(["a", "a", "b"], None)
        [2, 2, 0]
    """
    count, found = len(explanations), []
    for row, own in enumerate(explanations):
        others = ((row + step) % count for step in range(1, count))
        fits = (at for at in others if explanations[at] != own and (texts is None or texts[at] != texts[row]))
        found.append(next(fits, None))
    return found
