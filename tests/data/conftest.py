"""Tables that are built without a drawing of them, which takes more time than they do."""

from __future__ import annotations

import pytest

from training.data.tables import report


@pytest.fixture(autouse=True)
def undrawn(monkeypatch):
    """What a test builds is not drawn; what is built for a whole file is, and what a process of its own builds."""
    monkeypatch.setattr(report, "draw", lambda found, png: None)
