"""Runs that are not drawn: a figure takes more time than all the rest of a checkpoint of a tiny pair."""

from __future__ import annotations

import pytest

from training.data.tables import report
from training.runs import curves

RENDER = curves.render


@pytest.fixture(scope="module", autouse=True)
def undrawn():
    """Neither logs nor tables are drawn; `tests/runs` and `tests/data` hold what their figures show."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(curves, "render", lambda log, png, role=None: None)
        patch.setattr(report, "draw", lambda found, png: None)
        yield


@pytest.fixture
def drawn(monkeypatch):
    """Logs are drawn, as for everybody."""
    monkeypatch.setattr(curves, "render", RENDER)
