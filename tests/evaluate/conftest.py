"""What the tests of forged files share."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest


def made_once(make: Callable) -> Callable:
    """`make`, which is asked anew only for what it has not been given yet, to the bit."""
    kept: dict[bytes, object] = {}

    def made(*given):
        asked = pickle.dumps(given)
        if asked not in kept:
            kept[asked] = make(*given)
        return copy.copy(kept[asked])

    return made


@pytest.fixture(scope="module")
def figures_made_once():
    """`verify` makes the figures of the same rows once: what is changed by hand is mostly the file beside them."""
    from training.evaluate.claims import verifying
    from training.evaluate.measures import compute, matching

    with pytest.MonkeyPatch.context() as patch:
        for where, name in ((compute, "parts"), (matching, "matching"), (verifying, "worth")):
            patch.setattr(where, name, made_once(getattr(where, name)))
        yield
