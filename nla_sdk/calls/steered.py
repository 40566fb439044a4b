"""What the source wrote: by itself, and steered beside what it writes by itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from ..io.rows.shown import html_table
from .inputs import Chat


class Moved(NamedTuple):
    """A next token whose probability the vector changed.

    Attributes:
        token: as text.
        plain, steered: its probability without and with.
    """

    token: str
    plain: float
    steered: float


@dataclass(frozen=True)
class Completion:
    """What the source wrote on from a prompt.

    Attributes:
        prompt: that it went on from, which is not in the text.
        text: what it wrote.
        tokens: what each token adds to the text: all of them together are the text. A character that several tokens
            spell stands with the last of them.
        ids: the tokens, without an end token.
        finished: whether an end token came; False: it was cut at `max_new_tokens`.
    """

    prompt: str | Chat
    text: str
    tokens: tuple[str, ...]
    ids: tuple[int, ...]
    finished: bool

    def to_row(self) -> dict[str, Any]:
        """Its columns in a table."""
        names = ("prompt", "text", "tokens", "ids", "finished")
        return {name: list(value) if isinstance(value := getattr(self, name), tuple) else value for name in names}


@dataclass(frozen=True)
class Steered:
    """What the source wrote, with a vector added to its residual stream and without.

    Attributes:
        prompt: that it went on from.
        towards: the text that the vector is of, or the vector's name.
        strength, layer: how much of it was added, after which block.
        plain, steered: what it wrote without and with; the prompt is not in it.
        moved: of the first token written the probabilities that changed most, the largest change first.
    """

    prompt: str | Chat
    towards: str
    strength: float
    layer: int
    plain: str
    steered: str
    moved: tuple[Moved, ...] = ()

    def to_row(self) -> dict[str, Any]:
        """Its columns in a table; `moved` is a list of {"token", "plain", "steered"}."""
        row = {name: getattr(self, name) for name in ("prompt", "towards", "strength", "layer", "plain", "steered")}
        return {**row, "moved": [one._asdict() for one in self.moved]}

    def __repr__(self) -> str:
        return (
            f"Steered(towards {self.towards!r}, strength {self.strength:g}, layer {self.layer})\n"
            f"  plain   {self.plain!r}\n  steered {self.steered!r}"
        )

    def _repr_html_(self) -> str:
        return html_table([{name: value for name, value in self.to_row().items() if name != "moved"}])
