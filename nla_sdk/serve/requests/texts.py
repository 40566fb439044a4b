"""Texts and chats as the source reads them: put through the chat template, held against limits, read at positions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ...errors import InputError, MissingHalfError
from ...io.text import check_text, check_texts
from ...model.extraction import Conversation, resolve_positions
from ...results import Activations
from ..settings import Settings
from ..tokens import Tokens, tokens_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ...pair import NLAPair
    from ..shapes.common import TextFields


def source_tokenizer(pair: NLAPair, settings: Settings) -> PreTrainedTokenizerBase:
    """The source's tokenizer.

    Raises:
        MissingHalfError: the server was started without a source.
    """
    require_source(settings)
    return pair.source.tokenizer


def require_source(settings: Settings) -> None:
    """Refuse what needs the source model.

    Raises:
        MissingHalfError: the server was started without one.
    """
    if not settings.source:
        raise MissingHalfError(
            "Texts are read by the source model, and this server has none; pass activations, or ask its owner."
        )


@dataclass(frozen=True)
class Reading:
    """A text or a chat that the source can read.

    Attributes:
        tokens: what it reads.
        given: the text or the chat, for the pair's methods, which take it in a list: a text is never a file's name.
    """

    tokens: Tokens
    given: str | Conversation

    def __len__(self) -> int:
        return len(self.tokens.ids)

    def shown(self) -> dict[str, Any]:
        """As /tokenize tells it."""
        tokens = [token.to_row() for token in self.tokens.tokens]
        return {"tokens": tokens, "prompt_length": len(self), "text": self.tokens.text}


def reading(pair: NLAPair, settings: Settings, shape: TextFields) -> Reading:
    """A text or a chat as the source reads it: the messages, where there are both.

    Raises:
        InputError: neither a text nor messages, a chat template that refuses them, more tokens than are read here.
        TextError, EmptyBatchError: as `NLAPair.extract`.
    """
    tokenizer = source_tokenizer(pair, settings)
    if shape.messages:
        names = ("add_generation_prompt", "continue_final_message", "enable_thinking")
        options = {name: getattr(shape, name) for name in names}
        given: str | Conversation = Conversation([message.model_dump() for message in shape.messages], **options)
        check_texts([given], "The chat")
    elif shape.text is not None:
        check_text(shape.text, "The text")
        given = shape.text
    else:
        raise InputError("Neither text nor messages; expected one of them.")
    tokens = tokens_of(tokenizer, given)
    most = settings.max_tokens or getattr(pair.source.model.config.get_text_config(), "max_position_embeddings", None)
    if most is not None and len(tokens.ids) > most:
        raise InputError(f"The text has {len(tokens.ids):,} tokens; this server reads {most:,} at most.")
    return Reading(tokens, given)


def wanted_positions(positions: int | str | Sequence[int] | None, length: int, most: int) -> list[int]:
    """Positions as asked for (none: all) → indices.

    Raises:
        PositionError: beyond the text. InputError: more than may be asked for at once.
    """
    found = resolve_positions("all" if positions is None or positions == [] else positions, length)
    if len(found) > most:
        raise InputError(f"{len(found):,} positions; expected at most {most} in one request. Name some of them.")
    return found


def layers_of(pair: NLAPair) -> Sequence[int] | None:
    """Of a pair whose prompt takes a vector of each of several layers: these."""
    how = None if pair.verbalizer is None else pair.verbalizer.contract.injection
    return None if how is None else how.layers


def read(
    pair: NLAPair, texts: Sequence[str | Conversation], positions: int | list[int], layer: int | Sequence[int] | None
) -> tuple[Activations, Callable[[Sequence[int]], Any]]:
    """What the source has at positions of texts, and what of it a pair's methods are given for some of the rows.

    Args:
        layer: the block that is read, of all or of each text; None: the pair's.
    """
    if pair.verbalizer is not None and layer is not None:
        pair.require_layers(layer)
    if (several := layers_of(pair)) is not None:
        if layer is not None:
            raise InputError(f"layer={layer}: its prompt takes a vector of each of the layers {list(several)}.")
        reads = [pair.extract(texts, positions, one) for one in several]
        own = next((one for one in reads if one.layer == pair.layer), reads[0])
        return own, lambda rows: [some(one, rows) for one in reads]
    if layer is not None and not isinstance(layer, int):
        if len(layer) != len(texts):
            raise InputError(f"layer names {len(layer)} layers for {len(texts)} texts; expected one of each, or one.")
        layer = layer[0] if len(set(layer)) == 1 else layer
    if isinstance(layer, int) or layer is None:
        acts = pair.extract(texts, positions, layer)
        return acts, lambda rows: some(acts, rows)
    reads = [pair.extract([text], positions, at) for text, at in zip(texts, layer, strict=True)]
    import torch

    whole = replace(
        reads[0],
        vectors=torch.cat([one.vectors for one in reads]),
        tokens=[token for one in reads for token in one.tokens],
        positions=[at for one in reads for at in one.positions],
        texts=list(range(len(reads))),
    )
    return whole, lambda rows: [reads[row] for row in rows]


def some(acts: Activations, rows: Sequence[int]) -> Activations:
    """Some rows of what was read."""
    rows = list(rows)
    return replace(
        acts,
        vectors=acts.vectors[rows],
        tokens=[acts.tokens[row] for row in rows],
        positions=[acts.positions[row] for row in rows],
        texts=[acts.texts[row] for row in rows],
    )
