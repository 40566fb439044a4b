"""The files that other tools wrote (`make/`), and what is expected of them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nla_sdk import vectors

FILES = Path(__file__).parent / "files"


def expected(tool: str) -> dict[str, Any]:
    """Case → what its maker said of it; without directions it is to be refused."""
    return json.loads((FILES / tool / "expected.json").read_text(encoding="utf-8"))


def cases(tool: str, *, refused: bool = False) -> list[str]:
    return [name for name, facts in expected(tool).items() if ("directions" not in facts) == refused]


def edited(tool: str, case: str, to: Path, *, config: str = "cfg.json", **changes: Any) -> Path:
    """A copy of a case whose settings are changed; None takes one away."""
    folder = Path(shutil.copytree(FILES / tool / case, to / Path(case).name))
    settings = json.loads((folder / config).read_text(encoding="utf-8"))
    for name, value in changes.items():
        settings[name] = value
    kept = {name: value for name, value in settings.items() if value is not None}
    (folder / config).write_text(json.dumps(kept), encoding="utf-8")
    return folder


def as_expected(tool: str, case: str) -> vectors.Vectors:
    """What is loaded of a case, once it is seen to be what its maker knew."""
    facts, found = expected(tool)[case], vectors.load(FILES / tool / case)
    assert off(found.vectors, facts["directions"]) < 1e-6
    known = ("direction", facts["layer"], "residual", facts["model"])
    assert (found.kind, found.layer, found.site, found.model) == known
    return found


def off(found: torch.Tensor, directions: Any) -> float:
    """How far unit vectors are from the directions expected, at most."""
    wanted = np.asarray(directions, dtype=np.float64)
    wanted /= np.linalg.norm(wanted, axis=1, keepdims=True)
    got = found.numpy().astype(np.float64)
    assert got.shape == wanted.shape
    return float(np.abs(got / np.linalg.norm(got, axis=1, keepdims=True) - wanted).max())
