"""Exported pairs, and servers that run them behind both wire formats."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.engines.server import Loopback
from tests.exporting.conftest import bases, loaded, write  # noqa: F401


@pytest.fixture(scope="session")
def exports(loaded, tmp_path_factory) -> Callable[[str], SimpleNamespace]:  # noqa: F811
    """name → a pair in memory and the folder of its export."""

    @functools.cache
    def export(name: str) -> SimpleNamespace:
        folder = tmp_path_factory.mktemp(f"served-{name}") / "exported"
        pair = loaded(name)
        pair.export(folder, caller_subtracts_mean=True)
        return SimpleNamespace(pair=pair, folder=folder)

    return export


@pytest.fixture
def serve(monkeypatch) -> Iterator[Callable[..., Loopback]]:
    """folder, kind → a server on a loopback port; pauses between attempts are short."""
    from nla_sdk.engines import connection

    monkeypatch.setattr(connection, "PAUSE", 0.01)
    monkeypatch.setattr(connection.Connection.__init__, "__kwdefaults__", {"timeout": 20.0, "pause": 0.01})
    running = []

    def start(folder: Path, kind: str = "vllm", **how) -> Loopback:
        running.append(Loopback(folder, kind, **how))
        return running[-1]

    yield start
    for one in running:
        one.close()
