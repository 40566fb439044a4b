"""What is asked of an inference server, whichever it is: a text from embeddings, and what it says of itself."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from ..model.output import CLOSE_TAG
from .connection import Connection, EngineError, Request


@dataclass(frozen=True)
class Order:
    """One text to be written.

    Attributes:
        embeddings: float32 [tokens, d_model] of the prompt, as they enter the first block.
        limit: most tokens of it.
        ends: token ids that end it, and are no part of it; none: it is written up to the limit.
        closing: whether the closing tag ends it too.
        temperature: 0 is greedy.
        seed: of the sampling, below 2⁶³.
        allowed: the tokens that may be written; None: all.
    """

    embeddings: torch.Tensor
    limit: int
    ends: frozenset[int]
    closing: bool
    temperature: float = 0.0
    seed: int | None = None
    allowed: tuple[int, ...] | None = None

    @property
    def stops(self) -> list[str]:
        """Texts that end it."""
        return [CLOSE_TAG] if self.closing else []


PLAIN = {
    "top_p": 1.0,
    "top_k": -1,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "skip_special_tokens": False,
}
"""What both servers take from a model's generation_config.json where a request does not say it: no text is shaped."""


@dataclass(frozen=True)
class Server(ABC):
    """A running server and the model that it serves.

    Attributes:
        connection: its address.
        model: what the model is called there.
        version: of the server; "" where it does not say.
        longest: most tokens of prompt and text together; None: it does not say.
    """

    name: ClassVar[str]
    connection: Connection
    model: str
    version: str = ""
    longest: int | None = None

    def __str__(self) -> str:
        return " ".join(part for part in (self.name, self.version) if part) + f", model {self.model}"

    @property
    def identity(self) -> dict[str, str]:
        """What texts are said to be of: neither the address, which may change, nor a path of the server's machine."""
        return {"server": self.name, "version": self.version, "model": self.model.rstrip("/").rpartition("/")[2]}

    @abstractmethod
    def request(self, order: Order) -> Request:
        """What is sent for a text."""

    @abstractmethod
    def written(self, answer: Any) -> list[int]:
        """The token ids in what comes back, with the one that ended it if the server gives that.

        Raises:
            EngineError: there are none.
        """

    def reads(self, text: str) -> list[int] | None:
        """The ids of a text's tokens, without BOS; None: this server does not tell."""
        return self.tokenized({"prompt": text})

    def tokenized(self, what: dict[str, Any]) -> list[int] | None:
        """What its `/tokenize` makes of a prompt or a chat, without BOS; None: it has none."""
        body = {"model": self.model, **what, "add_special_tokens": False}
        said = self.connection.ask("POST", "/tokenize", body, optional=True)
        return token_ids(said.get("tokens")) if isinstance(said, dict) else None

    @abstractmethod
    def reads_chat(self, content: str) -> list[int] | None:
        """The ids of a chat of one user message, ready for the answer; None: this server does not tell."""

    @abstractmethod
    def refuse_vocabulary(self) -> None:
        """Refuse to write some tokens only, if the server cannot.

        Raises:
            InputError: that is so.
        """

    def no_tokens(self, found: object) -> EngineError:
        """What comes back is none of what this server gives."""
        keys = f"an object with {', '.join(sorted(found))}" if isinstance(found, dict) else f"a {type(found).__name__}"
        return EngineError(f"{self} answered with {keys[:200]}, and without the ids of the tokens that it wrote.")


def token_ids(found: object) -> list[int] | None:
    """A list of token ids, or None: it is none."""
    if not isinstance(found, Sequence) or isinstance(found, (str, bytes)):
        return None
    ids = list(found)
    return ids if all(isinstance(one, int) and not isinstance(one, bool) and one >= 0 for one in ids) else None
