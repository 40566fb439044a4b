"""Dictionaries of SAELens, as its versions wrote them."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from nla_sdk.errors import DamagedFileError
from nla_sdk.vectors import load
from nla_sdk.vectors.faults import SiteError, UnstatedVectorError, VectorFileError
from nla_sdk.vectors.loading import look
from tests.vectors.kept import FILES, as_expected, cases, edited, expected, off

VERSIONS = ("sae_lens_2", "sae_lens_3", "sae_lens_5", "sae_lens_6")
TOOL = "sae_lens_6"


@pytest.mark.parametrize(("tool", "case"), [(tool, case) for tool in VERSIONS for case in cases(tool)])
def test_directions_layer_and_model_are_those_that_the_tool_knew(tool, case):
    found = as_expected(tool, case)
    assert found.model == "gpt2-small"
    assert found.vectors.dtype == torch.float32 and found.labels[:2] == ("#0", "#1")
    assert f"sae-lens {tool[-1]}." in found.origin


@pytest.mark.parametrize(("tool", "case"), [(tool, case) for tool in VERSIONS for case in cases(tool, refused=True)])
def test_other_sites_than_the_residual_stream_are_refused(tool, case):
    with pytest.raises(SiteError, match="heads' outputs|MLP's own|is a transcoder"):
        load(FILES / tool / case)


def test_one_row_is_the_row_asked_for():
    rows = expected(TOOL)["topk"]["directions"]
    found = load(f"{FILES / TOOL / 'topk'}#7")
    assert found.labels == ("#7",) and off(found.vectors, [rows[7]]) < 1e-6
    assert off(load(f"{FILES / TOOL / 'topk'}#2:5").vectors, rows[2:5]) < 1e-6
    assert off(load(f"{FILES / TOOL / 'topk'}#9,1,9").vectors, [rows[9], rows[1], rows[9]]) < 1e-6


def test_the_encoder_may_be_absent():
    assert expected(TOOL)["matching_pursuit"]["tensors"] == ["W_dec", "b_dec"]
    assert len(load(FILES / TOOL / "matching_pursuit")) == 12


def test_the_oldest_configs_say_hook_point_and_normalise_by_a_boolean():
    cfg = json.loads((FILES / "sae_lens_2" / "standard" / "cfg.json").read_text())
    assert cfg["hook_point"] == "blocks.8.hook_resid_pre" and "hook_name" not in cfg
    assert cfg["normalize_activations"] is False and load(FILES / "sae_lens_2" / "standard").layer == 7


def test_a_config_that_names_no_version_is_of_an_old_one(tmp_path):
    folder = edited("sae_lens_5", "standard", tmp_path, sae_lens_training_version=None)
    assert "(sae-lens before 6)" in load(folder).origin


def test_what_metadata_says_goes_before_what_stands_beside_it(tmp_path):
    assert load(edited(TOOL, "standard", tmp_path, hook_name="blocks.3.hook_mlp_out", hook_layer=3)).layer == 8


# --- whitening --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("case", ["whitened", "whitened_batchtopk"])
def test_whitened_rows_as_they_lie_in_the_file_are_other_directions(case):
    raw = load_file(FILES / TOOL / case / "sae_weights.safetensors")["W_dec"]
    assert off(raw, expected(TOOL)[case]["directions"]) > 0.3
    assert expected(TOOL)[case]["cosine_of_raw_rows"] < 0.8
    assert any("activation_whitening.safetensors" in sentence for sentence in load(FILES / TOOL / case).assumed)


def test_whitened_rows_without_the_whitening_are_refused(tmp_path):
    folder = edited(TOOL, "whitened", tmp_path)
    (folder / "activation_whitening.safetensors").unlink()
    with pytest.raises(SiteError, match=r"whitened coordinates.*activation_whitening\.safetensors"):
        load(folder)
    with pytest.raises(SiteError, match="whitened coordinates"):
        load(folder, layer=8, site="residual", kind="direction")


def test_who_names_the_weights_means_the_folder():
    whole = load(FILES / TOOL / "whitened")
    named = load(FILES / TOOL / "whitened" / "sae_weights.safetensors")
    assert torch.equal(whole.vectors, named.vectors) and named.layer == 8


def test_a_decoder_that_is_no_matrix_is_refused_whitened_or_not(tmp_path):
    for case in ("whitened", "standard"):
        folder = edited(TOOL, case, tmp_path)
        save_file({"W_dec": torch.ones(())}, folder / "sae_weights.safetensors")
        with pytest.raises(VectorFileError, match=r"expected \[\]|has shape \[\]"):
            load(folder)


def test_a_whitening_of_another_width_is_refused(tmp_path):
    folder = edited(TOOL, "whitened", tmp_path)
    save_file({"inverse_matrix": torch.eye(4)}, folder / "activation_whitening.safetensors")
    with pytest.raises(VectorFileError, match=r"inverse_matrix .* is \[4, 4\]; expected \[8, 8\]"):
        load(folder)


# --- what a config may say --------------------------------------------------------------------------------------------
def metadata(**changes):
    return {"model_name": "gpt2-small", "hook_name": "blocks.8.hook_resid_post", **changes}


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"reshape_activations": "hook_z"}, "heads' outputs side by side"),
        ({"metadata": metadata(hook_head_index=3)}, "of head 3 of"),
        ({"metadata": metadata(hook_head_index=0)}, "of head 0 of"),
        ({"hook_point_head_index": 3}, "of head 3 of"),
        ({"metadata": metadata(hook_name="blocks.8.attn.hook_z")}, "even where the width is the model's"),
        ({"metadata": metadata(hook_name="blocks.8.hook_resid_mid")}, "between attention and MLP"),
        ({"metadata": metadata(hook_name="blocks.8.ln2.hook_normalized")}, "behind a norm"),
        ({"metadata": metadata(hook_name_out="blocks.9.hook_resid_post")}, "is a transcoder"),
        ({"architecture": "jumprelu_skip_transcoder"}, "is a transcoder"),
        ({"metadata": metadata(hook_name="model.layers.8.self_attn")}, "attention's own"),
    ],
)
def test_a_config_of_another_site_is_refused_with_the_reason(tmp_path, changes, why):
    with pytest.raises(SiteError, match=why):
        load(edited(TOOL, "standard", tmp_path, **changes))


def test_a_config_without_a_hook_asks_for_site_and_layer(tmp_path):
    folder = edited(TOOL, "standard", tmp_path, metadata={"model_name": "gpt2-small"})
    with pytest.raises(UnstatedVectorError, match=r"site \(cfg.json has no hook_name\).*--site.*layer.*--layer"):
        load(folder)
    with pytest.raises(UnstatedVectorError, match="site"):
        load(folder, layer=8)
    assert load(folder, layer=8, site="residual").layer == 8
    with pytest.raises(SiteError, match="said to be of mlp"):
        load(folder, layer=8, site="mlp")


def test_a_hook_of_an_unknown_name_asks_as_well(tmp_path):
    folder = edited(TOOL, "standard", tmp_path, metadata=metadata(hook_name="my.own.place"))
    assert [question.fact for question in look(folder)[2].questions] == ["site", "layer"]


def test_a_layer_that_contradicts_the_files_is_taken_and_told():
    found = load(FILES / TOOL / "standard", layer=5)
    assert found.layer == 5 and "the files say blocks.8.hook_resid_post" in found.assumed[0]


def test_an_abstopk_feature_is_said_to_have_two_signs():
    assert "either sign" in load(FILES / TOOL / "abstopk").assumed[0]


@pytest.mark.parametrize("width", [7, 12])
def test_a_decoder_of_another_width_than_the_config_says_is_refused(tmp_path, width):
    with pytest.raises(VectorFileError, match=rf"shape \[12, 8\]; expected rows of {width}"):
        load(edited(TOOL, "standard", tmp_path, d_in=width))


def test_a_file_without_a_decoder_is_refused(tmp_path):
    folder = edited(TOOL, "standard", tmp_path)
    save_file({"W_enc": torch.ones(8, 12)}, folder / "sae_weights.safetensors")
    with pytest.raises(VectorFileError, match="W_dec"):
        load(folder)


def test_settings_that_are_no_settings_are_refused(tmp_path):
    folder = shutil.copytree(FILES / TOOL / "standard", tmp_path / "sae")
    for content, error in (("[1]", VectorFileError), ("{", VectorFileError), ("{}", UnstatedVectorError)):
        (folder / "cfg.json").write_text(content)
        with pytest.raises(error):
            load(folder)
    (folder / "cfg.json").write_text('{"metadata": 3, "hook_name": ["a"], "d_in": true}')
    with pytest.raises(UnstatedVectorError):
        load(folder)


def test_a_file_cut_short_is_named_as_damaged(tmp_path):
    folder = shutil.copytree(FILES / TOOL / "standard", tmp_path / "sae")
    weights = folder / "sae_weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(DamagedFileError, match="cut short"):
        load(folder)


@pytest.mark.parametrize("dtype", [torch.int8, torch.int64, torch.float8_e4m3fn])
def test_rows_that_are_no_plain_floats_are_refused(tmp_path, dtype):
    folder = edited(TOOL, "standard", tmp_path)
    save_file({"W_dec": torch.ones(12, 8).to(dtype)}, folder / "sae_weights.safetensors")
    with pytest.raises(VectorFileError, match=r"W_dec has dtype (I8|I64|F8_E4M3); F64, F32, F16, BF16 are read"):
        load(folder)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_rows_of_any_float_become_float32(tmp_path, dtype):
    folder = edited(TOOL, "standard", tmp_path)
    rows = torch.from_numpy(np.asarray(expected(TOOL)["standard"]["directions"], np.float32)).to(dtype)
    save_file({"W_dec": rows}, folder / "sae_weights.safetensors")
    assert torch.equal(load(folder).vectors, rows.float())
