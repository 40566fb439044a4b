"""What is kept between requests of the public site's API: explanations for a while, and how often an address asked."""

from __future__ import annotations

import hashlib
import secrets
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

from ..tokens import Tokens

HOUR = 3600.0
ADDRESSES = 10_000  # whose requests are counted; of more those are forgotten that came longest ago
KEPT, RESULTS = 256, 8192  # texts whose explanations are kept, and explanations of all of them


def fingerprint(read: Tokens) -> str:
    """What tells a text from another: its tokens, and whose they are. The same text may be read as other tokens (a chat
    and what it is rendered as), and be of other messages."""
    whose = [(one.role, one.section, one.channel, one.message_index) for one in read.tokens]
    return hashlib.sha256(repr((read.ids, whose)).encode("utf-8", "surrogatepass")).hexdigest()


@dataclass
class Kept:
    """A text's explanations by position; `text` is its fingerprint."""

    text: str
    results: dict[int, dict[str, Any]]


@dataclass
class Site:
    """What is kept between requests: explanations by keys that nobody guesses, and how often an address asked."""

    texts: OrderedDict[str, Kept] = field(default_factory=OrderedDict)
    asked: OrderedDict[str, list[float]] = field(default_factory=OrderedDict)

    def keep(self, text: str, results: dict[int, dict[str, Any]]) -> str:
        """Keep explanations of the text with a fingerprint; the longest unused ones go. Returns their key."""
        key = secrets.token_urlsafe(18)
        self.texts[key] = Kept(text, results)
        while len(self.texts) > KEPT or sum(len(one.results) for one in self.texts.values()) > RESULTS:
            self.texts.popitem(last=False)
        return key

    def known(self, key: str | None, text: str) -> dict[int, dict[str, Any]]:
        """What is kept of this very text; nothing where the key is not known any more, or of another text."""
        if key is None or (kept := self.texts.get(key)) is None or kept.text != text:
            return {}
        self.texts.move_to_end(key)
        return dict(kept.results)

    def left(self, address: str, limit: int) -> int:
        """Requests that an address has left in this hour, this one taken off; below 0: it has none."""
        now = time.monotonic()
        times = [at for at in self.asked.pop(address, []) if now - at < HOUR]
        left = limit - len(times) - 1
        self.asked[address] = times if left < 0 else [*times, now]
        while len(self.asked) > ADDRESSES:
            self.asked.popitem(last=False)
        return left
