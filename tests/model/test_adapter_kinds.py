"""Every kind of LoRA that PEFT writes acts as PEFT makes it act, leaves the base's own bits, and is written again."""

from __future__ import annotations

import json

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

from nla_sdk.errors import AdapterConfigError, AdapterMismatchError, LoadError
from nla_sdk.model.backbone import Backbone
from nla_sdk.model.weights.adapters import reading
from tests import tiny

BOTH = ["embed_tokens", "lm_head"]
ONE = ["q_proj"]
KINDS = {
    "dora": {"target_modules": ["q_proj", "up_proj"], "use_dora": True},
    "dora on the embedding": {"target_modules": ["q_proj", "embed_tokens"], "use_dora": True},
    "lora_bias": {"target_modules": ["q_proj", "up_proj"], "lora_bias": True},
    "rslora": {"target_modules": ONE, "use_rslora": True},
    "token rows": {"target_modules": ONE, "trainable_token_indices": [3, 40]},
    "token rows of both": {"target_modules": ONE, "trainable_token_indices": {"embed_tokens": [3, 40], "lm_head": [5]}},
    "lora on the embedding": {"target_modules": ["q_proj", "embed_tokens"]},
    "lora on the head": {"target_modules": ["q_proj", "lm_head"]},
    "lora on embedding and head, tied": {"target_modules": ["q_proj", "embed_tokens"], "ensure_weight_tying": True},
    "saved embedding": {"target_modules": ONE, "modules_to_save": ["embed_tokens"]},
    "saved embedding and head": {"target_modules": ONE, "modules_to_save": BOTH},
    "saved embedding, tied": {"target_modules": ONE, "modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
    "saved norms": {"target_modules": ONE, "modules_to_save": ["input_layernorm"]},
    "mica": {"target_modules": ONE, "init_lora_weights": "mica"},
    "orthogonal": {"target_modules": ONE, "init_lora_weights": "orthogonal"},
    "eva": {"target_modules": ONE, "init_lora_weights": "eva"},
    "no initialisation": {"target_modules": ONE, "init_lora_weights": False},
    "velora": {"target_modules": ONE, "velora_config": {"num_groups": 8}},
    "some blocks": {"target_modules": ONE, "layers_to_transform": [0, 2]},
}
IDS = torch.tensor([[2, 3, 40, 77, 5, 120]])


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def base(request, tmp_path_factory):
    config = tiny.llama_config(tie_word_embeddings=request.param)
    folder = tmp_path_factory.mktemp("bases") / f"tied {request.param}"
    return tiny.save_model(folder, config, tiny.tokenizer(), seed=11)


def trained(folder, base, **config):
    """An adapter as PEFT writes it, each number moved as training moves it."""
    model = get_peft_model(tiny.plain_model(base), LoraConfig(r=4, lora_alpha=8, task_type="CAUSAL_LM", **config))
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "default" in name:
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    model.save_pretrained(folder)
    return folder


def logits(backbone, adapter=None):
    with torch.no_grad(), backbone.using(adapter) as model:
        return model(input_ids=IDS).logits


def bits(backbone):
    """Every tensor of the base, under its name without adapters."""
    return {
        name.replace(".base_layer", "").replace(".original_module", "").replace(".token_adapter", ""): tensor.clone()
        for name, tensor in backbone.model.state_dict().items()
        if ".av" not in name
    }


def tree(model):
    return [(name, id(module)) for name, module in model.named_modules()]


def on_bases():
    """What lies on an embedding or a head, on tied ones and on others; every other kind in turn."""
    for place, (kind, config) in enumerate(KINDS.items()):
        words = any(name in str(config) for name in ("embed_tokens", "lm_head", "token_indices"))
        for tied in (True, False):
            if words or tied == bool(place % 2):
                yield pytest.param(tied, kind, id=f"{'tied' if tied else 'untied'}-{kind}")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("base", "kind"), list(on_bases()), indirect=["base"])
