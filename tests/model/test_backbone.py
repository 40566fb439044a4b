"""A base in memory: loaded without its towers, run to a block and no further, one adapter active at a time."""

from __future__ import annotations

import importlib.util
import warnings

import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file
from transformers import Gemma4AudioConfig, Gemma4ForConditionalGeneration, Gemma4VisionConfig

from nla_sdk import NLAPair
from nla_sdk.errors import LayerError, LoadError, MissingFileError, QuantizationError
from nla_sdk.model.backbone import Backbone
from nla_sdk.model.loading import drop_towers, find_blocks, pick_device, pick_dtype, place
from tests import reference, tiny

TEXT = "The cat sat on the mat."


@pytest.fixture(scope="module")
def backbone(gemma_base):
    return Backbone.load(gemma_base, device="cpu")


@pytest.fixture(scope="module")
def multimodal(tmp_path_factory):
    """A tiny Gemma 4 with its towers, on disk."""
    config = tiny.gemma_config()
    config.vision_config = Gemma4VisionConfig(
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=6,
        num_attention_heads=1,
        num_key_value_heads=1,
        head_dim=64,
    )
    config.audio_config = Gemma4AudioConfig(
        hidden_size=64, num_hidden_layers=6, num_attention_heads=1, output_proj_dims=64
    )
    folder = tmp_path_factory.mktemp("bases") / "multimodal"
    tiny.randomize(Gemma4ForConditionalGeneration(config), seed=3).save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return folder


# --- loading ------------------------------------------------------------------------------------------------------
def test_towers_on_disk_are_not_in_memory(multimodal):
    on_disk = load_file(multimodal / "model.safetensors")
    assert any("vision_tower" in key for key in on_disk) and any("audio_tower" in key for key in on_disk)
    backbone = Backbone.load(multimodal, device="cpu")
    left = [name for name, _ in backbone.model.named_parameters()]
    assert not [name for name in left if any(part in name for part in ("vision", "audio"))]
    ids = backbone.tokenizer(TEXT).input_ids
    with torch.no_grad():
        found = backbone.run_to_block(torch.tensor([ids]), 3)[0]
    assert reference.distance(found, reference.states(reference.load(multimodal), ids, 3)) < 1e-4


def test_towers_of_a_model_that_has_them_in_memory_are_dropped(multimodal):
    model = Gemma4ForConditionalGeneration.from_pretrained(multimodal)
    name, blocks = find_blocks(model, tiny.GEMMA_BLOCKS)
    assert name == "model.language_model.layers", "not the towers' blocks, of which there are as many"
    assert sorted(drop_towers(model)) == [
        f"model.{part}" for part in ("audio_tower", "embed_audio", "embed_vision", "vision_tower")
    ]
    assert not [name for name, _ in model.named_parameters() if "vision" in name or "audio" in name]
    assert model(input_ids=torch.tensor([[2, 5, 6]])).logits.shape == (1, 3, tiny.VOCABULARY)


def test_loading_a_pair_prints_nothing_and_warns_of_nothing(lora_folders, capfd):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        NLAPair.from_pretrained(lora_folders["norms"])
    assert capfd.readouterr() == ("", "")


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(MissingFileError, match="holds no config.json; expected the folder of a transformers model"):
        Backbone.load(tmp_path)


def test_one_base_serves_all_three_roles(pair):
    assert pair.verbalizer.backbone is pair.reconstructor.backbone is pair.source


# --- device and dtype ---------------------------------------------------------------------------------------------
def test_auto_dtype_on_a_cpu_is_float32_whatever_the_contract_computed_in():
    assert pick_dtype("auto", torch.device("cpu"), "float16") == torch.float32
    assert pick_dtype("auto", torch.device("meta"), "bfloat16") == torch.bfloat16
    assert pick_dtype("bfloat16", torch.device("cpu")) == torch.bfloat16
    assert pick_dtype(torch.float16, torch.device("cpu")) == torch.float16


