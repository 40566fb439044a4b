"""Dictionaries of dictionary-learning: columns or rows by the tensor's name, and site and layer asked for."""

from __future__ import annotations

import pickle
import shutil

import numpy as np
import pytest
import torch

from nla_sdk.errors import DamagedFileError, UnsafeFileError
from nla_sdk.vectors import load
from nla_sdk.vectors.faults import SiteError, UnstatedVectorError, VectorFileError
from tests.vectors.kept import FILES, cases, edited, expected, off

TOOL = "dictionary_learning_0"
SAID = {"site": "residual", "layer": 5}


@pytest.mark.parametrize("case", cases(TOOL))
def test_directions_are_what_the_tools_decoder_adds_for_a_feature(case):
    facts, found = expected(TOOL)[case], load(FILES / TOOL / case, **SAID)
    assert off(found.vectors, facts["directions"]) < 1e-6
    assert (found.kind, found.layer, found.model) == ("direction", 5, facts["model"])


def test_both_layouts_are_among_them_and_all_are_square():
    facts = expected(TOOL).values()
    assert {"decoder.weight" in one["tensors"] for one in facts} == {True, False}
    assert all(np.shape(one["directions"]) == (8, 8) for one in facts)


@pytest.mark.parametrize("case", ["standard", "jumprelu"])
def test_the_other_way_round_they_would_be_other_directions(case):
    directions = np.asarray(expected(TOOL)[case]["directions"])
    assert off(load(FILES / TOOL / case, **SAID).vectors, directions.T) > 0.3


def test_site_and_layer_are_asked_for_with_what_the_config_says_of_them():
    with pytest.raises(UnstatedVectorError) as caught:
        load(FILES / TOOL / "standard")
    message = str(caught.value)
    for part in ("'resid_post_layer_5' is free text", "buffer.io 'out'", "--site", "trainer.layer 5", "--layer"):
        assert part in message
    with pytest.raises(UnstatedVectorError, match="site"):
        load(FILES / TOOL / "standard", layer=5)
    with pytest.raises(UnstatedVectorError, match="layer"):
        load(FILES / TOOL / "standard", site="residual")


def test_the_input_of_a_module_is_said_to_be_the_output_of_the_block_before():
    assert expected(TOOL)["top_k"]["io"] == "in"
    with pytest.raises(UnstatedVectorError, match="the output of the block before"):
        load(FILES / TOOL / "top_k")


def test_another_site_is_refused():
    with pytest.raises(SiteError, match="said to be of mlp"):
        load(FILES / TOOL / "standard", site="mlp", layer=5)


def test_a_map_from_one_site_to_another_is_refused(tmp_path):
    with pytest.raises(SiteError, match="'in_and_out'"):
        load(edited(TOOL, "standard", tmp_path, config="config.json", buffer={"io": "in_and_out"}), **SAID)


def test_a_checkpoint_of_mid_training_is_read_with_the_config_above_it():
    file = FILES / TOOL / "standard" / "checkpoints" / "ae_1.pt"
    plain = torch.load(file, weights_only=True)["decoder.weight"].T
    found = load(file, **SAID)
    assert off(found.vectors, plain) < 1e-6 and found.model == expected(TOOL)["standard"]["model"]


def test_without_a_config_all_is_asked_for(tmp_path):
    folder = shutil.copytree(FILES / TOOL / "standard", tmp_path / "sae")
    (folder / "config.json").unlink()
    with pytest.raises(UnstatedVectorError, match=r"names no module.*has no trainer.layer"):
        load(folder)
    assert load(folder, **SAID).unknown == ("the model",)


def saved(folder, tensors):
    folder.mkdir(exist_ok=True)
    torch.save(tensors, folder / "ae.pt")
    return folder


def test_names_that_torch_compile_wrote_are_read(tmp_path):
    columns = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    found = load(saved(tmp_path, {"_orig_mod.decoder.weight": columns, "_orig_mod.bias": torch.zeros(4)}), **SAID)
    assert off(found.vectors, columns.T) < 1e-6


@pytest.mark.parametrize(
    ("tensors", "error", "why"),
    [
        ({"decoder.weight": torch.ones(2, 3, 4)}, SiteError, "crosscoder"),
        ({"decoder.weight": torch.ones(4, 3), "W_dec": torch.ones(3, 4)}, VectorFileError, "one decoder"),
        ({"encoder.weight": torch.ones(4, 3)}, VectorFileError, "one decoder"),
        ({"W_dec": torch.ones(3, 4, dtype=torch.int64)}, VectorFileError, "expected a whole matrix"),
        ({"W_dec": torch.ones(4)}, VectorFileError, "expected a whole matrix"),
        ({"W_dec": torch.ones(1, 1).expand(10**6, 10**6)}, VectorFileError, "expected a whole matrix"),
        ({"W_dec": torch.eye(4).to_sparse()}, VectorFileError, "expected a whole matrix"),
        ({"W_dec": torch.ones(10**6, 10**6, device="meta")}, VectorFileError, "expected a whole matrix"),
        ({"W_dec": [1.0, 2.0]}, VectorFileError, "something else than tensors"),
        (torch.ones(3, 4), VectorFileError, "something else than tensors"),
    ],
)
def test_what_holds_no_decoder_is_refused_by_name(tmp_path, tensors, error, why):
    with pytest.raises(error, match=why):
        load(saved(tmp_path, tensors), **SAID)


class Boom:
    def __reduce__(self):
        return (pytest.fail, ("code ran",))


def test_a_pickle_that_would_run_code_is_refused(tmp_path):
    torch.save({"decoder.weight": Boom()}, tmp_path / "ae.pt", pickle_module=pickle)
    with pytest.raises(UnsafeFileError):
        load(tmp_path, **SAID)


def test_a_file_cut_short_is_named_as_damaged(tmp_path):
    folder = shutil.copytree(FILES / TOOL / "standard", tmp_path / "sae")
    (folder / "ae.pt").write_bytes((folder / "ae.pt").read_bytes()[:-700])
    with pytest.raises(DamagedFileError):
        load(folder, **SAID)
