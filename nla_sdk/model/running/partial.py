"""Run a model until a module is reached or done, and no further; what stands there comes back."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn


class _StopForward(Exception):
    """Raised by a hook once what is wanted is there, so that the rest is never computed."""


def leaving(module: nn.Module, forward: Callable[[], object]) -> torch.Tensor | None:
    """What `forward` has `module` give, the first of a tuple; None: it never runs. Nothing after it does."""
    captured: list[torch.Tensor] = []

    def stop(module, args, output):
        captured.append(output[0] if isinstance(output, tuple) else output)
        raise _StopForward

    return _until(module.register_forward_hook(stop), forward, captured)


def entering(module: nn.Module, forward: Callable[[], object]) -> torch.Tensor | None:
    """What `forward` hands to `module` as its first argument; None: it never comes there. The module does not run."""
    captured: list[torch.Tensor] = []

    def stop(module, args, options):
        captured.append(args[0] if args else options["hidden_states"])
        raise _StopForward

    # Before the hooks that are there: a sharded block must not gather its weights for what does not come.
    return _until(module.register_forward_pre_hook(stop, with_kwargs=True, prepend=True), forward, captured)


def _until(handle, forward: Callable[[], object], captured: list[torch.Tensor]) -> torch.Tensor | None:
    # Leaving by exception changes nothing in the model; a shorter `layers` would need another layer count in the
    # config, which masks, KV sharing and caches are made from.
    try:
        forward()
    except _StopForward:
        pass
    finally:
        handle.remove()
    return captured[0] if captured else None
