"""Every tiny family, built once a session, its pair loaded once."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from . import census
from .bases import Bases
from .family import load


@pytest.fixture(scope="session")
def bases(tmp_path_factory) -> Bases:
    return Bases(tmp_path_factory.mktemp("census-bases"))


@pytest.fixture(scope="session")
def family(tmp_path_factory, bases) -> Callable:
    """name → the family, its files on disk."""

    @functools.cache
    def build(name: str):
        folder = Path(tmp_path_factory.mktemp("census")) / name
        return census.FAMILIES[name](folder, bases)

    return build


@pytest.fixture(scope="session")
def loaded(family) -> Callable:
    """name → the family's pair, as a user loads it."""
    return functools.cache(lambda name: load(family(name)))


@pytest.fixture
def copied(tmp_path, family) -> Callable:
    """name, half → the half's folder, to be changed at will, and the family that it is of."""

    def copy(name: str, half: str):
        found = family(name)
        return Path(shutil.copytree(found.halves[half], tmp_path / half)), found

    return copy