@pytest.mark.parametrize("dtype", ["int8", "float31", torch.int64, "nn"])
def test_a_dtype_that_is_none_is_refused(dtype):
    with pytest.raises(LoadError, match="is not a floating-point dtype; use 'auto', 'float32'"):
        pick_dtype(dtype, torch.device("cpu"))


def test_a_device_is_taken_in_any_form():
    assert pick_device("cpu") == pick_device(torch.device("cpu")) == torch.device("cpu")


def test_bfloat16_gives_about_the_same_activations_in_float32(gemma_base, pair):
    vectors = NLAPair.from_pretrained(pair.av.folder, pair.ar.folder, dtype="bfloat16").extract(TEXT).vectors
    assert vectors.dtype == torch.float32
    assert 0 < reference.distance(vectors, pair.extract(TEXT).vectors) < 0.1


# --- quantisation -------------------------------------------------------------------------------------------------
def test_an_unknown_quantisation_is_refused(lora_folders):
    with pytest.raises(QuantizationError, match="quantization='int3' is not known; use 'nf4', None or 'auto'"):
        NLAPair.from_pretrained(lora_folders["shared"], quantization="int3")


def test_nf4_without_bitsandbytes_says_what_to_install(gemma_base, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name, *rest: None if name == "bitsandbytes" else find(name, *rest)
    )
    with pytest.raises(
        QuantizationError, match=r"needs bitsandbytes: pip install 'nla-sdk\[nf4\]', or pass quantization=None"
    ):
        Backbone.load(gemma_base, quantization="nf4")


def test_nf4_quantises_linear_layers_and_nothing_that_is_looked_up(lora_pair):
    pytest.importorskip("bitsandbytes")
    model = lora_pair("shared", "nf4").source.model.model.language_model
    assert type(model.layers[4].mlp.up_proj.base_layer).__name__ == "Linear4bit"
    assert model.layers[4].mlp.up_proj.base_layer.weight.dtype == torch.uint8
    assert model.embed_tokens.weight.dtype == torch.float32
    assert not [name for name, module in model.named_modules() if hasattr(module, "_hf_hook")], (
        "nothing moves weights about"
    )


# --- the per-layer table ------------------------------------------------------------------------------------------
def test_the_per_layer_table_stays_in_cpu_memory_when_the_rest_moves(gemma_base):
    model = tiny.plain_model(gemma_base)
    place(model, torch.device("meta"))
    stayed = {name for name, parameter in model.named_parameters() if parameter.device.type == "cpu"}
    assert stayed == {"model.language_model.embed_tokens_per_layer.weight"}
    kept = {name for name, buffer in model.named_buffers() if buffer.device.type == "cpu"}
    assert all("embed_tokens_per_layer" in name for name in kept)
    assert model.lm_head.weight is model.get_input_embeddings().weight, "tied weights stay tied"


def test_what_is_looked_up_in_the_table_goes_where_the_rest_is(gemma_base):
    model = tiny.plain_model(gemma_base)
    place(model, torch.device("meta"))
    table = model.model.language_model.embed_tokens_per_layer
    assert table(torch.tensor([[5, 6]])).device.type == "meta"
    [bring] = table._forward_pre_hooks.values()
    asked = []

    class Elsewhere:
        def to(self, device):
            asked.append(device)
            return torch.tensor([[5]])

    bring(table, (Elsewhere(),))
    assert asked == [torch.device("cpu")]


def test_on_a_cpu_nothing_is_moved_and_nothing_hooked(gemma_base):
    model = tiny.plain_model(gemma_base)
    before = [parameter.data_ptr() for parameter in model.parameters()]
    place(model, torch.device("cpu"))
    assert [parameter.data_ptr() for parameter in model.parameters()] == before
    assert not model.model.language_model.embed_tokens_per_layer._forward_hooks