def test_it_acts_as_peft_makes_it_act_and_the_base_keeps_its_bits(kind, base, tmp_path):
    folder = trained(tmp_path / "adapter", base, **KINDS[kind])
    with torch.no_grad():
        expected = PeftModel.from_pretrained(tiny.plain_model(base), folder).eval()(input_ids=IDS).logits
    backbone = Backbone.load(base, device="cpu")
    own, own_logits = bits(backbone), logits(backbone)
    report = backbone.load_adapter("av", folder)
    assert report.loaded + len(report.inert) == len(load_file(folder / "adapter_model.safetensors"))
    torch.testing.assert_close(logits(backbone, "av"), expected)
    assert not torch.allclose(expected, own_logits, atol=1e-3)

    # Trained further (as continue_from does), then off: the base is what it was, to the bit.
    parameters = backbone.adapter_parameters("av")
    for parameter in parameters.values():
        parameter.requires_grad_(True)
    with backbone.using("av") as model:
        model(input_ids=IDS).logits.logsumexp(-1).sum().backward()
    assert all(parameter.grad is not None for parameter in parameters.values()), "each part is trained"
    torch.optim.SGD(parameters.values(), lr=1e-3).step()
    assert torch.equal(logits(backbone), own_logits)
    after = bits(backbone)
    assert own.keys() <= after.keys()
    assert all(torch.equal(own[name], after[name]) for name in own)

    # Written and read again by this package and by PEFT it is the same adapter.
    written = tmp_path / "written"
    written.mkdir()
    backbone.save_adapter("av", written)
    found = logits(backbone, "av")
    again = Backbone.load(base, device="cpu")
    again.load_adapter("av", written)
    torch.testing.assert_close(logits(again, "av"), found)
    with torch.no_grad():
        by_peft = PeftModel.from_pretrained(tiny.plain_model(base), written).eval()(input_ids=IDS).logits
    torch.testing.assert_close(by_peft, found)


@pytest.mark.filterwarnings("ignore")
def test_two_adapters_of_different_kinds_stand_on_one_base(base, tmp_path):
    backbone = Backbone.load(base, device="cpu")
    own = logits(backbone)
    kinds = ["saved embedding", "dora", "token rows of both"]
    folders = [trained(tmp_path / str(at), base, **KINDS[kind]) for at, kind in enumerate(kinds[:2])]
    for at, folder in enumerate(folders):
        backbone.load_adapter(f"n{at}", folder)
    for _ in range(2):
        for at, folder in enumerate(folders):
            with torch.no_grad():
                expected = PeftModel.from_pretrained(tiny.plain_model(base), folder).eval()(input_ids=IDS).logits
            torch.testing.assert_close(logits(backbone, f"n{at}"), expected)
        assert torch.equal(logits(backbone), own)


@pytest.mark.filterwarnings("ignore")
def test_token_rows_are_read_in_the_older_layout_too(base, tmp_path):
    folder = trained(tmp_path / "a", base, **KINDS["token rows"])
    backbone = Backbone.load(base, device="cpu")
    backbone.load_adapter("av", folder)
    expected = logits(backbone, "av")
    tiny.rename_tensors(folder, lambda key: key.replace(".token_adapter", ""))
    again = Backbone.load(base, device="cpu")
    again.load_adapter("av", folder)
    assert torch.equal(logits(again, "av"), expected)


@pytest.mark.filterwarnings("ignore")
def test_a_lora_on_an_embedding_of_another_base_is_told_by_the_embedding_saved_along(base, tmp_path):
    folder = trained(tmp_path / "a", base, **KINDS["lora on the embedding"])
    file = folder / "adapter_model.safetensors"
    tensors = load_file(file)
    tensors["base_model.model.model.embed_tokens.base_layer.weight"][3, 3] += 1
    save_file(tensors, file)
    with pytest.raises(
        AdapterMismatchError, match="the base's own weight of 'model.embed_tokens' as it was in training"
    ):
        Backbone.load(base, device="cpu").load_adapter("av", folder)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("base", [True], indirect=True, ids=["tied"])
