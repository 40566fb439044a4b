"""Every tiny family, built once a session, its pair loaded once."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import pytest

from . import census
from .bases import Bases


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
    from nla_sdk import NLAPair

    @functools.cache
    def load(name: str) -> NLAPair:
        found = family(name)
        return NLAPair.from_pretrained(**({"av": None} | dict(found.halves)), contract=found.contract)

    return load
