"""What a run says of the machine it ran on: hardware and libraries, never a name, a user or a path."""

from __future__ import annotations

import platform
from importlib import metadata


def hardware(device) -> str:
    """The GPU's name, or the processor's architecture and the threads in use."""
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} {device.type.upper()}, {torch.get_num_threads()} threads"


def libraries() -> dict[str, str]:
    """Versions of the libraries that decide a model's numbers."""
    return {name: metadata.version(name).split("+")[0] for name in ("torch", "transformers", "peft")}
