"""What is injected reaches the model, and logits are its own, whatever PEFT has put in the place of its modules."""

from __future__ import annotations

import functools
import math
import warnings
from contextlib import contextmanager, nullcontext

import pytest
import torch
from peft import LoraConfig, PeftModel
from safetensors.torch import load_file
from torch.nn import functional
from transformers import AutoConfig, AutoModelForCausalLM

from nla_sdk import NLAPair
from nla_sdk.contract import Contract
from nla_sdk.errors import InjectionError
from nla_sdk.model import injection, verbalizer
from nla_sdk.model.backbone import Backbone
from nla_sdk.model.verbalizer import Verbalizer
from nla_sdk.sampling import Sampling
from tests import tiny
from training.fit.engine.losses import ResponseLoss, response_states

GEMMA_3 = {"head_dim": 32, "final_logit_softcapping": 30.0, "sliding_window": 8, "layer_types": ["full_attention"] * 2}
BASES = {
    "llama": tiny.llama_config(2),
    "tied llama": tiny.llama_config(2, tie_word_embeddings=True),
    "gemma 3": AutoConfig.for_model("gemma3_text", **(tiny.SIZES | GEMMA_3)),
    "gemma 4": tiny.gemma_config(),
}
Q = "q_proj"
KINDS = {
    "saved embedding": {"target_modules": [Q], "modules_to_save": ["embed_tokens"]},
    "saved head": {"target_modules": [Q], "modules_to_save": ["lm_head"]},
    "both saved": {"target_modules": [Q], "modules_to_save": ["embed_tokens", "lm_head"]},
    "token rows": {"target_modules": [Q], "trainable_token_indices": [3, 5, 41]},
    "rows of both": {"target_modules": [Q], "trainable_token_indices": {"lm_head": [3, 41], "embed_tokens": [3, 7]}},
    "LoRA on the embedding": {"target_modules": [Q, "embed_tokens"]},
    "LoRA on the head": {"target_modules": [Q, "lm_head"]},
    "DoRA on the embedding": {"target_modules": [Q, "embed_tokens"], "use_dora": True},
    "DoRA on the head": {"target_modules": [Q, "lm_head"], "use_dora": True},
    "a bias on the head": {"target_modules": [Q, "lm_head"], "lora_bias": True},
}
ROWS = tiny.random(4, tiny.D_MODEL, seed=3, scale=3.0)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    @functools.cache
    def get(base: str):
        folder = tmp_path_factory.mktemp("bases") / base.replace(" ", "-")
        return tiny.save_model(folder, BASES[base], tiny.tokenizer(), seed=6)

    return get


def lora(kind: str) -> LoraConfig:
    return LoraConfig(r=4, init_lora_weights=False, task_type="CAUSAL_LM", **KINDS[kind])


def contract_of(backbone: Backbone, **facts) -> Contract:
    known = {"kind": "nla_model", "role": "av", "base_model": "tiny", "d_model": tiny.D_MODEL, "layer": 0}
    template = {
        "injection_char": tiny.MARKER,
        "prompt_style": "raw",
        "av_template": tiny.AV_TEMPLATE,
        "max_new_tokens": 6,
    }
    scale = {"injection_scale": math.sqrt(tiny.D_MODEL)}
    return Contract.from_dict(known | template | scale | facts).verify(backbone.tokenizer)


def make(folder, kind: str) -> Verbalizer:
    """An AV with an adapter of that kind, beside another adapter that came first."""
    backbone = Backbone.load(folder, device="cpu")
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of tied weights that the adapter unties
        backbone.add_lora("other", LoraConfig(r=2, target_modules=["v_proj"], init_lora_weights=False))
        backbone.add_lora("av", lora(kind))
    with torch.no_grad():
        for at, (name, parameter) in enumerate(backbone.model.named_parameters()):
            if ".av" in name and ".lora_" not in name:
                parameter.add_(tiny.random(*parameter.shape, seed=at, scale=0.1))
    return Verbalizer(backbone, "av", contract_of(backbone))


@pytest.fixture(scope="module")
def verbalizers(folders):
    return functools.cache(lambda base, kind: make(folders(base), kind))


