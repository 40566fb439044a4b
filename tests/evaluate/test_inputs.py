"""Which files of a half an evaluation vouches for."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from nla_sdk.contract import Contract
from nla_sdk.halves.beside.digests import half_digests
from training.evaluate import inputs
from training.publish.copies import convert_head


@pytest.fixture
def old_ar(copied):
    """An AR as old tools left it, its head in `linear_head.pt` only, and what an evaluation of it would name."""
    folder = copied("shared") / "ar"
    head = next(file for name in inputs.HEADS if (file := folder / name).is_file())
    tensors = load_file(head) if head.suffix == ".safetensors" else torch.load(head, weights_only=True)
    head.unlink()
    torch.save({key.rpartition(".")[2]: tensor for key, tensor in tensors.items()}, folder / "linear_head.pt")
    measured = SimpleNamespace(inputs=half_digests("ar", folder, Contract.load(folder)))
    return folder, lambda: inputs.differences(measured, "ar", folder, Contract.load(folder))


def test_a_head_that_publishing_converted_is_the_one_that_was_measured(old_ar):
    folder, differences = old_ar
    assert differences() == []
    convert_head(folder)
    assert (folder / "linear_head.safetensors").is_file()
    assert differences() == []


def test_another_head_beside_the_measured_one_is_found(old_ar):
    folder, differences = old_ar
    convert_head(folder)
    tensors = load_file(folder / "linear_head.safetensors")
    save_file(tensors | {"weight": tensors["weight"] + 1e-3}, folder / "linear_head.safetensors")
    assert differences() == ["ar/linear_head.safetensors was not there when it was measured"]
    (folder / "linear_head.pt").write_bytes(b"other")
    assert "ar/linear_head.pt is not the one that was measured" in differences()
