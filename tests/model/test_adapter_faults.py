"""What is wrong with an adapter is named as what it is, with its own remedy; the base is blamed if shapes say so."""

from __future__ import annotations

import json
import re
import shutil

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from nla_sdk.errors import AdapterMismatchError, DamagedFileError, LoadError, MissingFileError, UnsafeFileError
from nla_sdk.halves.fetch import fetch_half
from nla_sdk.halves.half import Half
from nla_sdk.halves.tensors import account
from nla_sdk.model.backbone import Backbone
from tests import tiny

WEIGHTS = "adapter_model.safetensors"
OTHER_BASE = "made for another base"
EMBEDDING = "base_model.model.model.embed_tokens.weight"


@pytest.fixture(scope="module")
def original(tmp_path_factory, llama_base):
    return tiny.lora_av(tmp_path_factory.mktemp("av") / "av", llama_base, tiny.plain_model(llama_base), layer=1)


@pytest.fixture
def folder(original, tmp_path):
    return shutil.copytree(original, tmp_path / "av")


@pytest.fixture(scope="module")
def backbone(llama_base):
    return Backbone.load(llama_base, device="cpu")


def change(folder, new):
    tensors = {key: tensor.clone().contiguous() for key, tensor in new(load_file(folder / WEIGHTS)).items()}
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    return folder


