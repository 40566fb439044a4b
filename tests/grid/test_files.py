"""Every file that a command reads, damaged in every way: the command says which file, and leaves nothing behind.

A run takes a fifth, of commands, files and kinds in turn; `NLA_GRID=all` takes all of them (900).
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.grid.damage import GONE, of
from tests.grid.entries import ENTRIES
from tests.grid.outcome import refused, run

SHARE = 5
"""One in so many is taken."""
TOLD = {("nla info", "adapter_model.safetensors")}
"""What a command that tells of files may say with exit code 0, on stdout."""


def cases():
    for row, (name, entry) in enumerate(ENTRIES.items()):
        for number, file in enumerate(entry.reads):
            for turn, kind in enumerate(of(file)):
                if kind in entry.harmless:
                    continue
                if os.environ.get("NLA_GRID") == "all" or (turn + row) % (SHARE * len(entry.reads)) == SHARE * number:
                    yield pytest.param(name, file, kind, id=f"{name}: {file} is {kind}")


@pytest.mark.parametrize(("name", "file", "kind"), list(cases()))
def test_a_damaged_file_is_named(name, file, kind, here):
    entry = ENTRIES[name]
    entry.prepare()
    of(file)[kind](Path(file))
    named = (Path(file).name, Path(file).parent.name) if kind in GONE else (Path(file).name,)
    done = run(*entry.arguments)
    if done.exit_code == 0 and (name, Path(file).name) in TOLD:
        assert file in done.stdout and not done.written
    else:
        refused(done, named)
