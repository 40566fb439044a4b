"""The tokens of a text or a chat as they are shown: characters whole, and whose turn of a chat each belongs to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from ..contract.prompts.turns import Message, Section, Turn, turns_of
from ..errors import InputError
from ..model.extraction import Conversation, rendered, tokenize

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BROKEN = "\ufffd"
"""What a tokenizer prints for bytes that are no whole character."""
LONGEST = 8
"""Tokens that are looked through for the rest of a character; a longer run of broken ones is shown as it is."""


@dataclass(frozen=True)
class Token:
    """A token of a text or a chat.

    Attributes:
        token: as text; of one that holds only a part of a character, the text of all tokens that it spans.
        token_id, position: from 0; BOS is counted.
        fragment_index, fragment_count: which of the tokens that share this text it is, and how many those are.
        role, channel, message_index: of the message that it belongs to; None of a plain text, and where it belongs to
            none.
        section: "header", "content" or "footer" of a message, "scaffold": what belongs to none, or to none that the
            chat template lets be known; None of a plain text.
    """

    token: str
    token_id: int
    position: int
    fragment_index: int = 0
    fragment_count: int = 1
    role: str | None = None
    section: Section | None = None
    channel: str | None = None
    message_index: int | None = None

    def to_row(self) -> dict[str, Any]:
        """Its fields by name."""
        return asdict(self)


@dataclass(frozen=True)
class Tokens:
    """A text or a chat in tokens.

    Attributes:
        text: as the tokenizer was given it: the text, or the chat as its template renders it.
        ids: token ids, those that `NLAPair.extract` reads.
        tokens: one for each id.
    """

    text: str
    ids: list[int]
    tokens: list[Token]

    def continued(self, tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> list[Token]:
        """The tokens with those that a model wrote behind them: in a chat, content of the answer's role. A character
        may begin in the prompt and end in what was written."""
        every = [*self.ids, *ids]
        chat = any(token.section is not None for token in self.tokens)
        special = set(tokenizer.all_special_ids)
        last = next((one for one in reversed(self.tokens) if one.message_index is not None), None)
        open_turn = last if last is not None and last.section == "content" and last is self.tokens[-1] else None
        whose = open_turn or Token("", 0, 0, role="assistant")
        shown = []
        for at, (text, index, count) in enumerate(pieces(tokenizer, every)):
            facts: dict[str, Any] = {}
            if at < len(self.tokens):
                old = self.tokens[at]
                facts = {name: getattr(old, name) for name in ("role", "section", "channel", "message_index")}
            elif chat and every[at] in special:
                facts = {"section": "scaffold"}
            elif chat:
                facts = {"role": whose.role, "section": "content", "channel": whose.channel}
                facts["message_index"] = whose.message_index
            shown.append(Token(text, every[at], at, index, count, **facts))
        return shown


def tokens_of(
    tokenizer: PreTrainedTokenizerBase,
    text: str | Sequence[Mapping[str, str | None]],
    *,
    add_generation_prompt: bool = True,
    continue_final_message: bool = False,
    enable_thinking: bool | None = None,
) -> Tokens:
    """The tokens of a text, or of a chat as its template renders it.

    Args:
        text: a text, or messages of "role", "content" and what else the chat template reads ("channel"). A
            `Conversation` has its options already.
        add_generation_prompt, continue_final_message, enable_thinking: see `Conversation`.
    Raises:
        EmptyBatchError: an empty text. InputError: no chat template, or one that fails on the messages.
    Example:
        >>> tokens_of(tokenizer, "naïve").tokens[1]  # doctest: +SKIP
        Token(token='na', token_id=1789, position=1, fragment_index=0, fragment_count=1, …)
    """
    if isinstance(text, str):
        ids = tokenize(tokenizer, text)
        parts = pieces(tokenizer, ids)
        return Tokens(text, ids, [Token(one, ids[at], at, *which) for at, (one, *which) in enumerate(parts)])
    options = {
        "add_generation_prompt": add_generation_prompt,
        "continue_final_message": continue_final_message,
        "enable_thinking": enable_thinking,
    }
    chat = text if isinstance(text, Conversation) else Conversation(text, **options)
    whole, ids = rendered(tokenizer, chat), tokenize(tokenizer, chat)
    turns = turns_of(lambda messages, closed: _rendered(tokenizer, chat, messages, closed), chat, whole)
    parts = pieces(tokenizer, ids)
    whose = _turn_of_each(_spans(tokenizer, ids, parts, whole), turns)
    tokens = []
    for at, (shown, *which) in enumerate(parts):
        turn = whose[at]
        message: Message = {} if turn is None else chat[turn.message]
        section: Section = "scaffold" if turn is None else turn.section
        facts = (message.get("role"), section, message.get("channel"), None if turn is None else turn.message)
        tokens.append(Token(shown, ids[at], at, *which, *facts))
    return Tokens(whole, ids, tokens)


def _rendered(
    tokenizer: PreTrainedTokenizerBase, chat: Conversation, messages: Sequence[Message], closed: bool
) -> str | None:
    """Other messages as this chat is rendered, or with nothing behind the last; None: the template fails on them."""
    how = {
        "add_generation_prompt": not closed and chat.add_generation_prompt,
        "continue_final_message": not closed and chat.continue_final_message,
        "enable_thinking": chat.enable_thinking,
    }
    try:
        return rendered(tokenizer, Conversation(messages, **how))
    except InputError:
        return None


def pieces(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> list[tuple[str, int, int]]:
    """Each token's text, and which part of how many it is of that text: tokens that hold a character in parts are one
    text, which all of them show."""
    singles = [str(tokenizer.decode([token])) for token in ids]
    shown: list[tuple[str, int, int]] = []
    while (at := len(shown)) < len(ids):
        count, text = 1, singles[at]
        if BROKEN in text:
            for end in range(at + 2, min(at + LONGEST, len(ids)) + 1):
                if BROKEN not in singles[end - 1]:
                    break
                together = str(tokenizer.decode(list(ids[at:end])))
                if BROKEN not in together:
                    count, text = end - at, together
                    break
        shown += [(text, index, count) for index in range(count)]
    return shown


def _spans(
    tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], parts: Sequence[tuple[str, int, int]], text: str
) -> list[tuple[int, int] | None]:
    """Where in the text each token stands, from what the tokens print, else from what the tokenizer says; None: of one
    that does not stand in it (a BOS put before it), and of all where neither agrees with the text."""
    for added in (0, 1):
        if "".join(one for one, index, _ in parts[added:] if not index) == text:
            spans: list[tuple[int, int] | None] = [None] * added
            start = 0
            for shown, index, count in parts[added:]:
                spans.append((start, start + len(shown)))
                start += len(shown) if index == count - 1 else 0
            return spans
    if not tokenizer.is_fast:
        return [None] * len(ids)
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    added = len(ids) - len(encoded["input_ids"])
    if added not in (0, 1) or list(encoded["input_ids"]) != list(ids[added:]):
        return [None] * len(ids)
    # White space that a tokenizer leaves out of its offsets belongs to the token behind it.
    spans, end = [None] * added, 0
    for start, stop in encoded["offset_mapping"]:
        spans.append((min(start, end), max(stop, start)))
        end = max(end, stop)
    return spans


def _turn_of_each(spans: Sequence[tuple[int, int] | None], turns: Sequence[Turn]) -> list[Turn | None]:
    """The part of a turn that each token lies within as a whole; None: of one that lies in two, or in none."""
    found: list[Turn | None] = []
    at = 0
    for span in spans:
        while span is not None and at < len(turns) and turns[at].end <= span[0]:
            at += 1
        turn = turns[at] if at < len(turns) else None
        within = span is not None and turn is not None and span[0] < span[1]
        found.append(turn if within and turn.start <= span[0] and span[1] <= turn.end else None)
    return found
