"""What is in a folder or repository: whether it holds a checkpoint, and what to say where it does not."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from ...errors import MissingFileError

_NOT_A_MODEL = re.compile(
    r"(linear_head|value_heads?|ar_lora_value_head|activation_mean|activation_statistics|adapter_model|adapter_model-.*)\.safetensors"
)
_ADAPTER_WEIGHTS = re.compile(r"adapter_model(-\d+-of-\d+)?\.safetensors|adapter_model\.bin")


def file_names(folder: Path) -> list[str]:
    """The files in a folder."""
    return sorted(path.name for path in folder.iterdir() if path.is_file()) if folder.is_dir() else []


def tree(folder: Path) -> list[str]:
    """The files in a folder and two levels of folders inside it, as posix paths relative to it."""
    files = (path for pattern in ("*", "*/*", "*/*/*") for path in folder.glob(pattern) if path.is_file())
    return sorted(path.relative_to(folder).as_posix() for path in islice(files, 10_000))


def holds_checkpoint(names: Sequence[str]) -> bool:
    """Whether a folder's files are an adapter's or a whole model's."""
    adapter = "adapter_config.json" in names and any(_ADAPTER_WEIGHTS.fullmatch(name) for name in names)
    adapter = adapter or "ar_lora_value_head.safetensors" in names  # with its head, and without a config
    weights = (n for n in names if n.endswith(".safetensors") and "/" not in n and not _NOT_A_MODEL.fullmatch(n))
    return adapter or ("config.json" in names and any(weights))


def _checkpoint_folders(names: Sequence[str]) -> list[str]:
    """Subfolders that hold a checkpoint, step_50 before step_100."""
    inside: dict[str, list[str]] = {}
    for name in names:
        if "/" in name:
            folder, _, file = name.rpartition("/")
            inside.setdefault(folder, []).append(file)
    holding = [folder for folder, files in inside.items() if holds_checkpoint(files)]
    return sorted(holding, key=lambda folder: [int(t) if t.isdigit() else t for t in re.split(r"(\d+)", folder)])


def no_checkpoint(what: str, subfolder: str | None, names: Sequence[str]) -> MissingFileError:
    """The error for a place without a checkpoint, which says where there are some.

    Args:
        what: the place, for the message.
        names: all there is in the repository or folder, not only in the subfolder.
    """
    prefix = f"{subfolder}/" if subfolder else ""
    here = [name.removeprefix(prefix) for name in names if name.startswith(prefix)]
    return MissingFileError(
        f"{what} holds no checkpoint: neither an adapter (adapter_config.json and adapter_model.safetensors) nor full "
        f"weights (config.json and *.safetensors). Found: {listed(here)}.{subfolder_hint(names)}"
    )


def subfolder_hint(names: Sequence[str]) -> str:
    """Which subfolders of a repository or folder hold checkpoints, as a sentence; nothing if none does."""
    folders = _checkpoint_folders(names)
    return f' There are checkpoints in {listed(folders)}: pass one as subfolder="{folders[-1]}".' if folders else ""


def listed(names: Sequence[str], limit: int = 12) -> str:
    """Names for a message, and how many more there are."""
    shown = ", ".join(names[:limit]) or "nothing"
    return shown + (f" and {len(names) - limit} more" if len(names) > limit else "")
