"""How the AV writes: one value, checked once, that every call passes on as it is."""

from __future__ import annotations

from dataclasses import dataclass

from .errors import InputError


@dataclass(frozen=True)
class Sampling:
    """How explanations are written.

    Attributes:
        max_new_tokens: most tokens of one; None: the contract's.
        temperature: 0 is greedy.
        n: explanations per vector.
        seed: of the sampling; a row's samples depend on it, on their number and on the vector, never on other rows.
        ignore_end: write exactly `max_new_tokens` tokens, whatever they are (for benchmarks).
    Raises:
        InputError: a setting is out of range.
    Example:
        >>> Sampling(temperature=0.7, n=4, seed=1)
        Sampling(max_new_tokens=None, temperature=0.7, n=4, seed=1, ignore_end=False)
    """

    max_new_tokens: int | None = None
    temperature: float = 0.0
    n: int = 1
    seed: int = 0
    ignore_end: bool = False

    def __post_init__(self) -> None:
        limit = 1 if self.max_new_tokens is None else self.max_new_tokens
        if limit < 1 or self.n < 1 or not 0 <= self.temperature < float("inf"):  # NaN too
            raise InputError(
                f"max_new_tokens={self.max_new_tokens}, n={self.n}, temperature={self.temperature}: expected ≥ 1, ≥ 1, "
                "≥ 0 and finite."
            )


GREEDY = Sampling()
