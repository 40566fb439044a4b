"""300 malformed files, made of every good one that is kept here: each is refused by name, or its numbers are right."""

from __future__ import annotations

import shutil
import sys
import warnings
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from nla_sdk.errors import NLAError
from nla_sdk.vectors.kinds import Stated
from nla_sdk.vectors.loading import load, look

from .malforming import malformed

resource = pytest.importorskip("resource")
FILES = Path(__file__).parent / "files"
COUNT = 300
MOST_ROWS = 50
MOST_MEMORY = 200  # MB more than before


@dataclass(frozen=True)
class Good:
    """A reference that is read: a file, or a folder of several; what it asks, answered; all its numbers."""

    ref: Path
    said: dict
    numbers: np.ndarray


def answered(ref: Path) -> dict | None:
    """What `load` must be told, each question by its first choice; None: it is refused."""
    said: dict = {}
    for _ in range(4):
        try:
            questions = look(ref, Stated(**said))[2].questions
        except NLAError:
            return None
        if not questions:
            return said
        for asked in questions:
            first = asked.choices[0].partition(":")[0] if asked.choices else "0"
            said[asked.fact] = {"layer": int, "centred": bool}.get(asked.fact, str)(first)
    raise AssertionError(f"{ref} asks without end")


def read(ref: Path, said: dict) -> np.ndarray:
    """All that is there (of many rows the first): float32 [n, d]."""
    found = look(ref, Stated(**said))[2]
    rows = [row for row in range(min(found.count, 10 * MOST_ROWS)) if row not in found.missing][:MOST_ROWS]
    return load(f"{ref}#{','.join(map(str, rows))}", **said).vectors.numpy()


def held(ref: Path) -> np.ndarray:
    """All numbers of the tensors there, by the libraries alone: a file may name another of its own."""
    found = [np.zeros(1, np.float32)]
    for path in files_in(ref):
        if path.suffix == ".safetensors":
            found += [tensor.float().numpy() for tensor in load_file(path).values()]
        elif path.suffix == ".pt":
            tensors = torch.load(path, weights_only=True)
            every = tensors.values() if isinstance(tensors, dict) else [*tensors]
            found += [tensor.float().numpy() for tensor in every if isinstance(tensor, torch.Tensor)]
        elif path.suffix == ".npz":
            with np.load(path) as archive:
                found += [archive[name].astype(np.float32) for name in archive.files]
    return np.concatenate([one.ravel() for one in found])


def files_in(ref: Path) -> list[Path]:
    inside = [ref] if ref.is_file() else sorted(path for path in ref.iterdir() if path.is_file())
    return [path for path in inside if not path.name.startswith("expected")]


@cache
def goods() -> list[Good]:
    """What lies there and is read: folders, and files of no such folder."""
    folders = sorted({path.parent for path in FILES.rglob("*") if path.is_file()})
    found: list[Good] = []
    for ref in [ref for folder in folders for ref in (folder, *files_in(folder))]:
        if any(good.ref == ref.parent for good in found):
            continue
        try:
            if (said := answered(ref)) is not None:
                found.append(Good(ref, said, np.unique([*held(ref), *read(ref, said).ravel()])))
        except NLAError:  # as it lies there it is refused: of zeros, a pickle
            continue
    return found


def cases() -> list[tuple[Good, Path, str, bytes]]:
    """(what it was, the file in it that is bad, how, its bytes): of every file as many, COUNT at least."""
    parts = [(good, path) for good in goods() for path in files_in(good.ref)]
    each = range(-(-COUNT // len(parts)))
    return [(good, path, how, bad) for good, path in parts for how, bad in malformed(path, each)]


def memory() -> float:
    """The most that this process has held, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


@pytest.mark.timeout(120)
def test_300_malformed_files_are_refused_by_name_or_their_numbers_are_those_of_the_good_file(tmp_path):
    before, wrong, refused = memory(), [], 0
    made = cases()
    for at, (good, path, how, bad) in enumerate(made):
        ref = tmp_path / str(at) / good.ref.name
        if good.ref.is_file():
            ref.parent.mkdir()
            shutil.copy(path, ref)
        else:
            shutil.copytree(good.ref, ref)
        (ref / path.relative_to(good.ref) if ref.is_dir() else ref).write_bytes(bad)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                numbers = read(ref, good.said)
        except NLAError:
            refused += 1
        except Exception as error:
            wrong.append(f"{how}: {type(error).__name__}: {error}")
        else:
            if not np.isin(numbers, good.numbers).all():
                wrong.append(f"{how}: other numbers")
    assert not wrong, "\n".join(wrong)
    assert len(made) >= COUNT
    assert refused > COUNT / 2
    assert memory() - before < MOST_MEMORY
