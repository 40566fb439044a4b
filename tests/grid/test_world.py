"""The grid's world is a good one: every command that a case damages the input of does its work on it."""

from __future__ import annotations

import pytest

from tests.grid.entries import ENTRIES
from tests.grid.outcome import run


@pytest.mark.parametrize("name", ENTRIES)
def test_the_command_does_its_work(name, here):
    entry = ENTRIES[name]
    entry.prepare()
    done = run(*entry.arguments)
    assert done.exit_code == 0, done.stderr
