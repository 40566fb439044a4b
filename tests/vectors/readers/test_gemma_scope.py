"""Gemma Scope and Gemma Scope 2, in the layout of their repositories."""

from __future__ import annotations

import shutil
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from nla_sdk.errors import DamagedFileError
from nla_sdk.vectors import load
from nla_sdk.vectors.faults import SiteError, UnstatedVectorError, VectorFileError
from nla_sdk.vectors.kinds import Stated
from nla_sdk.vectors.local import local_place
from nla_sdk.vectors.readers import gemma_scope
from tests.vectors.kept import FILES, as_expected, cases, edited, expected

TOOL = "gemma_scope"
RES = "gemma-scope-2b-pt-res/layer_12/width_16k/average_l0_82"
EMBEDDING = "gemma-scope-2b-pt-res/embedding/width_4k/average_l0_6"
SECOND = "gemma-scope-2-1b-it/resid_post/layer_13_width_16k_l0_small"


@pytest.mark.parametrize("case", cases(TOOL))
def test_directions_layer_and_model_are_those_of_the_layout(case):
    as_expected(TOOL, case)


@pytest.mark.parametrize("case", cases(TOOL, refused=True))
def test_other_sites_and_transcoders_are_refused(case):
    with pytest.raises(SiteError, match=r"heads' outputs|MLP|transcoder"):
        load(FILES / TOOL / case)


def test_embedding_rows_are_as_long_as_what_the_model_reads():
    wanted = np.asarray(expected(TOOL)[EMBEDDING]["directions"])
    found = load(FILES / TOOL / EMBEDDING)
    np.testing.assert_allclose(found.vectors.numpy(), wanted, rtol=1e-6)
    assert any("√d_model" in sentence for sentence in found.assumed)


def test_the_names_of_the_hubs_cache_tell_layer_and_site_too(tmp_path):
    place = tmp_path / "models--google--gemma-scope-2b-pt-res" / "snapshots" / "0123" / "layer_12" / "width_16k"
    shutil.copytree(FILES / TOOL / RES, place / "average_l0_82")
    assert load(place / "average_l0_82").layer == 12
    assert load(place / "average_l0_82" / "params.npz#3").layer == 12


def test_outside_its_repository_site_and_layer_are_asked_for(tmp_path):
    shutil.copytree(FILES / TOOL / RES, tmp_path / "layer_12")
    with pytest.raises(UnstatedVectorError, match=r"site .*here they say layer_12.*--site"):
        load(tmp_path / "layer_12")
    with pytest.raises(UnstatedVectorError, match="layer"):
        load(tmp_path / "layer_12", site="residual")
    assert load(tmp_path / "layer_12", site="residual", layer=12).layer == 12


def test_the_second_scopes_decoder_has_a_lower_case_name(tmp_path):
    folder = edited(TOOL, SECOND, tmp_path, config="config.json")
    save_file({"W_dec": torch.ones(12, 8)}, folder / "params.safetensors")
    with pytest.raises(VectorFileError, match="w_dec"):
        load(folder)


def test_without_a_config_the_folders_names_are_read(tmp_path):
    for site in ("resid_post", "resid_post_all", "attn_out"):
        shutil.copytree(FILES / TOOL / SECOND, tmp_path / site / "layer_13_width_16k_l0_small")
        (tmp_path / site / "layer_13_width_16k_l0_small" / "config.json").unlink()
    assert load(tmp_path / "resid_post" / "layer_13_width_16k_l0_small").layer == 13
    assert load(tmp_path / "resid_post_all" / "layer_13_width_16k_l0_small").layer == 13
    with pytest.raises(SiteError, match="heads' outputs"):
        load(tmp_path / "attn_out" / "layer_13_width_16k_l0_small")


def test_without_either_site_and_layer_are_asked_for(tmp_path):
    folder = shutil.copytree(FILES / TOOL / SECOND, tmp_path / "mine")
    (folder / "config.json").unlink()
    with pytest.raises(UnstatedVectorError, match=r"no hf_hook_point_in.*--site.*--layer"):
        load(folder)


