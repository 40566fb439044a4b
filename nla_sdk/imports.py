"""Libraries imported without what they do not need: a garbage collector, and modules that they only might use."""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

_lock = threading.Lock()
_waits = 0
_was_on = False


@contextmanager
def uncollected() -> Iterator[None]:
    """Have the garbage collector wait while modules are imported or a large file is parsed.

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


@contextmanager
def put_off(name: str, *functions: str) -> Iterator[None]:
    """Have whoever imports a module meanwhile get a stand-in, for which it is imported once something of it is used.

    Nothing is done where it is imported already, or not installed.

    Args:
        name: of the module.
        functions: what is imported from it by name, to be put off until it is called.
    Example:
        >>> with put_off("bitsandbytes"):
        ...     import peft  # doctest: +SKIP
    """
    if name in sys.modules or (spec := _spec(name)) is None:
        yield
        return
    stand_in = _StandIn(name)
    # By the first others see that it is installed; `inspect` asks every module for the second.
    stand_in.__spec__, stand_in.__file__ = spec, spec.origin
    if functions and spec.submodule_search_locations is not None:
        stand_in.__path__ = spec.submodule_search_locations  # which `from … import …` asks of a package
    vars(stand_in).update({function: _called_later(stand_in, function) for function in functions})
    sys.modules[name] = stand_in
    try:
        yield
    finally:
        stand_in.step_aside()


def _spec(name: str) -> ModuleSpec | None:
    """Where a module is, without importing the packages that it is in."""
    spec, path = None, None
    for end in (*(at for at, letter in enumerate(name) if letter == "."), len(name)):
        if (spec := PathFinder.find_spec(name[:end], path)) is None:
            return None
        path = spec.submodule_search_locations
    return spec


class _StandIn(ModuleType):
    """Stands for a module of its name until an attribute of it is asked for."""

    def step_aside(self) -> None:
        """Let the next who imports it have the module itself."""
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]

    def __getattr__(self, name: str) -> Any:
        if name == "__path__" and self.__spec__ and self.__spec__.submodule_search_locations is None:
            raise AttributeError(name)  # `from … import …` asks, and it is no package
        self.step_aside()
        return getattr(import_module(self.__name__), name)


def _called_later(stand_in: _StandIn, name: str) -> Callable[..., Any]:
    def function(*arguments: Any, **options: Any) -> Any:
        stand_in.step_aside()
        return getattr(import_module(stand_in.__name__), name)(*arguments, **options)

    return function