@pytest.mark.parametrize(("with_first", "where"), [(False, "PEFT"), (True, "PEFT"), (False, "fill"), (True, "fill")])
def test_a_failure_inside_peft_or_while_filling_leaves_everything_as_it_was(
    base, tmp_path, monkeypatch, with_first, where
):
    backbone = Backbone.load(base, device="cpu")
    if with_first:
        backbone.load_adapter("first", trained(tmp_path / "first", base, **KINDS["saved embedding"]))
    own, before, grads = logits(backbone), tree(backbone.model), [p.requires_grad for p in backbone.model.parameters()]
    folder = trained(tmp_path / "a", base, **KINDS["dora"])
    with monkeypatch.context() as patch:
        if where == "PEFT":
            from peft.tuners.lora.layer import LoraLayer

            calls, update = [], LoraLayer.update_layer

            def fail_midway(self, *args, **kwargs):
                calls.append(self)
                if len(calls) == 3:
                    raise ValueError("no room at the inn")
                return update(self, *args, **kwargs)

            patch.setattr(LoraLayer, "update_layer", fail_midway)
            message = "PEFT does not take the adapter in .*: no room at the inn"
        else:
            read = reading.read_adapter

            def short(*args):
                config, plan, tensors = read(*args)
                return config, plan, {key: tensor[..., :1] for key, tensor in tensors.items()}

            patch.setattr("nla_sdk.model.weights.adapters.holding.read_adapter", short)
            message = "PEFT made one of shape"
        with pytest.raises(LoadError, match=message):
            backbone.load_adapter("av", folder)
    assert tree(backbone.model) == before
    assert [parameter.requires_grad for parameter in backbone.model.parameters()] == grads
    assert torch.equal(logits(backbone), own)
    assert not backbone.adapter_parameters("av") and "av" not in backbone.reports
    backbone.load_adapter("av", folder)
    with torch.no_grad():
        expected = PeftModel.from_pretrained(tiny.plain_model(base), folder).eval()(input_ids=IDS).logits
    torch.testing.assert_close(logits(backbone, "av"), expected)
    assert torch.equal(logits(backbone), own)


@pytest.mark.filterwarnings("ignore:(PiSSA|OLoRA) changes the base weights")  # as it must, to be refused
@pytest.mark.parametrize("base", [False], indirect=True, ids=["untied"])
@pytest.mark.parametrize("init", ["pissa", "pissa_niter_4", "olora"])
def test_what_took_its_first_values_out_of_the_base_is_refused_and_its_conversion_is_taken(base, tmp_path, init):
    model = get_peft_model(
        tiny.plain_model(base), LoraConfig(r=4, target_modules=ONE, init_lora_weights=init, task_type="CAUSAL_LM")
    )
    model.peft_config["default"].init_lora_weights = True
    model.save_pretrained(tmp_path / "initial")
    model.peft_config["default"].init_lora_weights = init
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "default" in name:
                parameter += 0.05
    with torch.no_grad():
        expected = model.eval()(input_ids=IDS).logits
    model.save_pretrained(tmp_path / "raw")
    model.save_pretrained(tmp_path / "plain", path_initial_model_for_weight_conversion=str(tmp_path / "initial"))
    backbone = Backbone.load(base, device="cpu")
    own = bits(backbone)
    with pytest.raises(AdapterConfigError, match=f"says init_lora_weights: '{init}'"):
        backbone.load_adapter("av", tmp_path / "raw")
    backbone.load_adapter("av", tmp_path / "plain")
    torch.testing.assert_close(logits(backbone, "av"), expected, rtol=1e-3, atol=1e-3)
    after = bits(backbone)
    assert all(torch.equal(own[name], after[name]) for name in own)
    assert json.loads((tmp_path / "plain" / "adapter_config.json").read_text())["init_lora_weights"] is True
