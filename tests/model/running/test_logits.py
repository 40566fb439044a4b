"""Logits are the model's own: whatever it does after its lm_head, over the whole vocabulary or a part of it."""

from __future__ import annotations

import copy

import pytest
import torch
from peft import LoraConfig
from torch.nn import functional
from transformers import AutoConfig, AutoModelForCausalLM

from nla_sdk import NLAPair
from nla_sdk.errors import LoadError
from nla_sdk.model.backbone import Backbone
from tests import tiny
from training.fit.engine.losses import ResponseLoss

IDS = torch.tensor([[2, 5, 6, 7, 8, 9, 10, 11]])
SOME = torch.tensor([3, 5, 40, 41, 250])
MODELS = {
    "granite": {"logits_scaling": 8.0},
    "granitemoe": {"logits_scaling": 8.0, "num_local_experts": 2, "num_experts_per_tok": 1},
    "cohere": {"logit_scale": 0.25},
    "cohere2": {"logit_scale": 0.25},
    "hyperclovax": {"logits_scaling": 0.25},  # multiplies by what Granite divides by
    "minicpm3": {"dim_model_base": 8, "q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 16},
    "gemma2": {"final_logit_softcapping": 2.0, "head_dim": 32},
    "phi": {},  # a bias
}


@pytest.fixture(scope="module")
def verbalizers(tmp_path_factory):
    """A full-checkpoint AV of each kind."""
    loaded = {}

    def get(kind: str):
        if kind not in loaded:
            folder = tmp_path_factory.mktemp(kind)
            model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **(tiny.SIZES | MODELS[kind])))
            tiny.randomize(model, seed=5).save_pretrained(folder)
            tiny.tokenizer().save_pretrained(folder)
            tiny.write_sidecar(
                folder,
                kind="nla_model",
                role="av",
                base_model=kind,
                d_model=tiny.D_MODEL,
                layer=0,
                injection_char=tiny.MARKER,
                injection_scale="sqrt_d_model",
                av_template=tiny.AV_TEMPLATE,
                prompt_style="raw",
                max_new_tokens=8,
            )
            loaded[kind] = NLAPair.from_pretrained(folder, device="cpu").verbalizer
        return loaded[kind]

    return get


@pytest.fixture(params=sorted(MODELS))
def verbalizer(request, verbalizers):
    verbalizer = verbalizers(request.param)
    verbalizer.restrict(None)
    return verbalizer


def run(backbone) -> tuple[torch.Tensor, torch.Tensor]:
    """States [tokens, d] after the final norm, and the model's own logits of them."""
    decoder = getattr(backbone.model, backbone.model.base_model_prefix)
    with torch.no_grad():
        states = decoder(input_ids=IDS, use_cache=False).last_hidden_state
        return states[0], backbone.model(input_ids=IDS).logits[0]


def test_logits_of_states_are_the_models_own(verbalizer):
    backbone = verbalizer.backbone
    states, own = run(backbone)
    with torch.no_grad():
        torch.testing.assert_close(backbone.logits(states), own)
        torch.testing.assert_close(backbone.logits(states, SOME), own[:, SOME])


def test_and_not_the_bare_product(verbalizer):
    states, own = run(verbalizer.backbone)
    product = states @ verbalizer.backbone.model.get_output_embeddings().weight.T
    assert (product - own).abs().max() > 0.05 * own.abs().max()


def test_a_restricted_av_knows_the_models_own_logits_of_its_tokens(verbalizer):
    verbalizer.restrict(range(4, 60))
    ids = torch.tensor([verbalizer.prompt_ids])
    with torch.no_grad(), verbalizer.backbone.using(None):
        own = verbalizer.backbone.model(input_ids=ids).logits[:, -1]
        cache = verbalizer.prefixes.of(verbalizer.prompt_ids[: verbalizer.marker], 1)()
        states = verbalizer.forward(ids[:, verbalizer.marker :], cache, logits=False)
        found = verbalizer.logits_of(states)
    torch.testing.assert_close(found, own[:, [1, *range(4, 60)]])


@pytest.mark.parametrize("negatives", [0, 150])
def test_the_loss_is_that_of_the_models_own_logits(verbalizer, negatives):
    states, own = run(verbalizer.backbone)
    targets = IDS[0, 1:]
    loss = ResponseLoss(verbalizer.backbone, range(100), negatives)
    expected = functional.cross_entropy(own[:-1], targets, reduction="sum").item()
    with torch.no_grad():
        losses = [loss(states[:-1], targets, torch.Generator().manual_seed(seed)).item() for seed in range(20)]
    assert sum(losses) / 20 == pytest.approx(expected, rel=0.01 if negatives else 1e-5)


def test_gradients_flow_through_logits(verbalizer):
    backbone = verbalizer.backbone
    states = run(backbone)[0].requires_grad_(True)
    whole = torch.autograd.grad(backbone.logits(states)[:, SOME].square().sum(), states)
    part = torch.autograd.grad(backbone.logits(states, SOME).square().sum(), states)
    torch.testing.assert_close(whole, part)
    assert whole[0].abs().sum() > 0


def test_an_adapter_on_the_lm_head_is_part_of_the_logits(verbalizers):
    backbone = Backbone(copy.deepcopy(verbalizers("granite").backbone.model), tiny.tokenizer())
    before = run(backbone)[1]
    backbone.add_lora("av", LoraConfig(r=2, target_modules=["lm_head"], init_lora_weights=False))
    with backbone.using("av"):
        states, own = run(backbone)
        with torch.no_grad():
            torch.testing.assert_close(backbone.logits(states, SOME), own[:, SOME])
    assert not torch.allclose(own, before)


def test_looking_at_the_model_once_changes_neither_its_mode_nor_the_random_numbers(verbalizers):
    backbone = Backbone(copy.deepcopy(verbalizers("granite").backbone.model), tiny.tokenizer())
    backbone.model.train()
    backbone.blocks[0].eval()
    modes = [module.training for module in backbone.model.modules()]
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    backbone.cap  # noqa: B018
    assert torch.equal(torch.rand(3), expected)
    assert [module.training for module in backbone.model.modules()] == modes


def test_a_model_that_does_something_else_is_named_and_refused(verbalizers, monkeypatch):
    verbalizer = verbalizers("granite")
    model, known = verbalizer.backbone.model, type(verbalizer.backbone.model).forward

    def odd(self, *args, **options):
        output = known(self, *args, **options)
        output.logits = output.logits * 1.5 - 0.5 * output.logits.mean()
        return output

    monkeypatch.setattr(type(model), "forward", odd)
    monkeypatch.setattr(verbalizer, "backbone", Backbone(model, tiny.tokenizer()))
    refusal = "The logits of GraniteForCausalLM are not what its lm_head gives, nor that in a known way"
    with pytest.raises(LoadError, match=refusal):
        verbalizer.restrict([5])
    with pytest.raises(LoadError, match=refusal):
        ResponseLoss(verbalizer.backbone, [5], 0)
