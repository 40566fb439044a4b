"""What ends an output, and the explanation taken out of it: the `output` block of a contract at work."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..results import UNTAGGED, Explanation

if TYPE_CHECKING:
    from ..contract import Contract

OPEN_TAG, CLOSE_TAG = "<explanation>", "</explanation>"
_BULLET = "-"


@dataclass(frozen=True)
class Stop:
    """What ends an output beside the model's end tokens.

    Attributes:
        tokens: ids that end it too, and are no part of it.
        tag: whether the closing tag ends it.
        budget: whether `max_new_tokens` is its proper end, so that no output is cut.
    """

    tokens: frozenset[int] = frozenset()
    tag: bool = True
    budget: bool = False

    @classmethod
    def of(cls, contract: Contract) -> Stop:
        """What a contract's `output.stop` says; nothing said is the closing tag."""
        rule = contract.output_stop
        tokens = frozenset([rule] if isinstance(rule, int) else [])
        return cls(tokens, rule in (None, "closing_tag"), rule == "budget")

    def closes(self, tokens: Sequence[int], decode: Callable[[Sequence[int]], str]) -> bool:
        """Whether the tokens written end in the closing tag: at one character a token, that is its length in tokens."""
        return self.tag and CLOSE_TAG in decode(tokens[-len(CLOSE_TAG) :])


def parse_output(
    raw: str, finished: bool, tokens: int = 0, *, form: str | None = None, stop: Stop | None = None
) -> Explanation:
    """Take the explanation out of raw output.

    Args:
        raw: the output as decoded.
        finished: whether it came to an end of its own: an end token, the closing tag, or a token of `stop`.
        tokens: how many were written.
        form: what the contract says of it, `output.form`:
            None: what stands between the tags where there are any, else all of it.
            tagged, span: what stands behind the opening tag, up to the closing one or the end. Without an opening tag
                there is no explanation: status "untagged", and the text is all of it.
            opened: the opening tag stands in the prompt: all up to the closing tag.
            lines: one item a line, blank lines dropped; between tags where there are any.
            dashes: likewise, each item with its `- `, as the ARs that were trained beside such AVs read it; without a
                single one "untagged".
            answer: all of it.
        stop: see `Stop`; None: the closing tag.
    Example:
        >>> parse_output("<explanation>\\nrain in spring\\n</explanation>", True, form="tagged")
        'rain in spring'
        >>> parse_output("It may be about rain.", True, form="tagged")
        'It may be about rain.' [untagged]
    """
    stop = stop or Stop()
    text: str | None
    if form in ("tagged", "span"):
        text, closed = _tagged(raw)
    elif form == "answer" and not stop.tag:
        text, closed = raw, False
    else:
        text, closed = _opened(raw) if form in ("opened", "answer") else _between(raw)
    found = text is not None
    text = (raw if text is None else text).strip()
    if form in ("lines", "dashes"):
        items = [item.strip() for item in text.splitlines() if item.strip()]
        found = form == "lines" or any(item.startswith(_BULLET) for item in items)
        text = "\n".join(items)
    ended = finished or closed or stop.budget
    status = "empty" if not text else UNTAGGED if not found else "ok" if ended else "truncated"
    return Explanation(text, status=status, raw=raw, tokens=tokens)


def text_so_far(raw: str, *, form: str | None, stop: Stop) -> str:
    """What `parse_output` will give at least, of an output that is still being written; see there.

    It is a beginning of what comes later: without half a tag or half a character at its end, and empty as long as an
    opening tag may still come. Only an output in another form than its AV's ends in a text that begins otherwise.
    """
    for tag in (OPEN_TAG, CLOSE_TAG):
        cut = next((at for at in range(len(tag) - 1, 0, -1) if raw.endswith(tag[:at])), 0)
        raw = raw[: len(raw) - cut]
    raw = raw.rstrip("\ufffd")
    if form in ("tagged", "span") and OPEN_TAG not in raw:
        return ""
    return str(parse_output(raw, False, form=form, stop=stop))


def _tagged(raw: str) -> tuple[str | None, bool]:
    """What stands behind the first opening tag, None where there is none; and whether it is closed."""
    _, opening, text = raw.partition(OPEN_TAG)
    if not opening:
        return None, False
    text, closed, _ = text.partition(CLOSE_TAG)
    return text.replace(OPEN_TAG, ""), bool(closed)


def _opened(raw: str) -> tuple[str, bool]:
    text, closed, _ = raw.partition(CLOSE_TAG)
    return text.lstrip().removeprefix(OPEN_TAG), bool(closed)


def _between(raw: str) -> tuple[str, bool]:
    text, closed, _ = raw.partition(CLOSE_TAG)
    if OPEN_TAG in text:
        text = text.split(OPEN_TAG, 1)[1].replace(OPEN_TAG, "")
    return text, bool(closed)
