"""Of a base on the Hub only what a prompt's embeddings take is downloaded."""

from __future__ import annotations

import json

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from nla_sdk import NLAPair
from tests import tiny

pytest_plugins = ["tests.hub.fixtures"]


@pytest.mark.parametrize("shards", [1, 2])
def test_the_file_with_the_table_is_fetched_and_no_other_weights(exports, serve, hub, tmp_path, shards):
    made = exports("llama-raw")
    base = made.pair.base_path
    tensors = load_file(base / "model.safetensors")
    files = {file.name: file.read_bytes() for file in base.iterdir() if file.suffix in (".json", ".jinja")}
    table = {name: tensor for name, tensor in tensors.items() if "embed_tokens" in name}
    parts = [tensors] if shards == 1 else [table, {k: v for k, v in tensors.items() if k not in table}]
    names = (
        ["model.safetensors"]
        if shards == 1
        else ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    )
    for name, part in zip(names, parts, strict=True):
        save_file(part, tmp_path / name, metadata={"format": "pt"})
        files[name] = (tmp_path / name).read_bytes()
    if shards == 2:
        where = {key: name for name, part in zip(names, parts, strict=True) for key in part}
        files["model.safetensors.index.json"] = json.dumps({"weight_map": where}).encode()
    hub.add("ada/base", files)
    half = {file.name: file.read_bytes() for file in made.pair.av.folder.iterdir()}
    about = yaml.safe_load(half["nla_meta.yaml"]) | {"base_model": "ada/base"}
    config = json.loads(half["adapter_config.json"]) | {"base_model_name_or_path": "ada/base"}
    changed = {"nla_meta.yaml": yaml.safe_dump(about), "adapter_config.json": json.dumps(config)}
    hub.add("ada/some-av", {**half, **{name: text.encode() for name, text in changed.items()}})

    served = NLAPair.from_pretrained("ada/some-av", av_engine=serve(made.folder / "av").url)
    vectors = tiny.random(2, tiny.D_MODEL, seed=8, scale=2.0)
    assert served.explain(vectors) == made.pair.explain(vectors)
    fetched = {request.path.rpartition("/")[2] for request in hub.requests if "ada/base" in request.path}
    assert names[0] in fetched and not {*names[1:]} & fetched
    assert torch.equal(served.verbalizer.backbone.embed([5]), table["model.embed_tokens.weight"][5:6].float())
