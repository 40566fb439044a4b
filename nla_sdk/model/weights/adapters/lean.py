"""PEFT without bitsandbytes, which takes a second to import and which only quantised layers need."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from ....collector import uncollected
from ...quiet import quiet

BITSANDBYTES = "bitsandbytes"
_ASKING = ("peft.tuners.lora.model", "peft.utils.quantization_utils")
_QUESTIONS = ("is_bnb_available", "is_bnb_4bit_available")
_lock = threading.RLock()


class _Later(ModuleType):
    """Stands for a module that is imported once an attribute of it is asked for."""

    def __getattr__(self, name: str) -> Any:
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return getattr(import_module(self.__name__), name)


def import_peft() -> None:
    """Import PEFT, whose helpers (0.21) want bitsandbytes for one function: they get it when they call that."""
    if "peft" in sys.modules:
        return
    with quiet(), uncollected():  # bitsandbytes logs
        stand_in = None
        if BITSANDBYTES not in sys.modules and (spec := find_spec(BITSANDBYTES)) is not None:
            stand_in = sys.modules[BITSANDBYTES] = _Later(BITSANDBYTES)
            stand_in.__spec__ = spec  # by which others tell that it is installed
        try:
            import peft  # noqa: F401
        finally:
            if stand_in is not None and sys.modules.get(BITSANDBYTES) is stand_in:
                del sys.modules[BITSANDBYTES]


@contextmanager
def plain_layers() -> Iterator[None]:
    """Have PEFT put adapters on layers without importing bitsandbytes to learn whether they are of its kind.

    Where nobody has imported it none can be. Where somebody has, PEFT asks as ever.
    """
    with _lock:
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
