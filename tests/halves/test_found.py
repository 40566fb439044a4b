"""What files beside a contract say of it."""

from __future__ import annotations

import json

import torch
from safetensors.torch import save, save_file

from nla_sdk.halves.found import files_say
from nla_sdk.halves.inspection import describe

pytest_plugins = ["tests.hub.fixtures"]
NORM = {"model.norm.weight": torch.ones(4)}
BLOCKS = {f"model.layers.{at}.self_attn.q_norm.weight": torch.ones(4) for at in range(3)}


def model(folder, tensors):
    (folder / "config.json").write_text("{}")
    save_file(tensors, folder / "model.safetensors")


def test_an_empty_folder_says_nothing(tmp_path):
    assert files_say(tmp_path) == {}


def test_a_whole_model_says_nothing(tmp_path):
    model(tmp_path, BLOCKS | NORM)
    assert files_say(tmp_path) == {}


def test_a_model_without_a_final_norm_is_an_ar_that_dropped_it(tmp_path):
    tower = {"vision_tower.norm.weight": torch.ones(4), "model.layers.1.norm.weight": torch.ones(4)}
    model(tmp_path, BLOCKS | tower)
    assert files_say(tmp_path) == {"ar_num_blocks": 3, "ar": {"final_norm": "dropped"}}


def test_of_shards_all_headers_are_read(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    save_file(BLOCKS, tmp_path / "a.safetensors")
    save_file(NORM, tmp_path / "b.safetensors")
    weight_map = dict.fromkeys(BLOCKS, "a.safetensors") | dict.fromkeys(NORM, "b.safetensors")
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert files_say(tmp_path) == {}


def test_a_damaged_model_says_nothing_here(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"version https://git-lfs.github.com")
    assert files_say(tmp_path) == {}


def test_the_meta_file_beside_a_whole_model_is_believed_only_in_what_it_says(tmp_path):
    model(tmp_path, BLOCKS | NORM)
    (tmp_path / "ar_meta.json").write_text(json.dumps({"ar_num_layers": 3}))
    assert files_say(tmp_path) == {"ar_num_blocks": 3}
    (tmp_path / "ar_meta.json").write_text(json.dumps({"ar_num_layers": 3, "final_norm_stripped": True}))
    assert files_say(tmp_path) == {"ar_num_blocks": 3, "ar": {"final_norm": "dropped"}}


def test_a_lora_with_its_head_is_an_ars_and_its_norm_stays_unless_it_was_stripped(tmp_path):
    save_file({"value_head.weight": torch.ones(2, 2)}, tmp_path / "ar_lora_value_head.safetensors")
    lora = {"kind": "lora", "rslora": True}
    assert files_say(tmp_path) == {"role": "ar", "weights": lora}
    (tmp_path / "ar_meta.json").write_text(json.dumps({"ar_num_layers": 25, "lora_alpha": 16, "lora_r": 128}))
    wanted = {"role": "ar", "weights": lora | {"alpha": 16}, "ar_num_blocks": 25, "ar": {"final_norm": "kept"}}
    assert files_say(tmp_path) == wanted


def test_heads_for_each_layer_are_told_by_their_files_name_unless_there_is_one_head_too(tmp_path):
    save_file({"3": torch.ones(2, 2)}, tmp_path / "value_heads.safetensors")
    assert files_say(tmp_path) == {"ar": {"heads": "per_layer"}}
    save_file({"weight": torch.ones(2, 2)}, tmp_path / "value_head.safetensors")
    assert files_say(tmp_path) == {}


def test_what_is_told_of_a_repository_without_its_weights_is_what_loading_reads(hub):
    stated = {"role": "ar", "base_model": "owner/lm", "layer": 2, "d_model": 4, "ar_template": "{explanation}>"}
    heads = {"value_head.weight": torch.zeros(4, 4), "backbone.layers.0.lora_A.default.weight": torch.zeros(2, 4)}
    meta = {"ar_num_layers": 3, "lora_alpha": 16, "final_norm_stripped": True}
    files = {"nla_meta.yaml": json.dumps(stated), "ar_meta.json": json.dumps(meta)}
    hub.add("ada/ar", files | {"ar_lora_value_head.safetensors": save(heads)})
    [inspection] = describe("ada/ar")
    contract = inspection.half.contract
    assert (contract.ar_num_blocks, contract.ar_final_norm) == (3, "dropped")
    assert inspection.half.is_adapter
