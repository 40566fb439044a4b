"""What is asked of a provider of completions, and what it answers: one request at a time, from any thread."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from ...configs.label import ProviderSettings as Settings


@dataclass(frozen=True)
class LabelRequest:
    """One question: the row's text and the base model's guesses, and the prompt rendered from them."""

    text: str
    next_tokens: Sequence[str]
    prompt: str


@dataclass(frozen=True)
class Completion:
    """One answer, and what it took. `cost_usd` is None where nobody knows the price."""

    text: str
    model: str
    tokens_in: int = 0
    tokens_out: int = 0
    cost_usd: float | None = 0.0


class Provider(Protocol):
    """What the passes need of a provider.

    Attributes:
        settings: its section of the config.
        retries: whether asking the same again can give something else.
    """

    settings: Settings
    retries: bool

    def complete(self, request: LabelRequest) -> Completion:
        """Answer.

        Raises:
            Fault: no usable answer; the kind of fault says what to do about it.
            LabelError: no request to this provider can succeed: no key, unknown model, not installed.
        """

    def close(self) -> None:
        """Let go of connections and child processes."""
