"""An lm_head's 8-bit copy in a file is that of its weight, or none."""

from __future__ import annotations

import os

import pytest
import torch
from safetensors.torch import save_file

from nla_sdk.model.fast.shortlist import Rounded
from nla_sdk.model.fast.stored import FIELDS, load_rounded, save_rounded
from tests import tiny


@pytest.fixture
def stored(tmp_path):
    """A weight, and its copy in a file."""
    weight = tiny.random(20_000, 16, seed=1)
    save_file({"head": weight, "other": weight + 1}, tmp_path / "model.safetensors")
    save_rounded(tmp_path / "model.safetensors", "head", tmp_path / "copy.safetensors")
    return weight, tmp_path / "copy.safetensors"


def test_the_copy_is_what_rounding_gives(stored):
    weight, file = stored
    found, expected = load_rounded(file, weight), Rounded.of(weight)
    assert all(torch.equal(getattr(found, name), getattr(expected, name)) for name in FIELDS)
    restored = found.weight * found.scale[:, None]
    torch.testing.assert_close((weight - restored).norm(dim=1), found.error, rtol=1e-4, atol=1e-6)
    assert ((weight - restored).abs() <= found.scale[:, None] * 0.5001).all()


def test_a_copy_of_another_weight_is_none(stored):
    weight, file = stored
    assert load_rounded(file, weight + 1) is None
    assert load_rounded(file, weight[:-1]) is None
    assert load_rounded(file, weight * 1.001) is None


def test_a_copy_of_what_the_file_was_before_is_none(stored):
    weight, file = stored
    model = file.with_name("model.safetensors")
    assert load_rounded(file, weight) is not None
    os.utime(model, (1e9, 1e9))
    assert load_rounded(file, weight) is None
    save_rounded(model, "head", file)
    assert load_rounded(file, weight) is not None
    model.unlink()
    assert load_rounded(file, weight) is None


@pytest.mark.parametrize("damage", ["absent", "cut", "other fields", "empty"])
def test_a_file_that_cannot_be_read_is_none(stored, damage):
    weight, file = stored
    if damage == "absent":
        file.unlink()
    elif damage == "cut":
        file.write_bytes(file.read_bytes()[:-1000])
    elif damage == "other fields":
        save_file({"weight": weight}, file)
    else:
        file.write_bytes(b"")
    assert load_rounded(file, weight) is None
