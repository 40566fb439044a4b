"""A model folder that cannot be loaded: which file, or that memory ended."""

from __future__ import annotations

import shutil

import pytest
import torch
from transformers import core_model_loading

from nla_sdk.errors import OutOfMemoryError
from nla_sdk.model.backbone import Backbone
from nla_sdk.model.weights.damage import damaged_file


def test_a_sound_folder_has_no_damaged_file(gemma_base):
    assert damaged_file(gemma_base) is None


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_git_lfs_pointer_is_called_one(name, gemma_base, tmp_path):
    folder = shutil.copytree(gemma_base, tmp_path / "base")
    (folder / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    assert f"{folder / name} is a Git LFS pointer" in str(damaged_file(folder))


def test_memory_that_ends_while_transformers_converts_weights_is_said(gemma_base, monkeypatch):
    """It notes the error of each weight and raises a RuntimeError of its own."""

    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(core_model_loading, "set_param_for_module", full)
    with pytest.raises(OutOfMemoryError, match="Out of memory while loading the model"):
        Backbone.load(gemma_base)
