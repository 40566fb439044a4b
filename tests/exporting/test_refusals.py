"""What the layout cannot carry is refused by its name, all of it at once, before anything is written."""

from __future__ import annotations

import os

import pytest
import torch
import yaml
from safetensors.torch import load_file

from nla_sdk import NLAPair
from nla_sdk.errors import ExportError
from nla_sdk.exporting.constant import offset_of
from tests import tiny
from tests.exporting.reader import Reader, directions

BLOCK = {"site": "block", "block": 1, "rule": "add", "norm": "match"}
AV = {
    "injection.site: block": {"injection": BLOCK},
    "injection.rule: add": {"injection": {"site": "embedding", "rule": "add", "norm": "fixed", "scale": 4.0}},
    "injection.norm: raw": {"injection": {"site": "embedding", "rule": "replace", "norm": "raw"}},
    "injection.norm: multiply": {
        "injection": {"site": "embedding", "rule": "replace", "norm": "multiply", "scale": 4.0}
    },
    "injection.markers: 3": {"injection_markers": 3},
    "fields": {"fields": {"depth": {"default": 50}}, "av_template": "At {depth}%: <c>{injection_char}</c>"},
    "activation_whitening": {"activation_whitening": "whitening.safetensors"},
    "activation_map": {"activation_map": "map.safetensors"},
    "mse_scale: null": {"mse_scale": None},
}
AR = {
    "ar.final_norm: kept": {"ar_final_norm": "kept"},
    "ar.state: sqrt_d": {"ar_state": "sqrt_d"},
    "ar.position: turn": {"ar_position": "turn", "ar_prompt_style": "chat"},
    "ar.prompt_style: chat": {"ar_prompt_style": "chat"},
    "ar.heads: per_layer": {"ar_heads": "per_layer"},
    "ar.bos: false": {"ar_bos": False},
    "ar.target: centred": {"ar_target": "centred"},
    "reconstruction_map": {"reconstruction_map": "map.safetensors"},
}


def changed(contract, facts):
    """A contract with these facts, none of the old injection's among them."""
    if "injection" not in facts:
        return contract.replace(**facts)
    return type(contract).from_dict(
        {key: value for key, value in contract.to_dict().items() if key != "injection"} | facts
    )


@pytest.fixture
def pair(write):
    return NLAPair.from_pretrained(write("llama"))


@pytest.mark.parametrize("fact", AV)
def test_what_an_av_does_that_no_reader_does(pair, tmp_path, fact):
    pair.verbalizer.contract = changed(pair.verbalizer.contract, AV[fact])
    with pytest.raises(ExportError, match=f"cannot carry this pair. `{fact}`"):
        pair.export(tmp_path / "out")
    assert not os.path.lexists(tmp_path / "out")


@pytest.mark.parametrize("fact", AR)
def test_what_an_ar_does_that_no_reader_does(pair, tmp_path, fact):
    pair.reconstructor.contract = changed(pair.reconstructor.contract, AR[fact])
    with pytest.raises(ExportError, match=f"cannot carry this pair. `{fact}`"):
        pair.export(tmp_path / "out")
    assert not os.path.lexists(tmp_path / "out")


def test_all_of_it_is_said_at_once(pair, tmp_path):
    pair.verbalizer.contract = changed(pair.verbalizer.contract, {"injection": BLOCK})
    pair.reconstructor.contract = changed(pair.reconstructor.contract, {"ar_final_norm": "kept"})
    with pytest.raises(ExportError, match=r"`injection\.site: block`.*`ar\.final_norm: kept`"):
        pair.export(tmp_path / "out")


def test_a_base_with_per_layer_embeddings_takes_no_embeddings_alone(lora_pair, tmp_path):
    with pytest.raises(ExportError, match="looks every token up in a second, per-layer embedding by its id"):
        lora_pair("below").export(tmp_path)


def test_a_bias_that_no_block_of_this_kind_can_add_is_refused(lora_folders, tmp_path):
    ar = NLAPair.from_pretrained(None, lora_folders["below"] / "ar")
    with pytest.raises(ExportError, match=r"no place for the bias of the AR's head.*Gemma4TextDecoderLayer"):
        ar.export(tmp_path / "out")
    assert not [item for item in tmp_path.rglob("*") if item.is_file()]


def test_a_bias_outside_the_range_of_the_heads_matrix_is_refused():
    weight = torch.diag(torch.tensor([1.0, 2.0, 0.0]))
    assert torch.allclose(offset_of(weight, torch.tensor([1.0, 1.0, 0.0])), torch.tensor([1.0, 0.5, 0.0]).double())
    with pytest.raises(ExportError, match="matrix is not invertible"):
        offset_of(weight, torch.tensor([0.0, 0.0, 1.0]))


# --- a centred pair --------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def centred(write):
    mean = tiny.random(tiny.D_MODEL, seed=77, scale=3.0)
    return NLAPair.from_pretrained(tiny.centre(write("llama"), mean, norm=20.0, baseline=1.5)), mean


def test_a_centred_pair_is_refused_with_the_way_out(centred, tmp_path):
    with pytest.raises(ExportError, match=r"`activation_mean`.*caller_subtracts_mean=True.*`ar\.target: centred`"):
        centred[0].export(tmp_path / "out")


def test_a_caller_who_subtracts_the_mean_gets_the_same_texts_and_vectors(centred, tmp_path):
    pair, mean = centred
    report = pair.export(tmp_path, caller_subtracts_mean=True)
    assert any("whoever runs it subtracts" in note for note in report.notes)
    assert any("subtracts" in line for line in (tmp_path / "av" / "README.md").read_text().splitlines())
    reader, rows = Reader(tmp_path), tiny.random(4, tiny.D_MODEL, seed=8, scale=2.0)
    beside = load_file(tmp_path / "av" / "activation_mean.safetensors")["mean"]
    assert torch.equal(beside, mean)
    assert [reader.explain(row - beside) for row in rows] == pair.explain(rows)
    texts = ["", "a cat"]
    found = mean + 20.0 * directions(torch.stack([reader.reconstruct(text) for text in texts]))
    torch.testing.assert_close(found, pair.reconstruct(texts), rtol=1e-4, atol=1e-4)


def test_this_sdk_subtracts_the_mean_of_such_an_export_by_itself(centred, tmp_path):
    pair, _ = centred
    pair.export(tmp_path, caller_subtracts_mean=True)
    again, rows = NLAPair.from_pretrained(tmp_path), tiny.random(4, tiny.D_MODEL, seed=8, scale=2.0)
    assert again.explain(rows) == pair.explain(rows)
    torch.testing.assert_close(again.reconstruct("a cat"), pair.reconstruct("a cat"), rtol=1e-4, atol=1e-4)
    said = yaml.safe_load((tmp_path / "ar" / "nla_meta.yaml").read_text(encoding="utf-8"))
    assert (said["ar"]["target"], said["activation_mean"]) == ("centred", "activation_mean.safetensors")
