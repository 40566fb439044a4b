"""The world, built once, and a copy of it for every case."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.grid import world


@pytest.fixture(scope="session")
def first_world(tmp_path_factory, base) -> Path:
    folder, before = tmp_path_factory.mktemp("world"), os.getcwd()
    os.chdir(folder)
    try:
        world.build(base)
    finally:
        os.chdir(before)
    return folder


@pytest.fixture
def here(first_world, tmp_path, monkeypatch) -> Path:
    """A world of its own, which is the current folder."""
    folder = world.copy(first_world, tmp_path / "here")
    monkeypatch.chdir(folder)
    return folder
