"""How to write is one value, checked when it is made."""

from __future__ import annotations

import dataclasses
import math

import pytest

from nla_sdk.errors import InputError
from nla_sdk.sampling import Sampling


def test_settings_are_greedy_and_of_the_contract_by_default_and_cannot_be_changed():
    assert Sampling() == Sampling(max_new_tokens=None, temperature=0.0, n=1, seed=0, ignore_end=False)
    with pytest.raises(dataclasses.FrozenInstanceError):
        Sampling().temperature = 1.0  # type: ignore[misc]


@pytest.mark.parametrize("wrong", [{"max_new_tokens": 0}, {"n": 0}, {"temperature": -0.1}, {"temperature": math.nan}])
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(InputError, match="expected a (whole )?number ≥ [01]"):
        Sampling(**wrong)
