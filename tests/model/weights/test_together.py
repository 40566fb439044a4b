"""Several adapters active together under one name: W + Σ sᵢ·Bᵢ·Aᵢ; scalings; adapters taken off again."""

from __future__ import annotations

import gc
import math
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Gemma3TextConfig, Qwen3Config

from nla_sdk.errors import AdapterConfigError, AdapterMismatchError, LoadError, MissingFileError
from nla_sdk.model.backbone import Backbone
from nla_sdk.model.weights.adapters.config import AdapterFacts
from tests import tiny
from tests.merged import merged

IDS = torch.tensor([[2, 40, 41, 77, 102, 9]])
NORMS = r".*\.layers\.\d+\.input_layernorm"
CONFIGS = {
    "llama": tiny.llama_config,
    "qwen": lambda: Qwen3Config(**tiny.SIZES, head_dim=32, tie_word_embeddings=False),
    "gemma 3": lambda: Gemma3TextConfig(**tiny.SIZES, head_dim=32, sliding_window=8),
    "gemma 4": tiny.gemma_config,
}


@pytest.fixture(scope="module", params=CONFIGS)
def base(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("together") / "base"
    return tiny.save_model(folder, CONFIGS[request.param](), tiny.tokenizer(), seed=3)


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return tiny.save_model(tmp_path_factory.mktemp("llama") / "base", tiny.llama_config(), tiny.tokenizer(), seed=3)


def adapter(folder, base, pattern=tiny.EVERY_LINEAR, *, seed, rank=tiny.RANK, **config):
    tensors = tiny.lora_tensors(tiny.plain_model(base), pattern, seed, rank)
    return tiny.write_adapter(folder, tensors, pattern, r=rank, **config)


@torch.no_grad()
def logits(backbone, name):
    with backbone.using(name) as model:
        return model(input_ids=IDS).logits


def test_two_adapters_with_their_own_ranks_and_scalings_add_up(base, tmp_path):
    one = adapter(tmp_path / "sft", base, seed=10, rank=4, lora_alpha=8, use_rslora=True)
    two = adapter(tmp_path / "rl", base, tiny.ATTENTION, seed=900, rank=8, lora_alpha=4, use_rslora=True)
    backbone = Backbone.load(base, device="cpu")
    plain = logits(backbone, None)
    report = backbone.load_adapter("av", [one, two])
    backbone.load_adapter("alone", two)
    expected = merged(base, one, two)(input_ids=IDS).logits
    torch.testing.assert_close(logits(backbone, "av"), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(logits(backbone, "alone"), merged(base, two)(input_ids=IDS).logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(logits(backbone, "av"), expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(logits(backbone, None), plain), "adapters off leaves the base's own bits"
    assert (expected - merged(base, two)(input_ids=IDS).logits).abs().max() > 0.1, "both must matter"
    held = [len(load_file(folder / "adapter_model.safetensors")) for folder in (one, two)]
    assert report.loaded + len(report.inert) == sum(held)


@pytest.mark.parametrize("rslora", [True, False])
def test_the_scaling_is_what_the_config_says(llama, tmp_path, rslora):
    folder = adapter(tmp_path / "av", llama, seed=5, rank=4, lora_alpha=6, use_rslora=rslora)
    backbone = Backbone.load(llama, device="cpu")
    backbone.load_adapter("av", folder)
    layer = backbone.blocks[0].self_attn.q_proj
    assert layer.scaling["av"] == pytest.approx(6 / math.sqrt(4) if rslora else 6 / 4)
    expected = merged(llama, folder)(input_ids=IDS).logits
    torch.testing.assert_close(logits(backbone, "av"), expected, rtol=1e-4, atol=1e-4)


def test_what_the_config_does_not_say_the_contract_says(llama, tmp_path):
    folder = adapter(tmp_path / "av", llama, seed=5, rank=4, lora_alpha=None)
    import json

    file = folder / "adapter_config.json"
    file.write_text(json.dumps({k: v for k, v in json.loads(file.read_text()).items() if k != "lora_alpha"}))
    backbone = Backbone.load(llama, device="cpu")
    backbone.load_adapter("av", folder, facts=AdapterFacts(alpha=6, rslora=True))
    expected = merged(llama, folder, scales=[6 / math.sqrt(4)])(input_ids=IDS).logits
    torch.testing.assert_close(logits(backbone, "av"), expected, rtol=1e-4, atol=1e-4)


def test_a_config_and_a_contract_that_disagree_are_refused(llama, tmp_path):
    folder = adapter(tmp_path / "av", llama, seed=5, use_rslora=False)
    backbone = Backbone.load(llama, device="cpu")
    with pytest.raises(AdapterConfigError, match=r"says use_rslora: false, the contract `weights\.rslora`: true; with"):
        backbone.load_adapter("av", folder, facts=AdapterFacts(rslora=True))


def test_an_ars_adapter_without_a_config_is_taken_with_alpha_and_rslora_stated(llama, tmp_path):
    tensors = tiny.lora_tensors(tiny.plain_model(llama), tiny.ATTENTION, seed=70, rank=4)
    tmp_path.joinpath("ar").mkdir()
    head = {"value_head.weight": torch.eye(tiny.D_MODEL)}
    save_file({**tensors, **head}, tmp_path / "ar" / "ar_lora_value_head.safetensors")
    backbone = Backbone.load(llama, device="cpu")
    with pytest.raises(MissingFileError, match=r"holds no adapter_config\.json"):
        backbone.load_adapter("ar", tmp_path / "ar", facts=AdapterFacts(alpha=6))
    backbone.load_adapter("ar", tmp_path / "ar", facts=AdapterFacts(alpha=6, rslora=True))
    expected = merged(llama, tmp_path / "ar", scales=[3.0])(input_ids=IDS).logits
    torch.testing.assert_close(logits(backbone, "ar"), expected, rtol=1e-4, atol=1e-4)


# --- several, refused ---------------------------------------------------------------------------------------------
def with_norms(folder, base, seed):
    model = tiny.plain_model(base)
    tensors = tiny.lora_tensors(model, tiny.ATTENTION, seed)
    for at, (name, module) in enumerate(model.named_modules()):
        if name.endswith("input_layernorm"):
            norm = 1.0 + tiny.random(*module.weight.shape, seed=seed + at, scale=0.3)
            tensors[f"base_model.model.{name}.weight"] = norm
    return tiny.write_adapter(folder, tensors, tiny.ATTENTION, modules_to_save=["input_layernorm"])


def test_one_of_two_may_replace_modules(llama, tmp_path):
    one = with_norms(tmp_path / "one", llama, 300)
    two = adapter(tmp_path / "two", llama, seed=20)
    backbone = Backbone.load(llama, device="cpu")
    backbone.load_adapter("av", [one, two])
    backbone.load_adapter("more", two)
    model, norms = merged(llama, one, two), load_file(one / "adapter_model.safetensors")
    with torch.no_grad():
        for key, tensor in norms.items():
            if key.endswith("input_layernorm.weight"):
                model.get_submodule(key.removeprefix("base_model.model.").removesuffix(".weight")).weight.copy_(tensor)
    torch.testing.assert_close(logits(backbone, "av"), model(input_ids=IDS).logits, rtol=1e-4, atol=1e-4)


def test_two_that_replace_the_same_kind_of_modules_are_refused_by_name_and_leave_the_model_as_it_was(llama, tmp_path):
    folders = [with_norms(tmp_path / name, llama, seed) for name, seed in (("one", 300), ("two", 400))]
    backbone = Backbone.load(llama, device="cpu")
    before, names = logits(backbone, None), [name for name, _ in backbone.model.named_parameters()]
    with pytest.raises(AdapterConfigError, match=r"one/adapter_config\.json and .*two/adapter_config\.json both set m"):
        backbone.load_adapter("av", folders)
    assert names == [name for name, _ in backbone.model.named_parameters()] and not backbone.reports
    assert torch.equal(logits(backbone, None), before)
    with pytest.raises(LoadError, match="holds no adapter 'av'"):
        logits(backbone, "av")


def test_dora_beside_another_is_refused(llama, tmp_path):
    one, two = adapter(tmp_path / "one", llama, seed=1), adapter(tmp_path / "two", llama, seed=2, use_dora=True)
    tensors = load_file(two / "adapter_model.safetensors")
    for key in [key for key in tensors if key.endswith("lora_B.weight")]:
        magnitude = key.replace("lora_B.weight", "lora_magnitude_vector")
        tensors[magnitude] = torch.ones(tensors[key].shape[0])
    save_file(tensors, two / "adapter_model.safetensors")
    with pytest.raises(AdapterConfigError, match=r"two/adapter_config\.json says use_dora, and the adapter is to be a"):
        Backbone.load(llama, device="cpu").load_adapter("av", [one, two])


def test_the_second_of_two_that_fits_nowhere_leaves_the_first_off_too(llama, tmp_path):
    one, two = adapter(tmp_path / "one", llama, seed=1), adapter(tmp_path / "two", llama, seed=2)
    tiny.rename_tensors(two, lambda key: key.replace("self_attn", "attention"))
    backbone = Backbone.load(llama, device="cpu")
    before = [name for name, _ in backbone.model.named_parameters()]
    with pytest.raises(AdapterMismatchError, match=r"two fit nowhere"):
        backbone.load_adapter("av", [one, two])
    assert before == [name for name, _ in backbone.model.named_parameters()]


# --- taken off ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("norms", [False, True])
def test_adapters_that_are_let_go_leave_the_model_and_the_others_stay(llama, tmp_path, norms):
    make = (lambda name, seed: with_norms(tmp_path / name, llama, seed)) if norms else None
    make = make or (lambda name, seed: adapter(tmp_path / name, llama, seed=seed))
    one, two, three = make("one", 300), make("two", 400), adapter(tmp_path / "three", llama, seed=500)
    backbone = Backbone.load(llama, device="cpu")
    plain = logits(backbone, None)
    names = [backbone.hold("av", one), backbone.hold("av", two), backbone.hold("av", [three, one])]
    assert names == ["av", "av_2", "av_3"]
    expected = [logits(backbone, name) for name in names]
    with backbone.using("av_2") as model:
        backbone.let_go("av_3")
        assert torch.equal(model(input_ids=IDS).logits, expected[1]), "nothing is taken off in the midst of a use"
    for left, gone in ((["av", "av_2"], "av"), (["av_2"], None)):
        assert [torch.equal(logits(backbone, name), expected[names.index(name)]) for name in left] == [True] * len(left)
        if gone:
            backbone.let_go(gone)
    with pytest.raises(LoadError, match="holds no adapter 'av_3'"):
        logits(backbone, "av_3")
    backbone.let_go("av_2")
    assert torch.equal(logits(backbone, None), plain)
    assert not [name for name, _ in backbone.model.named_parameters() if ".lora_" in name or "modules_to_save" in name]
    assert backbone.hold("av", two) == "av"
    torch.testing.assert_close(logits(backbone, "av"), expected[1])
    assert torch.equal(logits(backbone, None), plain)


def test_a_name_that_two_threads_ask_for_is_given_once(llama, tmp_path):
    from concurrent.futures import ThreadPoolExecutor

    folder = adapter(tmp_path / "av", llama, seed=3)
    backbone = Backbone.load(llama, device="cpu")
    with ThreadPoolExecutor(4) as pool:
        names = list(pool.map(lambda _: backbone.hold("av", folder), range(4)))
    assert sorted(names) == ["av", "av_2", "av_3", "av_4"]
    gc.collect()
    shutil.rmtree(folder)
    assert all(torch.equal(logits(backbone, name), logits(backbone, "av")) for name in names)
