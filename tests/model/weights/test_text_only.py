"""A wrapper's names and the text-only class's, in checkpoints and adapters, both ways: each tensor finds its place."""

from __future__ import annotations

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Gemma3TextConfig, Qwen3_5TextConfig

from nla_sdk.errors import AdapterMismatchError, LoadError, UnplacedTensorsError
from nla_sdk.model.backbone import Backbone
from tests import tiny
from tests.merged import merged

IDS = torch.tensor([[2, 40, 41, 77, 102, 9]])
GATES = {"linear_num_value_heads": 2, "linear_num_key_heads": 2, "linear_key_head_dim": 16, "linear_value_head_dim": 16}
CONFIGS = {
    "qwen 3.5": lambda: Qwen3_5TextConfig(
        **tiny.SIZES, head_dim=32, layer_types=["linear_attention", "full_attention"], **GATES
    ),
    "gemma 3": lambda: Gemma3TextConfig(**tiny.SIZES, head_dim=32, sliding_window=8),
    "gemma 4": lambda: tiny.gemma_config().text_config,
}
NAMES = {
    "inside a model": lambda key: key.replace("model.", "model.language_model.", 1),
    "beside a model": lambda key: f"language_model.{key}",
}


@pytest.fixture(scope="module", params=CONFIGS)
def base(request, tmp_path_factory):
    """A text-only model on disk."""
    return tiny.save_model(tmp_path_factory.mktemp("text") / "base", CONFIGS[request.param](), tiny.tokenizer(), seed=3)


def renamed(base, folder, rename):
    folder = shutil.copytree(base, folder)
    file = folder / "model.safetensors"
    save_file({rename(key): tensor for key, tensor in load_file(file).items()}, file, metadata={"format": "pt"})
    return folder


@torch.no_grad()
def logits(backbone, name=None):
    with backbone.using(name) as model:
        return model(input_ids=IDS).logits


@pytest.mark.parametrize("names", NAMES)
def test_a_text_only_class_takes_a_checkpoint_named_as_a_wrapper_names_it(base, tmp_path, names):
    folder = renamed(base, tmp_path / "named", NAMES[names])
    expected = tiny.plain_model(base)(input_ids=IDS).logits
    assert torch.equal(logits(Backbone.load(folder, device="cpu")), expected)


def test_a_key_that_has_no_place_there_is_named(base, tmp_path):
    def rename(key):
        return NAMES["inside a model"](key).replace("mlp.up_proj", "mlp.other_proj")

    with pytest.raises((UnplacedTensorsError, LoadError), match="other_proj"):
        Backbone.load(renamed(base, tmp_path / "named", rename), device="cpu")


@pytest.mark.parametrize("names", NAMES)
def test_an_adapter_trained_on_a_wrapper_lands_on_the_text_only_class(base, tmp_path, names):
    folder = tmp_path / "av"
    tiny.write_adapter(folder, tiny.lora_tensors(tiny.plain_model(base), tiny.EVERY_LINEAR, 70), tiny.EVERY_LINEAR)
    expected = merged(base, folder)(input_ids=IDS).logits

    def rename(key):
        return "base_model.model." + NAMES[names](key.removeprefix("base_model.model."))

    tiny.rename_tensors(folder, rename)
    backbone = Backbone.load(base, device="cpu")
    report = backbone.load_adapter("av", folder)
    assert report.loaded + len(report.inert) == len(load_file(folder / "adapter_model.safetensors")) > 0
    torch.testing.assert_close(logits(backbone, "av"), expected, rtol=1e-4, atol=1e-4)


def test_an_adapter_trained_on_the_text_only_class_lands_on_the_wrapper(tmp_path, gemma_base, gemma):
    text = tiny.lora_tensors(gemma, tiny.EVERY_LINEAR, 70)
    folder = tiny.write_adapter(tmp_path / "av", text, tiny.EVERY_LINEAR)
    expected = merged(gemma_base, folder)(input_ids=IDS).logits
    tiny.rename_tensors(folder, lambda key: key.replace("model.language_model.", "model.", 1))
    assert not any("language_model" in key for key in load_file(folder / "adapter_model.safetensors"))
    backbone = Backbone.load(gemma_base, device="cpu")
    backbone.load_adapter("av", folder)
    torch.testing.assert_close(logits(backbone, "av"), expected, rtol=1e-4, atol=1e-4)


def test_an_adapter_of_which_nothing_lands_is_an_error(base, tmp_path):
    folder = tmp_path / "av"
    tiny.write_adapter(folder, tiny.lora_tensors(tiny.plain_model(base), tiny.EVERY_LINEAR, 70), tiny.EVERY_LINEAR)
    tiny.rename_tensors(folder, lambda key: key.replace("layers.", "vision_tower.layers."))
    with pytest.raises(AdapterMismatchError, match="No tensor of .* has any effect"):
        Backbone.load(base, device="cpu").load_adapter("av", folder)


def test_matrices_on_a_towers_clippable_linears_are_accounted_for_and_left_out(tmp_path, gemma_base, gemma):
    text = tiny.lora_tensors(gemma, tiny.ATTENTION, 70)
    tower = {
        f"base_model.model.model.vision_tower.encoder.layers.0.self_attn.q_proj.linear.lora_{m}.weight": torch.ones(
            4, 4
        )
        for m in "AB"
    }
    folder = tiny.write_adapter(tmp_path / "av", {**text, **tower}, tiny.ATTENTION)
    report = Backbone.load(gemma_base, device="cpu").load_adapter("av", folder)
    assert {report.inert[key] for key in tower} == {"belongs to a vision or audio tower, which is not kept"}
