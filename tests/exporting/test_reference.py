"""A pair exported in the reference layout, read by code that knows nothing else, is the pair it was."""

from __future__ import annotations

import json
import os
import shutil
from types import SimpleNamespace

import pytest
import torch
import yaml
from safetensors.torch import load_file

from nla_sdk import NLAPair
from nla_sdk.errors import ExportError, InputError, OccupiedFolderError
from nla_sdk.exporting import reference
from tests import tiny
from tests.exporting.reader import Reader, directions

PAIRS = ["full", "llama-chat", "qwen3-chat", "gemma3-chat", "llama-raw", "gemma3-raw"]
TEXTS = ["", "a cat", "An old sailor tells of the sea. " * 4]


def rows(count: int = 5) -> torch.Tensor:
    return tiny.random(count, tiny.D_MODEL, seed=8, scale=2.0)


@pytest.fixture(scope="module", params=PAIRS)
def exported(request, loaded, tmp_path_factory):
    pair = loaded(request.param)
    folder = tmp_path_factory.mktemp(request.param) / "exported"
    return SimpleNamespace(name=request.param, pair=pair, folder=folder, report=pair.export(folder))


def test_a_reader_of_the_layout_gets_the_same_texts_and_vectors(exported):
    reader = Reader(exported.folder)
    explanations = exported.pair.explain(rows())
    assert [reader.explain(row) for row in rows()] == explanations
    assert len(set(explanations)) > 1
    found = torch.stack([reader.reconstruct(text) for text in TEXTS])
    torch.testing.assert_close(found, exported.pair.reconstruct(TEXTS), rtol=1e-4, atol=1e-4)
    assert reader.prompt() == list(exported.pair.verbalizer.prompt_ids)


def test_this_sdk_reads_it_with_nothing_said(exported):
    again = NLAPair.from_pretrained(exported.folder / "av", exported.folder / "ar")
    assert again.explain(rows()) == exported.pair.explain(rows())
    torch.testing.assert_close(again.reconstruct(TEXTS), exported.pair.reconstruct(TEXTS), rtol=1e-4, atol=1e-4)
    assert again.matched
    assert (again.layer, again.d_model) == (exported.pair.layer, tiny.D_MODEL)


def test_the_sidecar_has_the_references_keys_and_plain_numbers(exported):
    for half in ("av", "ar"):
        said = yaml.safe_load((exported.folder / half / "nla_meta.yaml").read_text(encoding="utf-8"))
        assert (said["kind"], said["role"], said["d_model"]) == ("nla_model", half, tiny.D_MODEL)
        assert set(said["tokens"]) >= {
            f"injection_{name}" for name in ("char", "token_id", "left_neighbor_id", "right_neighbor_id")
        }
        assert all(isinstance(said["extraction"][name], float) for name in ("injection_scale", "mse_scale"))
        assert said["extraction"]["layer_index"] == exported.pair.layer
        assert set(said["prompt_templates"]) == {"av", "ar"}
        config = json.loads((exported.folder / half / "config.json").read_text())
        assert "quantization_config" not in config
    # the last block's index, where one more is kept
    assert said["ar"]["num_hidden_layers"] == config["num_hidden_layers"] - 1


def test_the_ar_has_no_final_norm_no_head_of_words_and_no_block_that_never_ran(exported):
    names = set(load_file(exported.folder / "ar" / "model.safetensors"))
    assert not {name for name in names if name.startswith(("model.norm", "lm_head"))}
    blocks = {int(name.split(".")[2]) for name in names if ".layers." in name}
    folded = exported.name != "full"  # its head has no bias
    assert blocks == set(range(exported.pair.ar_contract.ar_num_blocks + folded))
    assert any("folded in" in note for note in exported.report.notes) == folded


def test_the_page_beside_it_explains_every_file(exported):
    for half in ("av", "ar"):
        folder = exported.folder / half
        page = (folder / "README.md").read_text(encoding="utf-8")
        assert "terms of" not in page  # which no tiny base has
        for file in folder.iterdir():
            assert f"| `{file.name}` | " in page
            assert file.stat().st_mode & 0o777 == (folder / "config.json").stat().st_mode & 0o777


def test_the_reports_figures_are_what_rounding_leaves(exported):
    assert exported.report.av_shift < 1e-3
    assert exported.report.ar_distance < 1e-4
    assert (exported.report.layout, exported.report.dtype, exported.report.folder) == (
        "reference",
        "float32",
        exported.folder,
    )


def test_in_bfloat16_half_the_bytes_and_how_far_it_moves_is_told(exported, tmp_path):
    report = exported.pair.export(tmp_path, dtype="bfloat16")
    full, half = (folder / "av" / "model.safetensors" for folder in (exported.folder, tmp_path))
    assert half.stat().st_size < 0.6 * full.stat().st_size
    assert {tensor.dtype for tensor in load_file(half).values()} == {torch.bfloat16}
    reader = Reader(tmp_path)
    found = torch.stack([reader.reconstruct(text) for text in TEXTS])
    moved = (directions(found) - directions(exported.pair.reconstruct(TEXTS))).norm(dim=-1)
    assert 0 < float(moved.max()) < 0.15
    assert exported.report.ar_distance < report.ar_distance < 0.15
    assert exported.report.av_shift < report.av_shift < 1.0


def test_the_bases_own_settings_for_writing_do_not_change_the_texts(loaded, tmp_path, write, bases):
    folder = write("llama", style="chat", output={"stop": 7}, max_new_tokens=9)
    pair = NLAPair.from_pretrained(folder)
    pair.verbalizer.backbone.model.generation_config.repetition_penalty = 1.8
    pair.export(tmp_path)
    settings = json.loads((tmp_path / "av" / "generation_config.json").read_text())
    assert "repetition_penalty" not in settings
    assert settings["max_new_tokens"] == 9
    assert set(settings["eos_token_id"]) == {1, 7}
    assert not (tmp_path / "ar" / "generation_config.json").exists()


