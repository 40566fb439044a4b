"""Python's garbage collector made to wait where it could only waste time."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_lock = threading.Lock()
_waits = 0
_was_on = False


@contextmanager
def uncollected() -> Iterator[None]:
    """Have the collector wait while modules are imported or a large file is parsed.

    Millions of objects are made then and nearly all of them stay, so that looking through them over and over finds
    nothing: of the 6 s that the demo pair took to load it was more than one. What is dropped meanwhile is freed as
    ever; only cycles wait. What was made counts as old afterwards, or the next collection would look through all of it.

    Example:
        >>> with uncollected():
        ...     import json
    """
    global _waits, _was_on
    with _lock:
        if _waits == 0 and (_was_on := gc.isenabled()):
            gc.disable()
        _waits += 1
    try:
        yield
    finally:
        with _lock:
            _waits -= 1
            if _waits == 0 and _was_on:
                if gc.get_freeze_count() == 0:  # what somebody else has frozen would thaw with it
                    gc.freeze()
                    gc.unfreeze()  # into the oldest generation
                gc.enable()
