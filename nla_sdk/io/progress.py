"""What long work says while it runs: progress bars of one pace, and lines that do not tear them."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tqdm import tqdm

LIVE, LOGGED = 0.5, 30.0
"""Seconds between two pictures of a bar: on a terminal, and where stderr is a file or a log."""


def progress_bar(
    total: int | None, unit: str, what: str, *, done: int = 0, shown: bool = True, leave: bool = True
) -> tqdm:
    """A progress bar on stderr, with rate and time left. Work of less than two seconds shows none.

    Args:
        total: how many there are; None: not known.
        unit: of what.
        what: is done, in a word or two.
        done: how many are there already.
        shown: False: no bar, for all processes but the first.
        leave: whether the full bar stays on the screen.
    Example:
        >>> with progress_bar(2, "row", "labels") as bar:
        ...     for row in range(2):
        ...         _ = bar.update(1)
    """
    from tqdm import tqdm

    return tqdm(
        total=total,
        initial=done,
        unit=unit,
        desc=what,
        leave=leave,
        disable=not shown,
        file=sys.stderr,
        delay=2,
        mininterval=LIVE if sys.stderr.isatty() else LOGGED,
    )


def end_bars() -> None:
    """Close what bars are still open, before the last line: they would be drawn once more below it."""
    if "tqdm" in sys.modules:
        for bar in list(getattr(sys.modules["tqdm"].tqdm, "_instances", ())):
            bar.leave = False
            bar.close()


def say(message: str) -> None:
    """A line on stderr, above the progress bar if there is one."""
    if "tqdm" in sys.modules:
        tqdm = sys.modules["tqdm"].tqdm
        tqdm.write(message, file=sys.stderr)
        for bar in list(getattr(tqdm, "_instances", ())):
            bar.delay = 0  # it has been drawn below the line, which close() does not know of work this short
    else:
        print(message, file=sys.stderr)
