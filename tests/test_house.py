"""The house as docs/architecture.md draws it: small rooms and files, every room on the plan, every file named there."""

from __future__ import annotations

import ast
import re
import statistics
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PLAN = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
FILES = sorted(file for top in ("nla_sdk", "training", "cards") for file in (ROOT / top).rglob("*.py"))
ROOMS = sorted({file.parent for file in FILES})


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def lines(file: Path) -> int:
    return len(file.read_text(encoding="utf-8").splitlines())


def test_no_file_is_long_and_most_are_short():
    assert not {named(file): lines(file) for file in FILES if lines(file) > 400}
    assert statistics.median(lines(file) for file in FILES) < 150


def test_a_room_holds_at_most_nine_files():
    counts = {named(room): len([f for f in room.glob("*.py") if not f.stem.startswith("__")]) for room in ROOMS}
    assert not {room: count for room, count in counts.items() if count > 9}


def test_the_top_of_training_has_at_most_eight_entries():
    entries = [path.name for path in (ROOT / "training").iterdir() if not path.name.startswith("__")]
    assert len(entries) <= 8, entries


@pytest.mark.parametrize("room", ROOMS, ids=named)
def test_a_rooms_init_is_its_line_on_the_plan_and_no_more(room):
    tree = ast.parse((room / "__init__.py").read_text(encoding="utf-8"))
    assert ast.get_docstring(tree)
    if named(room) not in ("nla_sdk", "nla_sdk/contract", "nla_sdk/vectors", "cards"):  # front doors
        assert len(tree.body) == 1


@pytest.mark.parametrize("room", [room for room in ROOMS if named(room) not in ("nla_sdk", "training")], ids=named)
def test_every_room_is_on_the_plan(room):
    assert f"`{named(room)}/`" in PLAN


def test_every_file_that_the_plan_names_is_there():
    paths = set(re.findall(r"`((?:nla_sdk|training|cards|tests|docs)/[\w/.]+)`", PLAN))
    assert len(paths) > 40
    assert not {path for path in paths if not (ROOT / path).exists()}
