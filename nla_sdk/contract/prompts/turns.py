"""Where in a chat's rendered text each message stands, found by asking its template; no template is known by name.

A message's content is replaced by a mark and the chat rendered again: where the mark comes out, the content came in.
That is believed only where the text with the mark replaced is, character by character, the text that was rendered.
What a template writes behind a message is what stands behind its mark where it is the last one; what it writes before a
message of some role is what is left between two marks of small chats of that role. What neither tells is nobody's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

Section: TypeAlias = Literal["header", "content", "footer", "scaffold"]
Message: TypeAlias = Mapping[str, Any]
Render: TypeAlias = Callable[[Sequence[Message], bool], "str | None"]
"""Messages, and whether the chat is to be closed behind its last one (else as it was asked for), to the text; None: the
template fails on them."""

Place: TypeAlias = "tuple[int, int] | None"
MANY = 128
"""Messages of a chat whose turns are asked for one by one, a rendering each; of a longer one only the contents are."""
_ENDS = "\ue0a7", "\ue0a8"  # of a mark: private characters, which no template looks for


@dataclass(frozen=True)
class Turn:
    """A part of the rendered text that belongs to a message: text[start:end]."""

    start: int
    end: int
    message: int
    section: Section


def turns_of(render: Render, messages: Sequence[Message], text: str) -> list[Turn]:
    """The parts of a rendered chat that are known to be a message's, in their order; they do not overlap.

    Args:
        render: renders any messages as `text` was rendered.
        text: what it makes of `messages`.
    Example:
        >>> def lines(messages, closed):
        ...     return "".join(f"<{one['role']}> {one['content']};" for one in messages)
        >>> chat = [{"role": "user", "content": "Hi"}]
        >>> [(turn.section, "<user> Hi;"[turn.start : turn.end]) for turn in turns_of(lines, chat, "<user> Hi;")]
        [('header', '<user> '), ('content', 'Hi'), ('footer', ';')]
    """
    marks = _marks(len(messages), text)
    short = len(messages) <= MANY
    marked = [{**one, "content": mark} for one, mark in zip(messages, marks, strict=True)]
    places = _together(render, messages, marked, text)
    if places is None:
        places = _one_by_one(render, messages, marked, text) if short else [None] * len(messages)
    found = [Turn(*place, at, "content") for at, place in enumerate(places) if place is not None]
    heads = {role: _headers(render, role) for role in {one.get("role") for one in messages}} if short else {}
    for at in range(len(messages) + 1) if short else ():
        before = places[at - 1] if at else (0, 0)
        behind = places[at] if at < len(messages) else (len(text), len(text))
        if before is None or behind is None:
            continue
        start, end = before[1], behind[0]
        between = text[start:end]
        header = _longest(heads[messages[at].get("role")], between, first=not at) if at < len(messages) else ""
        footer = _tail(render, marked[:at]) if at else ""
        if not between.startswith(footer):
            footer = between.removesuffix(header) if header else ""
        if len(footer) + len(header) > len(between):
            continue  # they contradict each other
        if header and not between.endswith(header):  # a preamble of the first turn's own follows its header
            end = start + between.rfind(header) + len(header)
        if footer:
            found.append(Turn(start, start + len(footer), at - 1, "footer"))
        if header:
            found.append(Turn(end - len(header), end, at, "header"))
    return sorted((turn for turn in found if turn.end > turn.start), key=lambda turn: turn.start)


def _marks(count: int, text: str) -> list[str]:
    opening, closing = _ENDS
    while opening in text:
        opening += _ENDS[0]
    return [f"{opening}{number}{closing}" for number in range(count)]


def _as_written(content: str) -> Iterator[str]:
    """What templates make of a content that they keep: itself, or without white space at its ends."""
    yield from (content, content.strip(), content.lstrip(), content.rstrip())


def _together(render: Render, messages: Sequence[Message], marked: Sequence[Message], text: str) -> list[Place] | None:
    """Where every content stands, where one rendering tells; None: it does not."""
    frame = render(marked, False)
    if frame is None or any(frame.count(one["content"]) != 1 for one in marked):
        return None
    order = sorted(range(len(marked)), key=lambda at: frame.index(marked[at]["content"]))
    if order != list(range(len(marked))) or not all(isinstance(one.get("content", ""), str) for one in messages):
        return None
    for form in range(4):
        contents = [list(_as_written(one.get("content", "")))[form] for one in messages]
        places, made, left = [], "", frame
        for one, content in zip(marked, contents, strict=True):
            literal, _, left = left.partition(one["content"])
            made += literal
            places.append((len(made), len(made) + len(content)))
            made += content
        if made + left == text:
            return places
    return None


def _one_by_one(render: Render, messages: Sequence[Message], marked: Sequence[Message], text: str) -> list[Place]:
    """Where each content stands, each asked for among the others as they are: one that the template takes apart or
    leaves out has no place, and those beside it keep theirs."""
    places: list[Place] = []
    for at, one in enumerate(marked):
        frame = render([*messages[:at], one, *messages[at + 1 :]], False)
        content, place = messages[at].get("content", ""), None
        if frame is not None and isinstance(content, str) and frame.count(one["content"]) == 1:
            before, _, behind = frame.partition(one["content"])
            length = len(text) - len(before) - len(behind)
            written = text[len(before) : len(before) + length] if length >= 0 else ""
            if before + written + behind == text and (written in _as_written(content) or _rest(written, content)):
                place = len(before), len(before) + length
        places.append(place)
    ends = [0]
    for at, place in enumerate(places):  # out of their order or over each other, they are no chat's turns
        if place is not None and place[0] < ends[-1]:
            places[at] = None
        elif place is not None:
            ends.append(place[1])
    return places


def _rest(written: str, content: str) -> bool:
    """Whether it is the end of a content whose beginning the template leaves out: an answer without its thinking."""
    return bool(written.strip()) and content.rstrip().endswith(written.rstrip())


def _tail(render: Render, marked: Sequence[Message]) -> str:
    """What is written behind a chat's last message; "" where that cannot be told."""
    text = render(marked, True)
    mark = marked[-1]["content"]
    return "" if text is None or text.count(mark) != 1 else text.partition(mark)[2]


def _headers(render: Render, role: Any) -> set[str]:
    """What is written before a message of a role, in small chats that have one."""
    found = set()
    for roles in ([role, role], ["user", role], ["user", role, "user"], ["user", "assistant", role]):
        marked = [{"role": one, "content": mark} for one, mark in zip(roles, _marks(len(roles), ""), strict=True)]
        text = render(marked, True)
        if text is None or any(text.count(one["content"]) != 1 for one in marked):
            continue
        for at in range(1, len(marked)):
            between = text.partition(marked[at - 1]["content"])[2].partition(marked[at]["content"])[0]
            footer = _tail(render, marked[:at])
            if roles[at] == role and footer and between.startswith(footer):
                found.add(between.removeprefix(footer))
    return found - {""}


def _longest(headers: set[str], between: str, *, first: bool) -> str:
    """The header that stands right before a content; before the first one something may stand between them."""
    at_end = [header for header in headers if between.endswith(header)]
    before = [header for header in headers if first and header in between]
    return max(at_end or before, key=len, default="")