def halves(tensors, parts=2):
    return {key: tensor[: -(-len(tensor) // parts)] for key, tensor in tensors.items()}


def doubled(tensors):
    return tensors | {
        k.replace("model.layers.0", "model.language_model.layers.0"): v for k, v in [*tensors.items()][:2]
    }


CASES = {
    "empty": (lambda t: {k: torch.empty(0) for k in t}, DamagedFileError, "are empty.*DeepSpeed ZeRO-3(.|\n)*gather"),
    "some empty": (
        lambda t: {k: torch.empty(0) if "layers.1" in k else v for k, v in t.items()},
        DamagedFileError,
        "14 of 56 .*empty",
    ),
    "flat": (
        lambda t: {k: v.flatten() for k, v in t.items()},
        DamagedFileError,
        "flat lists of numbers.*1024(.|\n)*gather",
    ),
    "half": (halves, DamagedFileError, "one slice of 2 of every LoRA matrix(.|\n)*FSDP: a full state dict"),
    "quarter": (lambda t: halves(t, 4), DamagedFileError, "one slice of 4 of every LoRA matrix"),
    "no tensors": (lambda t: {}, DamagedFileError, "holds no tensors"),
    "twice": (doubled, AdapterMismatchError, "the same place as .*(.|\n)*saved under two nestings"),
    "added tokens": (
        lambda t: t | {EMBEDDING: torch.randn(322, 64)},
        AdapterMismatchError,
        r"2 tokens were added in training, the model's 'model.embed_tokens' has 320 rows(.|\n)*resize_token_embeddings",
    ),
    "another kind": (
        lambda t: t | {"base_model.model.model.layers.0.mlp.up_proj.ia3_l": torch.ones(128)},
        AdapterMismatchError,
        "another kind of adapter than LoRA",
    ),
    "dora unsaid": (
        lambda t: t | {"base_model.model.model.layers.0.mlp.up_proj.lora_magnitude_vector": torch.ones(128)},
        AdapterMismatchError,
        "the file holds lora_magnitude_vector, adapter_config.json says use_dora: false",
    ),
    "biases unsaid": (
        lambda t: t | {"base_model.model.model.layers.0.mlp.up_proj.lora_B.bias": torch.ones(128)},
        AdapterMismatchError,
        "the file holds lora_B.bias, adapter_config.json says lora_bias: false",
    ),
    "rows unsaid": (
        lambda t: t | {"base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta": torch.ones(2, 64)},
        AdapterMismatchError,
        "adapter_config.json names no token ids",
    ),
    "half a LoRA on the embedding": (
        lambda t: t | {"base_model.model.model.embed_tokens.lora_embedding_A": torch.ones(8, 320)},
        AdapterMismatchError,
        "lora_embedding_B is missing",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_each_fault_has_its_own_name_and_the_base_is_not_blamed(backbone, folder, case):
    new, error, message = CASES[case]
    change(folder, new)
    before = [name for name, _ in backbone.model.named_modules()]
    with pytest.raises(error, match=message) as caught:
        backbone.load_adapter("av", folder)
    assert OTHER_BASE not in str(caught.value)
    assert [name for name, _ in backbone.model.named_modules()] == before


def test_the_base_is_blamed_where_shapes_speak_for_it(backbone, folder):
    change(folder, lambda t: {k: torch.ones(8, 96) if k.endswith("q_proj.lora_A.weight") else v for k, v in t.items()})
    with pytest.raises(AdapterMismatchError, match=OTHER_BASE):
        backbone.load_adapter("av", folder)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (WEIGHTS, b"", r"is empty \(0 bytes\)"),
        (WEIGHTS, b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "is a Git LFS pointer.*git lfs pull"),
        (WEIGHTS, b"\n<!DOCTYPE html><html>", "is a web page"),
        (WEIGHTS, b"\x00" * 64, "not a readable safetensors file: it does not begin with a header"),
        (WEIGHTS, (500).to_bytes(8, "little") + b"{}", "cut short within its header"),
        ("adapter_config.json", b"", r"is empty \(0 bytes\)"),
        ("adapter_config.json", b"<html></html>", "is a web page"),
        ("adapter_config.json", b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer"),
    ],
)
def test_a_file_that_is_no_weights_is_named_as_what_it_is(backbone, folder, name, content, message):
    (folder / name).write_bytes(content)
    with pytest.raises(DamagedFileError, match=message):
        backbone.load_adapter("av", folder)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(part=st.floats(0, 0.999))
def test_a_file_cut_short_anywhere_is_refused_as_damaged(backbone, original, tmp_path, part):
    copy = shutil.copytree(original, tmp_path / "av", dirs_exist_ok=True)
    whole = (original / WEIGHTS).read_bytes()
    (copy / WEIGHTS).write_bytes(whole[: int(part * len(whole))])
    with pytest.raises(DamagedFileError, match="(cut short|empty|header).*Download it again"):
        backbone.load_adapter("av", copy)


# --- other layouts that are the same adapter --------------------------------------------------------------------------
def in_shards(folder, index=True):
    tensors = load_file(folder / WEIGHTS)
    keys = sorted(tensors)
    names = {}
    for at, part in enumerate((keys[:20], keys[20:]), 1):
        name = f"adapter_model-{at:05d}-of-00002.safetensors"
        save_file({key: tensors[key] for key in part}, folder / name)
        names |= dict.fromkeys(part, name)
    if index:
        (folder / f"{WEIGHTS}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": names}))
    (folder / WEIGHTS).unlink()


def in_a_pickle(folder):
    torch.save(load_file(folder / WEIGHTS), folder / "adapter_model.bin")
    (folder / WEIGHTS).unlink()


def with_bom(folder):
    file = folder / "adapter_config.json"
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())


def wrapped(part):
    return lambda folder: tiny.rename_tensors(folder, lambda key: re.sub(r"(layers\.\d+)\.", rf"\1.{part}.", key))


LAYOUTS = {
    "shards": in_shards,
    "shards without index": lambda folder: in_shards(folder, index=False),
    "pickle": in_a_pickle,
    "BOM": with_bom,
    **{
        part: wrapped(part)
        for part in ("_fsdp_wrapped_module", "_orig_mod", "_orig_module", "_checkpoint_wrapped_module")
    },
    "DDP": lambda folder: tiny.rename_tensors(folder, lambda key: f"module.{key}"),
    "the model compiled": lambda folder: tiny.rename_tensors(
        folder, lambda key: key.replace("base_model.model.", "base_model.model._orig_mod.")
    ),
    "with the adapter's name": lambda folder: tiny.rename_tensors(
        folder, lambda key: key.replace(".weight", ".default.weight")
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_another_layout_is_the_same_adapter(llama_base, original, folder, layout):
    LAYOUTS[layout](folder)
    assert fetch_half(folder).path == folder
    assert account(Half.find(str(folder), "av"))["loaded"] == 56
    one, two = (Backbone.load(llama_base, device="cpu") for _ in range(2))
    one.load_adapter("av", original)
    two.load_adapter("av", folder)
    expected, found = one.adapter_state("av"), two.adapter_state("av")
    assert expected.keys() == found.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)


def test_a_missing_shard_is_named(backbone, folder):
    in_shards(folder)
    (folder / "adapter_model-00002-of-00002.safetensors").unlink()
    with pytest.raises(
        MissingFileError, match="lacks adapter_model-00002-of-00002.safetensors: 1 of the adapter's 2 shards"
    ):
        backbone.load_adapter("av", folder)


def test_a_pickle_that_would_run_code_is_refused(backbone, folder):
    torch.save({"weight": shutil.rmtree}, folder / "adapter_model.bin")
    (folder / WEIGHTS).unlink()
    with pytest.raises(UnsafeFileError, match="reading it would run code"):
        backbone.load_adapter("av", folder)


def test_an_adapter_loaded_while_all_are_switched_off_is_on_when_it_is_used(llama_base, original, tmp_path):
    model = tiny.plain_model(llama_base)
    other = tiny.lora_av(tmp_path / "other", llama_base, model, layer=1, seed=777)
    ids = torch.tensor([[2, 5, 6, 9]])
    late, early = (Backbone.load(llama_base, device="cpu") for _ in range(2))
    late.load_adapter("one", original)
    with torch.no_grad(), late.using(None):
        late.run_to_block(ids, 2)
    late.load_adapter("two", other)
    early.load_adapter("two", other)
    with torch.no_grad(), late.using("two"), early.using("two"):
        torch.testing.assert_close(late.run_to_block(ids, 2), early.run_to_block(ids, 2))


def test_a_config_without_its_trained_copy_is_refused(backbone, folder):
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"modules_to_save": ["embed_tokens"]}))
    with pytest.raises(
        LoadError, match="embed_tokens: adapter_config.json says it was trained whole, the file has no copy"
    ):
        backbone.load_adapter("av", folder)
