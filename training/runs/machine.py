"""What a run says of the machine it ran on: hardware and libraries, never a name, a user or a path."""

from __future__ import annotations

import platform
import sys
from contextlib import suppress
from importlib import metadata
from typing import Any

from nla_sdk.errors import InputError

NUMERICS = ("numpy", "scikit-learn", "scipy")  # the libraries of an evaluation's figures


def hardware(device: Any) -> str:
    """The GPU's name, or the processor's architecture and the threads in use."""
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} {device.type.upper()}, {torch.get_num_threads()} threads"


def peak_memory_gib() -> float:
    """The most memory used so far, in GiB: of the GPU where there is one, else of the process."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    try:
        import resource
    except ImportError:  # Windows keeps it elsewhere
        import psutil

        return psutil.Process().memory_info().peak_wset / 2**30
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB, on macOS bytes
    return peak / 2**30 if sys.platform == "darwin" else peak / 2**20


def libraries(*more: str) -> dict[str, str]:
    """Versions of the libraries that decide a model's numbers, and of `more`, as far as they are installed."""
    found = {}
    for name in ("torch", "transformers", "peft", *more):
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name).split("+")[0]
    return found


def check_installed() -> None:
    """Before anything is measured: the figures come after hours of it.

    Raises:
        InputError: scikit-learn is not installed.
    """
    try:
        import sklearn  # noqa: F401
    except ImportError:
        raise InputError("An evaluation needs scikit-learn: pip install 'nla-sdk[eval]'.") from None
