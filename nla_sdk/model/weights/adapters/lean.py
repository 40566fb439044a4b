"""PEFT without bitsandbytes, which takes a second to import and which only quantised layers need."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec

from ....imports import put_off, uncollected
from ...quiet import quiet

BITSANDBYTES = "bitsandbytes"
_ASKING = ("peft.tuners.lora.model", "peft.utils.quantization_utils")
_QUESTIONS = ("is_bnb_available", "is_bnb_4bit_available")
_lock = threading.RLock()


def import_peft() -> None:
    """Import PEFT, whose helpers (0.21) want bitsandbytes for one function: they get it when that is called."""
    if "peft" not in sys.modules:
        with quiet(), uncollected(), put_off(BITSANDBYTES):  # which logs where it is imported
            import peft  # noqa: F401


@contextmanager
def plain_layers() -> Iterator[None]:
    """Have PEFT put adapters on layers without importing bitsandbytes to learn whether they are of its kind.

    Where nobody has imported it none can be. Where somebody has, PEFT asks as ever.
    """
    with _lock:  # of two models that get adapters at once, one may be quantised
        if BITSANDBYTES in sys.modules:
            yield
            return
        modules = [import_module(name) for name in _ASKING if find_spec(name) is not None]
        before = [
            (module, name, getattr(module, name)) for module in modules for name in _QUESTIONS if hasattr(module, name)
        ]
        for module, name, _ in before:
            setattr(module, name, lambda: False)
        try:
            yield
        finally:
            for module, name, question in before:
                setattr(module, name, question)