def test_several_sites_are_refused(tmp_path):
    hooks = ["model.layers.3.output", "model.layers.4.output"]
    with pytest.raises(SiteError, match="several sites"):
        load(edited(TOOL, SECOND, tmp_path, config="config.json", hf_hook_point_in=hooks))


# --- archives ---------------------------------------------------------------------------------------------------------
def archived(folder, **arrays):
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "params.npz", **arrays)
    return folder


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_rows_of_an_archive_are_numpys_own(tmp_path, save, dtype):
    rows = np.random.default_rng(0).normal(size=(50, 7)).astype(dtype)
    save(tmp_path / "params.npz", W_dec=rows, W_enc=rows.T)
    found = load(f"{tmp_path}#49,0,17", site="residual", layer=3)
    np.testing.assert_array_equal(found.vectors.numpy(), rows[[49, 0, 17]].astype(np.float32))


@pytest.mark.parametrize(
    ("arrays", "why"),
    [
        ({"W_dec": np.asfortranarray(np.ones((3, 4)))}, "by columns"),
        ({"W_dec": np.ones((3, 4), np.int64)}, "int64"),
        ({"W_dec": np.ones(4)}, r"shape \[4\]"),
        ({"W_dec": np.ones(())}, r"shape \[\]"),
        ({"W_dec": np.ones((0, 4))}, r"shape \[0, 4\]"),
    ],
)
def test_an_archive_without_rows_of_floats_is_refused(tmp_path, arrays, why):
    with pytest.raises(VectorFileError, match=why):
        load(archived(tmp_path / "sae", **arrays), site="residual", layer=3)


def test_another_tools_files_of_these_names_are_left_to_other_readers(tmp_path):
    place = local_place(str(archived(tmp_path / "npz", vectors=np.ones((3, 4)))))
    assert place is not None and gemma_scope.read(place, Stated()) is None
    save_file({"kernel": torch.ones(3, 4)}, tmp_path / "params.safetensors")
    place = local_place(str(tmp_path))
    assert place is not None and gemma_scope.read_second(place, Stated()) is None


def test_in_its_repository_an_archive_without_a_decoder_is_refused(tmp_path):
    folder = archived(tmp_path / "gemma-scope-2b-pt-res" / "layer_3", W_enc=np.ones((3, 4)))
    with pytest.raises(VectorFileError, match=r"holds W_enc.npy; expected W_dec"):
        load(folder)
    with pytest.raises(VectorFileError, match=r"shape \[\]"):
        load(archived(tmp_path / "gemma-scope-2b-pt-res" / "embedding", W_dec=np.ones(())))


def test_a_header_that_claims_more_than_is_there_takes_no_memory(tmp_path):
    archived(tmp_path, W_dec=np.ones((3, 4), np.float32))
    with zipfile.ZipFile(tmp_path / "params.npz") as archive:
        content = archive.read("W_dec.npy")
    with zipfile.ZipFile(tmp_path / "params.npz", "w") as archive:
        archive.writestr("W_dec.npy", content.replace(b"(3, 4), }          ", b"(30000000000, 4), }"))
    with pytest.raises(VectorFileError, match="30000000000"):
        load(tmp_path, site="residual", layer=3)


def test_what_is_no_archive_is_refused_as_damaged(tmp_path):
    folder = shutil.copytree(FILES / TOOL / RES, tmp_path / "sae")
    file = folder / "params.npz"
    whole = file.read_bytes()
    for content in (whole[:300], b"", b"no archive at all", whole.replace(b"descr", b"xxxxx")):
        file.write_bytes(content)
        with pytest.raises((DamagedFileError, VectorFileError)):
            load(folder, site="residual", layer=3)


def test_objects_in_an_archive_are_never_unpickled(tmp_path):
    np.savez(tmp_path / "params.npz", W_dec=np.array([{"a": 1}], dtype=object))
    with pytest.raises(VectorFileError, match="object"):
        load(tmp_path, site="residual", layer=3)
