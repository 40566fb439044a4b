"""What a run says of the machine it ran on: hardware and libraries, never a name, a user or a path."""

from __future__ import annotations

import platform
from contextlib import suppress
from importlib import metadata

from nla_sdk.errors import InputError

NUMERICS = ("numpy", "scikit-learn", "scipy")  # the libraries of an evaluation's figures


def hardware(device) -> str:
    """The GPU's name, or the processor's architecture and the threads in use."""
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} {device.type.upper()}, {torch.get_num_threads()} threads"


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
