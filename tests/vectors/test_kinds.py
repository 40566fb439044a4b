"""`Vectors` as a caller makes them: what does not fit together is refused before anything is made of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nla_sdk import Vectors
from nla_sdk.errors import InputError

ROWS = torch.ones(2, 4)


@pytest.mark.parametrize(
    "given, says",
    [
        ((ROWS, "dirction", 3), "kind='dirction': expected 'activation', 'direction', 'difference'"),
        ((ROWS[0], "direction", 3), r"shape \(4,\); expected a tensor \[n, d\]"),
        ((ROWS, "direction", (3, 3, 4)), "says 3 layers of 2 vectors"),
        ((ROWS, "direction", None), "layer=None: expected a block's number"),
        ((ROWS, "direction", "3"), "layer='3'"),
        ((ROWS, "direction", 3, "residual", ("cats",)), "labels: 1 of 2 vectors"),
    ],
)
def test_what_does_not_fit_together_is_refused(given, says):
    with pytest.raises(InputError, match=says):
        Vectors(*given)


def test_layers_may_be_whole_numbers_of_any_kind():
    assert Vectors(ROWS, "direction", np.int64(3)).layer == 3
    assert Vectors(ROWS, "direction", np.array([3, 4])).layers == (3, 4)
