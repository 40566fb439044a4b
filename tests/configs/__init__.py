"""Configs of the training stages on the tiny base (the `base` fixture), and words to make corpora of."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

WORDS = (
    *("the", "cat", "sat", "on", "a", "mat", "while", "seven", "dogs", "ran", "over"),
    *("hills", "and", "Mary", "read", "her", "old", "books", "near", "rivers", "of", "London"),
)


def sections(folder: Path, base: object, **changes: Any) -> dict[str, Any]:
    """A config's sections, with everything written inside `folder`; mappings in `changes` are merged into theirs."""
    values: dict[str, Any] = {
        "base": str(base),
        "layer": 1,
        "out": str(folder / "out"),
        "results": str(folder / "results"),
        "av": {"template": "say <concept>{injection_char}</concept>: <explanation>"},
        "ar": {"template": "<text>{explanation}</text> <summary>"},
    }
    for name, change in changes.items():
        values[name] = {**values.get(name, {}), **change} if isinstance(change, Mapping) else change
    return values


def write(folder: Path, values: Mapping[str, Any]) -> Path:
    """`config.yaml` in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(dict(values), allow_unicode=True), encoding="utf-8")
    return path
