"""Sparse coders of sparsify, whose folder's name is all that says of which module they are."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import save_file

from nla_sdk.vectors import load
from nla_sdk.vectors.faults import SiteError, UnstatedVectorError, VectorFileError
from tests.vectors.kept import FILES, as_expected, cases, edited

TOOL = "sparsify_1"


@pytest.mark.parametrize("case", cases(TOOL))
def test_directions_layer_and_model_are_those_that_the_tool_knew(case):
    as_expected(TOOL, case)


@pytest.mark.parametrize("case", cases(TOOL, refused=True))
def test_modules_inside_a_block_and_transcoders_are_refused(case):
    with pytest.raises(SiteError, match=r"MLP's own|is a transcoder"):
        load(FILES / TOOL / case)


def test_num_latents_may_be_0_and_the_size_is_the_tensors():
    assert json.loads((FILES / TOOL / "layers.5" / "cfg.json").read_text())["num_latents"] == 0
    assert load(FILES / TOOL / "layers.5").vectors.shape == (16, 8)


def test_rows_are_no_unit_vectors_where_the_decoder_was_not_normalised():
    norms = load(FILES / TOOL / "h.3" / "seed1").vectors.norm(dim=1)
    assert norms.max() / norms.min() > 1.5, "they are taken as they are"


def test_a_folder_of_another_name_asks_for_layer_and_site(tmp_path):
    folder = shutil.copytree(FILES / TOOL / "layers.5", tmp_path / "mine")
    with pytest.raises(UnstatedVectorError, match=r"site \(its folder would, and is called 'mine'\).*layer"):
        load(folder)
    found = load(folder, site="residual", layer=5)
    assert found.layer == 5 and found.model is None and found.unknown == ("the model",)


def test_the_layer_behind_a_reference_answers(tmp_path):
    folder = shutil.copytree(FILES / TOOL / "layers.5", tmp_path / "mine")
    assert load(f"{folder}#1@5", site="residual").layer == 5


def test_the_config_of_something_else_above_names_no_model(tmp_path):
    shutil.copytree(FILES / TOOL / "layers.5", tmp_path / "layers.5")
    (tmp_path / "config.json").write_text('{"model": "somebody/else"}')
    assert load(tmp_path / "layers.5").model is None


def test_a_coder_saved_without_a_decoder_is_refused(tmp_path):
    folder = edited(TOOL, "layers.5", tmp_path)
    save_file({"encoder.weight": torch.ones(16, 8)}, folder / "sae.safetensors")
    with pytest.raises(VectorFileError, match="W_dec"):
        load(folder)


def test_a_signed_coder_is_said_to_have_two_signs(tmp_path):
    assert "either sign" in load(edited(TOOL, "layers.5", tmp_path, signed=True)).assumed[0]
    assert not load(FILES / TOOL / "layers.5").assumed


def test_a_decoder_of_another_width_than_the_config_says_is_refused(tmp_path):
    with pytest.raises(VectorFileError, match="expected rows of 16"):
        load(edited(TOOL, "layers.5", tmp_path, d_in=16))
