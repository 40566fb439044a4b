"""The device these tests are about; where there is none they are skipped."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def card():
    """A CUDA device."""
    import torch

    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    return torch.device("cuda", torch.cuda.current_device())