def test_what_the_author_sampled_with_is_what_generate_does(write, tmp_path):
    folder = write("llama", style="chat", output={"temperature": 0.7, "top_p": 0.9})
    NLAPair.from_pretrained(folder).export(tmp_path)
    settings = json.loads((tmp_path / "av" / "generation_config.json").read_text())
    assert (settings["do_sample"], settings["temperature"], settings["top_p"], settings["top_k"]) == (True, 0.7, 0.9, 0)


def test_that_no_server_forbids_repeats_is_told_on_the_page_and_in_the_sidecar(write, tmp_path):
    pair = NLAPair.from_pretrained(write("llama", output={"no_repeats": True}))
    [note] = [note for note in pair.export(tmp_path).notes if "no_repeats" in note]
    assert "server forbids nothing" in note
    assert note in (tmp_path / "av" / "README.md").read_text(encoding="utf-8")
    said = yaml.safe_load((tmp_path / "av" / "nla_meta.yaml").read_text(encoding="utf-8"))
    assert note in said["provenance"]["export"]["notes"] and said["output"] == {"no_repeats": True}
    assert NLAPair.from_pretrained(tmp_path).av_contract.output_no_repeats


@pytest.mark.parametrize(
    ("facts", "norm"),
    [
        ({"injection_scale": 30, "injection": {"coefficient": 2.0}}, 60.0),
        ({"injection_scale": None, "injection": {"site": "embedding", "norm": "match"}}, None),
    ],
    ids=["a coefficient", "the marker's own norm"],
)
def test_a_norm_that_is_one_number_becomes_that_number(write, tmp_path, facts, norm):
    facts = {name: value for name, value in facts.items() if value is not None}
    folder = write("llama", **facts)
    if norm is None:
        tiny.write_sidecar(folder / "av", "injection_scale")
    pair = NLAPair.from_pretrained(folder)
    pair.export(tmp_path)
    said = yaml.safe_load((tmp_path / "av" / "nla_meta.yaml").read_text(encoding="utf-8"))
    backbone = pair.verbalizer.backbone
    own = backbone.model.get_input_embeddings().weight[pair.av_contract.injection_token_id].norm()
    assert said["extraction"]["injection_scale"] == pytest.approx(float(own) if norm is None else norm)


def test_an_ar_without_a_head_gets_the_identity(write, tmp_path):
    folder = write("llama", ar={"ar": {"heads": "none"}})
    (folder / "ar" / "linear_head.pt").unlink()
    tiny.write_sidecar(folder / "ar", "head_bias")
    NLAPair.from_pretrained(folder).export(tmp_path)
    assert torch.equal(load_file(tmp_path / "ar" / "value_head.safetensors")["weight"], torch.eye(tiny.D_MODEL))


# --- writing --------------------------------------------------------------------------------------------------------
def test_nothing_is_left_where_the_second_half_fails(loaded, tmp_path, monkeypatch):
    def broken(*args, **options):
        raise RuntimeError("the disk is gone")

    monkeypatch.setattr(reference, "truncated", broken)
    with pytest.raises(RuntimeError, match="the disk is gone"):
        loaded("llama-chat").export(tmp_path / "out")
    assert not [item for item in (tmp_path / "out").rglob("*") if item.exists()]


def test_only_halves_are_replaced_and_only_when_asked(loaded, tmp_path):
    pair = loaded("llama-chat")
    pair.export(tmp_path)
    with pytest.raises(OccupiedFolderError, match="pass overwrite=True"):
        pair.export(tmp_path)
    pair.export(tmp_path, dtype="bfloat16", overwrite=True)
    (tmp_path / "ar" / "nla_meta.yaml").unlink()
    (tmp_path / "ar" / "thesis.tex").touch()
    before = (tmp_path / "av" / "model.safetensors").stat().st_mtime_ns
    with pytest.raises(OccupiedFolderError, match="is no half of a pair"):
        pair.export(tmp_path, overwrite=True)
    assert (tmp_path / "av" / "model.safetensors").stat().st_mtime_ns == before


def test_a_disk_without_room_is_told_before_anything_is_written(loaded, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(free=1000))
    with pytest.raises(ExportError, match=r"takes 0\.2 GB and .* has 0\.0 GB free"):
        loaded("llama-chat").export(tmp_path / "out")
    assert not os.path.lexists(tmp_path / "out")


def test_unknown_layouts_and_dtypes_are_refused(loaded, tmp_path):
    with pytest.raises(InputError, match="layout='gguf' is not known; expected 'reference'"):
        loaded("llama-chat").export(tmp_path, "gguf")
    with pytest.raises(InputError, match="dtype='float16' is not exported; expected 'float32' or 'bfloat16'"):
        loaded("llama-chat").export(tmp_path, dtype="float16")


def test_an_av_or_an_ar_alone_is_exported_alone(write, tmp_path):
    folder = write("llama")
    report = NLAPair.from_pretrained(folder / "av").export(tmp_path / "a")
    assert report.ar_distance is None
    assert [item.name for item in (tmp_path / "a").iterdir()] == ["av"]
    report = NLAPair.from_pretrained(None, folder / "ar").export(tmp_path / "b")
    assert report.av_shift is None
    said = yaml.safe_load((tmp_path / "b" / "ar" / "nla_meta.yaml").read_text(encoding="utf-8"))
    assert said["extraction"]["injection_scale"] is None
    assert NLAPair.from_pretrained(None, tmp_path / "b" / "ar").reconstruct("a cat").shape == (tiny.D_MODEL,)