def plain(folder, kind: str, live: torch.nn.Module):
    """The same adapter on a model of its own, by PEFT alone."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = PeftModel(tiny.plain_model(folder), lora(kind), adapter_name="av").eval()
    numbers = dict(live.named_parameters())
    with torch.no_grad():
        for name, parameter in model.base_model.model.named_parameters():
            if ".av" in name:
                parameter.copy_(numbers[name])
    return model


def plain_logits(model, ids: list[int], marker: int, vector: torch.Tensor) -> torch.Tensor:
    """Through inputs_embeds where the model takes them; Gemma 4 does not."""
    bare = model.base_model.model
    if bare.config.model_type == "gemma4":
        embedding = bare.get_input_embeddings()
        forward = embedding.forward
        embedding.forward = lambda ids: torch.cat(
            [(x := forward(ids))[:, :marker], vector[None, None], x[:, marker + 1 :]], 1
        )
        try:
            with torch.no_grad():
                return bare(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1]
        finally:
            del embedding.forward
    with torch.no_grad():
        embeds = bare.get_input_embeddings()(torch.tensor([ids])).clone()
        embeds[0, marker] = vector
        return bare(inputs_embeds=embeds, use_cache=False).logits[0, -1]


# Every kind on a head of its own and on a tied one; on the others each second.
ON_BASES = [
    (base, kind) for at, base in enumerate(BASES) for place, kind in enumerate(KINDS) if at < 2 or place % 2 == at % 2
]


@pytest.mark.parametrize(("base", "kind"), ON_BASES)
def test_what_is_written_is_what_inputs_embeds_would_give(verbalizers, folders, base, kind):
    verbalizer = verbalizers(base, kind)
    verbalizer.restrict(None)
    model = plain(folders(base), kind, verbalizer.backbone.model)
    inputs = verbalizer.prepare(ROWS[:2])
    written = verbalizer.tokens(inputs, Sampling(4, ignore_end=True))
    for (tokens, _), vector in zip(written, inputs, strict=True):
        for at, token in enumerate(tokens):
            scores = plain_logits(model, [*verbalizer.prompt_ids, *tokens[:at]], verbalizer.marker, vector)
            assert int(scores.argmax()) == token
    one, other = (plain_logits(model, verbalizer.prompt_ids, verbalizer.marker, vector) for vector in inputs)
    assert (one - other).abs().max() > 0.01, "the vector matters to this model"


@pytest.mark.parametrize(("base", "kind"), ON_BASES)
def test_restricted_logits_and_losses_are_the_models_own_of_those_tokens(verbalizers, folders, base, kind):
    verbalizer = verbalizers(base, kind)
    backbone = verbalizer.backbone
    model = plain(folders(base), kind, backbone.model)
    inputs = verbalizer.prepare(ROWS[:1])
    own = plain_logits(model, verbalizer.prompt_ids, verbalizer.marker, inputs[0])
    verbalizer.restrict(range(4, 60))
    with torch.no_grad(), backbone.using("av"):
        states, tokens, _ = response_states(verbalizer, inputs, [[7, 9]])
        torch.testing.assert_close(verbalizer.logits_of(states)[0], own[[1, *range(4, 60)]], rtol=1e-4, atol=1e-4)
        loss = ResponseLoss(backbone, range(100), 150, slice_size=1)
        draws = [loss(states[:1], tokens[:1], torch.Generator().manual_seed(at)).item() for at in range(20)]
    expected = functional.cross_entropy(own, torch.tensor(7)).item()
    assert sum(draws) / 20 == pytest.approx(expected, rel=0.03, abs=0.01)
    verbalizer.restrict(None)


def test_a_loss_made_before_the_adapter_came_is_the_adapters_all_the_same(folders):
    backbone = Backbone.load(folders("llama"), device="cpu")
    loss = ResponseLoss(backbone, range(100), 150)
    backbone.add_lora("av", lora("LoRA on the head"))
    states, targets = tiny.random(5, tiny.D_MODEL, seed=8), torch.arange(40, 45)
    with torch.no_grad(), backbone.using("av"):
        expected = functional.cross_entropy(backbone.model.lm_head(states), targets, reduction="sum")
        torch.testing.assert_close(loss(states, targets), expected)


@pytest.mark.parametrize("kind", ["LoRA on the head", "saved head", "rows of both"])
def test_what_is_trained_on_the_head_gets_its_gradient_from_every_slice(folders, kind):
    backbone = make(folders("llama"), kind).backbone
    states, targets = tiny.random(6, tiny.D_MODEL, seed=8), torch.arange(3, 9)
    with backbone.using("av"):
        trained = [p for name, p in backbone.head.named_parameters() if ".av" in name and p.is_floating_point()]
        for parameter in trained:
            parameter.requires_grad_(True)
        leaf = states.clone().requires_grad_(True)
        expected = torch.autograd.grad(
            functional.cross_entropy(backbone.model.lm_head(leaf), targets, reduction="sum"), [leaf, *trained]
        )
        found = torch.autograd.grad(
            ResponseLoss(backbone, range(50), 100, slice_size=2)(leaf, targets), [leaf, *trained]
        )
    assert len(expected) > 1
    torch.testing.assert_close(found, expected)


def test_a_saved_copy_that_equals_the_bases_embedding_changes_no_text(tmp_path, llama_base):
    model = tiny.plain_model(llama_base)
    plain_pair = tiny.lora_pair(tmp_path / "plain", llama_base, model, layer=1, blocks=2)
    saved = tiny.lora_pair(tmp_path / "saved", llama_base, model, layer=1, blocks=2)
    file = saved / "av" / "adapter_model.safetensors"
    copy = {"base_model.model.model.embed_tokens.weight": model.state_dict()["model.embed_tokens.weight"]}
    tensors = load_file(file) | copy
    pattern = tiny.EVERY_LINEAR
    tiny.write_adapter(
        saved / "av", {k: v.contiguous() for k, v in tensors.items()}, pattern, modules_to_save=["embed_tokens"]
    )
    texts = NLAPair.from_pretrained(plain_pair).explain(ROWS)
    assert NLAPair.from_pretrained(saved).explain(ROWS) == texts
    assert len(set(texts)) == len(ROWS)


# --- other ways from the embedding to the blocks ----------------------------------------------------------------------
WAYS = {
    "granite": {"embedding_multiplier": 12.0},  # scales after the embedding
    "gpt2": {},  # adds a position, drops out
    "bloom": {},  # a norm after the embedding
    "opt": {"word_embed_proj_dim": tiny.D_MODEL, "ffn_dim": 128},
}


@pytest.mark.parametrize("kind", WAYS)
def test_models_that_change_embeddings_before_their_blocks_are_seen_to_be_reached_or_not(monkeypatch, kind):
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **(tiny.SIZES | WAYS[kind])))
    backbone = Backbone(tiny.randomize(model, seed=5), tiny.tokenizer())
    av = Verbalizer(backbone, None, contract_of(backbone))
    ids = torch.tensor([av.prompt_ids]).expand(len(ROWS), -1)
    with torch.no_grad(), backbone.using(None):
        logits = av.injected(lambda: model(input_ids=ids).logits[:, -1], av.marker, av.prepare(ROWS))
    assert all((logits[0] - other).abs().max() > 1e-4 for other in logits[1:])
    assert len(av(ROWS)) == len(ROWS)
    av.reset()
    monkeypatch.setattr(verbalizer, "inject", lambda *_, **__: nullcontext())
    with pytest.raises(InjectionError, match="sees the marker's own embedding"):
        av(ROWS)


def test_an_lm_head_of_4_bits_scores_all_its_tokens(folders):
    bitsandbytes = pytest.importorskip("bitsandbytes")
    backbone = Backbone.load(folders("llama"), device="cpu")
    head = bitsandbytes.nn.Linear4bit(tiny.D_MODEL, tiny.VOCABULARY, bias=False, compute_dtype=torch.float32)
    head.load_state_dict(backbone.model.lm_head.state_dict())
    head.support_avx512bf16_for_cpu = False
    backbone.model.lm_head = head.to("cpu")
    assert backbone.vocabulary_size == tiny.VOCABULARY
    av = Verbalizer(backbone, None, contract_of(backbone))
    inputs, ids = av.prepare(ROWS[:1]), torch.tensor([av.prompt_ids])
    av.restrict(range(4, 60))
    with torch.no_grad(), backbone.using(None):
        own = av.injected(lambda: backbone.model(input_ids=ids).logits[0, -1], av.marker, inputs)
        states, _, _ = response_states(av, inputs, [[7]])
        torch.testing.assert_close(av.logits_of(states)[0], own[[1, *range(4, 60)]])


# --- nothing reaches it -----------------------------------------------------------------------------------------------
@contextmanager
def constant(embedding, position, vectors, **options):
    with injection.inject(embedding, position, torch.ones_like(vectors), **options):
        yield


@contextmanager
def first_row_only(embedding, position, vectors, **options):
    with injection.inject(embedding, position, vectors * (torch.arange(len(vectors)) == 0)[:, None, None], **options):
        yield


@contextmanager
def beside(embedding, positions, vectors, **options):
    with injection.inject(embedding, [at + 1 for at in positions], vectors, **options):
        yield


BROKEN = {
    "no hook": (lambda *_, **__: nullcontext(), "sees the marker's own embedding at its place"),
    "one vector for all": (constant, "sees the same for two different vectors"),
    "one row of several": (first_row_only, "sees different states in rows with the same vector"),
    "another place": (beside, "sees the marker's own embedding at its place"),
}


@pytest.mark.parametrize("way", BROKEN)
@pytest.mark.parametrize("base", ["llama", "gemma 4"])
def test_a_broken_hook_is_an_error_that_names_the_half_and_what_was_seen(folders, monkeypatch, base, way):
    broken, seen = BROKEN[way]
    av = make(folders(base), "token rows")
    monkeypatch.setattr(verbalizer, "inject", broken)
    with pytest.raises(InjectionError, match=f"the AV on .*{base.replace(' ', '-')} did not reach the model: .*{seen}"):
        av(ROWS)
    with pytest.raises(InjectionError, match=seen), av.backbone.using("av"):
        response_states(av, av.prepare(ROWS), [[7, 9]] * len(ROWS))
    assert av.write(None), "where nothing is injected on purpose, nothing is missed"


@pytest.mark.parametrize("kind", ["saved embedding", "token rows", "LoRA on the embedding", "DoRA on the embedding"])
def test_a_hook_on_the_module_from_before_the_adapter_is_an_error(folders, monkeypatch, kind):
    before = Backbone.load(folders("llama"), device="cpu").embedding
    av = make(folders("llama"), kind)
    monkeypatch.setattr(Backbone, "embedding", property(lambda self: before))
    with pytest.raises(InjectionError, match=r"the input embedding \(Embedding\) was never called"):
        av(ROWS)


def test_it_is_looked_at_again_after_a_reset_and_with_another_adapter(folders, monkeypatch):
    av = make(folders("llama"), "saved embedding")
    av(ROWS)
    shown = []
    monkeypatch.setattr(verbalizer, "refuse_lost", lambda *given: shown.append(given))
    av(ROWS)
    assert not shown, "once a load"
    av.reset()
    av(ROWS)
    assert len(shown) == 1
    av.backbone.add_lora("more", lora("saved head"))
    av(ROWS)
    assert len(shown) == 2


def test_another_adapter_of_the_same_name_does_not_get_the_old_ones_prompt(folders):
    av = make(folders("llama"), "LoRA on the embedding")
    old = av(ROWS, Sampling(6, ignore_end=True))
    av.backbone._peft.delete_adapter("av")
    torch.manual_seed(1)
    av.backbone.add_lora("av", lora("LoRA on the embedding"))
    fresh = Verbalizer(av.backbone, "av", av.contract)
    assert av(ROWS, Sampling(6, ignore_end=True)) == fresh(ROWS, Sampling(6, ignore_end=True)) != old


def test_looking_draws_no_random_numbers_and_leaves_the_models_mode(folders):
    av = make(folders("llama"), "saved embedding")
    av.backbone.model.train()
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    with av.backbone.using("av"):
        response_states(av, av.prepare(ROWS[:1]), [[7]])
    assert torch.equal(torch.rand(3), expected)
    assert av.backbone.model.training