# --- running ------------------------------------------------------------------------------------------------------
def test_later_blocks_final_norm_and_lm_head_never_run(backbone):
    ran, handles = [], []
    parts = {f"block {at}": block for at, block in enumerate(backbone.blocks)}
    parts |= {"norm": backbone.model.model.language_model.norm, "lm_head": backbone.model.lm_head}
    for name, module in parts.items():
        handles.append(module.register_forward_hook(lambda *_, name=name: ran.append(name)))
    with torch.no_grad():
        backbone.run_to_block(torch.tensor([[2, 5, 6]]), 3)
    for handle in handles:
        handle.remove()
    assert ran == ["block 0", "block 1", "block 2", "block 3"]
    assert not backbone.blocks[3]._forward_hooks


def test_padding_on_the_right_changes_no_real_token(backbone):
    ids = backbone.tokenizer(TEXT).input_ids
    with torch.no_grad():
        alone = backbone.run_to_block(torch.tensor([ids]), 4)[0]
        padded = backbone.run_to_block(torch.tensor([[*ids, 0, 0, 0, 0], [*ids, 9, 9, 9, 9]]), 4)
    assert reference.distance(padded[0, : len(ids)], alone) < 1e-5
    assert reference.distance(padded[1, : len(ids)], alone) < 1e-5


@pytest.mark.parametrize("block", [-1, tiny.GEMMA_BLOCKS])
def test_a_block_that_does_not_exist_is_refused(backbone, block):
    with pytest.raises(LayerError, match=f"Block {block} does not exist: .* has blocks 0 to 5"):
        backbone.run_to_block(torch.tensor([[2]]), block)


def test_gradients_flow_through_a_forward_that_was_stopped(gemma_base):
    backbone = Backbone.load(gemma_base, device="cpu")
    backbone.add_lora("new", LoraConfig(r=2, target_modules=["q_proj"]))
    trained = backbone.adapter_parameters("new")
    for parameter in trained.values():
        parameter.requires_grad_(True)
    with backbone.using("new"):
        backbone.run_to_block(torch.tensor([[2, 5, 6]]), 3).sum().backward()
    moved = {name for name, parameter in trained.items() if parameter.grad is not None and "lora_B" in name}
    assert {int(name.split("layers.")[1][0]) for name in moved} == {0, 1, 2, 3}


# --- adapters in use ----------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def two(gemma_base, lora_folders):
    backbone = Backbone.load(gemma_base, device="cpu")
    for name in ("av", "ar"):
        backbone.load_adapter(name, lora_folders["shared"] / name)
    return backbone


def states(backbone) -> torch.Tensor:
    with torch.no_grad():
        return backbone.run_to_block(torch.tensor([[2, 5, 6, 7]]), 4)


def test_a_use_inside_a_use_gives_the_outer_one_its_adapter_back(two):
    alone = {}
    for name in ("av", "ar", None):
        with two.using(name):
            alone[name] = states(two)
    assert not torch.equal(alone["av"], alone["ar"]) and not torch.equal(alone["av"], alone[None])
    with two.using("av"):
        with two.using(None):
            with two.using("ar"):
                assert torch.equal(states(two), alone["ar"])
            assert torch.equal(states(two), alone[None])
        assert torch.equal(states(two), alone["av"])
        with pytest.raises(ZeroDivisionError), two.using("ar"):
            raise ZeroDivisionError
        assert torch.equal(states(two), alone["av"])


def test_switching_adapters_does_not_change_what_is_trained(two):
    parameters = two.adapter_parameters("av")
    assert not any(parameter.requires_grad for parameter in two.model.parameters())
    for parameter in parameters.values():
        parameter.requires_grad_(True)
    try:
        for name in ("ar", None, "av", None, "ar"):
            with two.using(name):
                trained = {key for key, parameter in two.model.named_parameters() if parameter.requires_grad}
                assert trained == parameters.keys()
    finally:
        for parameter in parameters.values():
            parameter.requires_grad_(False)


@pytest.mark.parametrize("name", ["other", ""])
def test_an_adapter_that_is_not_there_is_not_taken_for_the_bare_base(backbone, two, name):
    for one in (backbone, two):
        with (
            pytest.raises(LoadError, match=f"holds no adapter '{name}'; load_adapter or add_lora comes first"),
            one.using(name),
        ):
            pass
