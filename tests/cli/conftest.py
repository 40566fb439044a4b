"""A command's pair is loaded once a file of tests: that is most of what it takes on a tiny one, and tried elsewhere."""

from __future__ import annotations

from typing import Any

import pytest

from nla_sdk import NLAPair


@pytest.fixture(scope="module")
def loaded() -> dict[str, NLAPair]:
    """What a command tells `NLAPair.from_pretrained` → the pair."""
    return {}


@pytest.fixture(autouse=True)
def loaded_once(monkeypatch, loaded):
    real = NLAPair.from_pretrained

    def load(*given: Any, **told: Any) -> NLAPair:
        if given:  # by a test itself
            return real(*given, **told)
        if (key := repr(sorted(told.items()))) not in loaded:
            loaded[key] = real(**told)
        return loaded[key]

    monkeypatch.setattr(NLAPair, "from_pretrained", load)
