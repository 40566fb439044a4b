"""How the AV writes: one value, checked once, that every call passes on as it is."""

from __future__ import annotations

import math
import operator
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
        InputError: a setting is out of range, or no number.
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
        least = {"max_new_tokens": 1, "n": 1, "seed": None}
        for name, smallest in least.items():
            if name == "max_new_tokens" and self.max_new_tokens is None:
                continue
            object.__setattr__(self, name, whole_number(name, getattr(self, name), smallest))
        try:
            number = float("nan" if isinstance(self.temperature, (str, bytes, bool)) else self.temperature)
        except (TypeError, ValueError, RuntimeError):
            number = math.nan
        if not (math.isfinite(number) and number >= 0):
            raise InputError(f"temperature={self.temperature!r:.60}: expected a number ≥ 0.")
        object.__setattr__(self, "temperature", number)


def whole_number(name: str, value: object, smallest: int | None = None) -> int:
    """`value` as an int; NumPy's integers and one-element tensors of integers are whole numbers too.

    Args:
        name: of the setting, for messages.
        smallest: it may be; None: any.
    Raises:
        InputError: it is none, or smaller.
    """
    bound = "" if smallest is None else f" ≥ {smallest}"
    try:
        number = None if isinstance(value, bool) else operator.index(value)  # pyright: ignore[reportArgumentType]
    except TypeError:
        number = None
    if number is None:
        raise InputError(f"{name}={value!r} is a {type(value).__name__}; expected a whole number{bound}.")
    if smallest is not None and number < smallest:
        raise InputError(f"{name}={number}: expected a whole number{bound}.")
    return number


GREEDY = Sampling()
