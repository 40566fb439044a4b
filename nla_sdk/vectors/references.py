"""REF: a path or a Hub id, and which of its vectors: `#12`, `#3:9`, `#3,7`, `#name`, `@layer`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import InputError

_LAYER = re.compile(r"@(-?\d{1,9})$")
_NUMBERS = re.compile(r"-?\d{1,18}(,-?\d{1,18})*")
_SLICE = re.compile(r"(-?\d{1,18})?:(-?\d{1,18})?")


@dataclass(frozen=True)
class Reference:
    """A reference taken apart.

    Attributes:
        place: path or Hub id (with a folder or a file inside it).
        select: what stood behind `#`; None: all rows.
        layer: what stood behind `@`.

    Example:
        >>> Reference.of("ada/sae/layers.12#3:5@12")
        Reference(place='ada/sae/layers.12', select='3:5', layer=12)
    """

    place: str
    select: str | None = None
    layer: int | None = None

    @classmethod
    def of(cls, ref: str) -> Reference:
        """Take a reference apart. A path that is there is taken whole: a file's name may hold # and @.

        Raises:
            InputError: it is empty, or nothing is left of it.
        """
        text, select, layer = ref.strip(), None, None
        for _ in range(2):
            if _is_there(text):
                break
            if layer is None and (found := _LAYER.search(text)):
                layer, text = int(found[1]), text[: found.start()]
            elif select is None and "#" in text:
                text, select = _apart(text)
                if (found := _LAYER.search(select)) and layer is None:
                    layer, select = int(found[1]), select[: found.start()]
        if not text or select == "":
            raise InputError(
                f"{ref!r} names no vectors; expected a path or a Hub id, perhaps with #12, #3:9, #name, @layer."
            )
        return cls(text, select, layer)

    @property
    def is_name(self) -> bool:
        """Whether what stood behind `#` is neither numbers nor a slice."""
        return self.select is not None and not (_NUMBERS.fullmatch(self.select) or _SLICE.fullmatch(self.select))

    def rows(self, count: int, labels: Sequence[str] | None, numbers: Sequence[int] | None = None) -> list[int]:
        """The rows that are meant, of `count`: by number, slice, or name (a name goes before a number).

        Args:
            numbers: what each row is called, if not 0, 1, 2, …: those of one layer among others.

        Raises:
            InputError: there are none such; says what there is.
        """
        if self.select is None:
            return list(range(count))
        named = [row for row, label in enumerate(labels or ()) if label == self.select]
        if named:
            return named
        if numbers is not None and (_NUMBERS.fullmatch(self.select) or _SLICE.fullmatch(self.select)):
            wanted = self.rows(max(numbers) + 1, None)
            at = {number: row for row, number in enumerate(numbers)}
            if ":" not in self.select and (gone := [number for number in wanted if number not in at]):
                raise InputError(
                    f"{self.place}: #{gone[0]} is not of the layer that was said; leave one of the two out."
                )
            if found := [at[number] for number in wanted if number in at]:
                return found
            raise InputError(
                f"{self.place}: none of #{self.select} is of the layer that was said; leave one of the two out."
            )
        if _NUMBERS.fullmatch(self.select):
            wanted = [int(part) for part in self.select.split(",")]
            if bad := [row for row in wanted if not -count <= row < count]:
                raise InputError(f"{self.place} has {count:,} vectors; there is no #{bad[0]} (0 to {count - 1:,}).")
            return [row % count for row in wanted]
        if found := _SLICE.fullmatch(self.select):
            first, end = (int(part) if part else None for part in found.groups())
            wanted = list(range(count))[first:end]
            if not wanted:
                raise InputError(f"{self.place} has {count:,} vectors; #{self.select} is none of them.")
            return wanted
        shown = ", ".join((labels or ())[:8])
        has = f"its names are {shown}{', …' if len(labels or ()) > 8 else ''}" if labels else "they have no names"
        raise InputError(f"{self.place} holds no vector {self.select!r}; {has}; #0 to #{count - 1} are their numbers.")


def _apart(text: str) -> tuple[str, str]:
    """What stands before a # and behind it: before the last one a path that is there stands in front of (labels hold #
    too: `out.parquet##3`), else the first, as no Hub id holds one."""
    ends = [at for at, letter in enumerate(text) if letter == "#"]
    before = ((at, text[:at]) for at in reversed(ends))
    end = next((at for at, place in before if _is_there(place) or _is_there(_LAYER.sub("", place))), ends[0])
    return text[:end], text[end + 1 :]


def _is_there(text: str) -> bool:
    try:
        return Path(text).expanduser().exists()
    except (OSError, ValueError, RuntimeError):
        return False
