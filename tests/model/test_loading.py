"""A model folder in memory: without its towers, in the precision asked for, every tensor where it belongs."""

from __future__ import annotations

import importlib.util
import warnings

import pytest
import torch
from safetensors.torch import load_file
from transformers import Gemma4AudioConfig, Gemma4ForConditionalGeneration, Gemma4VisionConfig

from nla_sdk import NLAPair
from nla_sdk.cli.app import main
from nla_sdk.errors import DeviceError, LoadError, MissingFileError, OutOfMemoryError, QuantizationError
from nla_sdk.model.backbone import Backbone
from nla_sdk.model.weights.loading import drop_towers, find_blocks, pick_device, pick_dtype, place
from tests import reference, tiny

TEXT = "The cat sat on the mat."


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


FULL = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"),
    MemoryError(),
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory"),
    OSError(12, "Cannot allocate memory"),
]


def fail_with(error):
    def fail(*_, **__):
        raise error

    return fail


@pytest.mark.parametrize("error", FULL, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize(
    "step", ["transformers.AutoModelForCausalLM.from_pretrained", "nla_sdk.model.weights.loading.place"]
)
def test_a_model_that_memory_cannot_hold_is_refused_with_a_hint_at_nf4(gemma_base, monkeypatch, step, error):
    monkeypatch.setattr(step, fail_with(error))
    with pytest.raises(OutOfMemoryError, match=r"on cpu\. Try quantization='nf4' \(nla: --quantization nf4\), another"):
        Backbone.load(gemma_base, device="cpu")


def test_who_loads_in_4_bits_already_is_not_told_to(gemma_base, monkeypatch):
    pytest.importorskip("bitsandbytes")
    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", fail_with(FULL[0]))
    with pytest.raises(OutOfMemoryError, match=r"on cpu\. Try another device, or a smaller model"):
        Backbone.load(gemma_base, device="cpu", quantization="nf4")


def test_the_command_line_says_the_same_and_shows_no_traceback(lora_folders, monkeypatch, capsys):
    monkeypatch.setattr("nla_sdk.halves.memory.bases._shared", {})  # what other tests hold is not loaded again
    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", fail_with(FULL[0]))
    with pytest.raises(SystemExit) as exit:
        main(["round-trip", TEXT, "--av", str(lora_folders["shared"])])
    assert exit.value.code == 2
    assert "Try quantization='nf4' (nla: --quantization nf4)" in capsys.readouterr().err


def test_another_failure_to_load_is_no_lack_of_memory(gemma_base, monkeypatch):
    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", fail_with(RuntimeError("weights differ")))
    with pytest.raises(LoadError, match="Could not load the model in .*: weights differ") as caught:
        Backbone.load(gemma_base, device="cpu")
    assert not isinstance(caught.value, OutOfMemoryError)


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


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:x", "", "CUDA 0", "cpu:3", "meta", "hpu", 3.5])
def test_what_is_no_device_here_is_an_error_that_names_it(name):
    with pytest.raises(DeviceError, match=r"device=.*(is no device|only|one cpu|on this machine)"):
        pick_device(name)


@pytest.mark.skipif(torch.cuda.is_available(), reason="of a machine without CUDA")
@pytest.mark.parametrize("name", ["cuda", "cuda:0", "cuda:7", torch.device("cuda"), "mps"])
def test_a_device_this_machine_lacks_is_one_line_everywhere(name, pair, capsys):
    with pytest.raises(DeviceError, match=r"on this machine; pass 'auto' or 'cpu'"):
        pick_device(name)
    with pytest.raises(DeviceError):
        NLAPair.from_pretrained(pair.av.folder, pair.ar.folder, device=name)
    with pytest.raises(SystemExit) as end:
        main(["explain", "cat", "--av", str(pair.av.folder), "--ar", str(pair.ar.folder), "--device", str(name)])
    out, err = capsys.readouterr()
    assert (end.value.code, out) == (2, "")
    assert err.count("\n") == 1 and "on this machine" in err


def test_of_several_gpus_one_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    assert [pick_device(name) for name in ("cuda", "cuda:0", "auto")] == [torch.device("cuda", at) for at in (1, 0, 1)]
    with pytest.raises(DeviceError, match="this machine has cuda:0 to cuda:1"):
        pick_device("cuda:7")


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
