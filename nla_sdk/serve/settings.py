"""How a pair is served: its limits, who may ask, and what is switched off."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..errors import InputError
from ..web.addresses import is_local

LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class Limits:
    """What one request may ask for. Characters, rows, tokens; the inference API's own where it states them."""

    text: int = 65_536  # characters of a text, or of all messages of a chat
    messages: int = 512
    positions: int = 512  # of one request; and rows, where they are vectors or texts
    new_tokens: int = 4096
    completion_tokens: int = 512
    explanation: int = 8192  # characters
    question: int = 8192
    samples: int = 64  # of a row: n, and best_of
    site_text: int = 16_384
    site_positions: int = 16  # that are not cached yet
    nearby: int = 8  # positions on either side that are explained for a check
    name: int = 256  # characters of a name or a label


@dataclass(frozen=True)
class Settings:
    """How a pair is served.

    Attributes:
        host: that it listens at.
        secret: that requests must carry in X-SECRET-KEY; None: nobody asks for one.
        no_secret: serve another host than this machine's own without a secret.
        read_only: no uploads, nothing that the source model writes (steering, completion).
        concurrent: requests that work at a time; queue: that wait for their turn, more are told to come back.
        timeout: seconds that a request may take, waiting included; grace: seconds that running ones get at the end.
        max_body: bytes; None: 8 MiB, or what 512 vectors of the pair take.
        max_tokens: of a text that is read; None: what the base's context holds.
        frame: who may show the page in a frame, as the Content-Security-Policy writes it.
        per_hour: explanations' requests of the public site's API that an address has in an hour; None: any number.
        source: whether the source model may be used; without it texts cannot be read.
    Raises:
        InputError: another host without a secret, or a number out of range.
    """

    host: str = "127.0.0.1"
    secret: str | None = field(default=None, repr=False)
    no_secret: bool = False
    read_only: bool = False
    concurrent: int = 64
    queue: int = 128
    timeout: float = 600.0
    grace: float = 30.0
    max_body: int | None = None
    max_tokens: int | None = None
    frame: str = "'self'"
    per_hour: int | None = None
    source: bool = True
    limits: Limits = Limits()

    def __post_init__(self) -> None:
        for name, least in (("concurrent", 1), ("queue", 0), ("timeout", 0.1), ("grace", 0)):
            if not getattr(self, name) >= least:
                raise InputError(f"{name}={getattr(self, name)}: expected at least {least}.")
        for name in ("max_body", "max_tokens", "per_hour"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise InputError(f"{name}={value}: expected at least 1.")
        if self.secret is not None and not self.secret:
            raise InputError("The secret is empty; expected a text that nobody guesses.")
        if any(ord(letter) < 32 or letter in ";," for letter in self.frame):
            raise InputError(f"frame={self.frame!r}: expected sources as frame-ancestors takes them, split by spaces.")
        if not self.is_local and self.secret is None and not self.no_secret:
            raise InputError(
                f"{self.host} can be reached from other machines, and there is no secret. Name a variable that holds "
                "one (--secret-env VAR), or say that everybody may ask (--no-secret)."
            )

    @property
    def is_local(self) -> bool:
        """Whether only this machine reaches the host."""
        return is_local(self.host)

    @property
    def switched_off(self) -> tuple[str, ...]:
        """What `read_only` switches off, as the page is told."""
        return ("vectors", "steer", "complete") if self.read_only else ()
