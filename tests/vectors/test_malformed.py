"""300 malformed files, made of every good one that is kept here: each is refused by name, or its numbers are right."""

from __future__ import annotations

import resource
import shutil
import sys
import warnings
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from nla_sdk.errors import NLAError
from nla_sdk.vectors.kinds import Stated
from nla_sdk.vectors.loading import load, look

from .malforming import malformed

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


@cache
def goods() -> list[Good]:
    files = [path for path in FILES.rglob("*") if path.is_file()]
    folders = {path.parent for path in files}
    found = []
    for ref in sorted({*files, *folders} - {FILES}):
        if (said := answered(ref)) is not None:
            found.append(Good(ref, said, np.unique(read(ref, said))))
    return found


def cases() -> list[tuple[Good, Path, str, bytes]]:
    """(what it was, the file in it that is bad, how, its bytes), COUNT of them over all files alike."""
    parts = [
        (good, path)
        for good in goods()
        for path in ([good.ref] if good.ref.is_file() else sorted(good.ref.rglob("*")))
        if path.is_file() and not path.name.startswith("expected")
    ]
    each = -(-COUNT // len(parts))
    made = [(good, path, how, bad) for good, path in parts for how, bad in malformed(path, range(each))]
    return made[:COUNT] if len(made) < 2 * COUNT else made


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
