"""Wherever and however vectors are put in, texts are those of full forwards with a plain hook and no cache."""

from __future__ import annotations

import functools
import math

import pytest
import torch
from peft import LoraConfig
from transformers import AutoConfig

from nla_sdk.contract import Contract
from nla_sdk.model.backbone import Backbone
from nla_sdk.model.verbalizer import Verbalizer
from nla_sdk.sampling import Sampling
from tests import tiny
from tests.model.test_reaching import GEMMA_3

D, STEPS = tiny.D_MODEL, 5
BASES = {
    "llama": tiny.llama_config(),
    "qwen": AutoConfig.for_model("qwen2", **(tiny.SIZES | {"num_hidden_layers": 4})),
    "gemma 3": AutoConfig.for_model(
        "gemma3_text", **(tiny.SIZES | GEMMA_3 | {"num_hidden_layers": 4}) | {"layer_types": ["sliding_attention"] * 4}
    ),
    "gemma 4": tiny.gemma_config(),
}
SITES = {"embedding": {"site": "embedding"}, "block 0": {"site": "block", "block": 0}}
SITES |= {"block 1": {"site": "block", "block": 1}}
NORMS = {
    "fixed": {"norm": "fixed", "scale": 20.0},
    "sqrt_d": {"norm": "sqrt_d"},
    "match": {"norm": "match", "coefficient": 1.5},
    "raw": {"norm": "raw", "coefficient": 0.5},
    "multiply": {"norm": "multiply", "scale": 3.0},
}
ROWS = tiny.random(5, D, seed=3, scale=2.0)
ADD_1 = {"site": "block", "block": 1, "rule": "add", "norm": "match"}


@pytest.fixture(scope="module")
def backbones(tmp_path_factory):
    @functools.cache
    def get(base: str) -> Backbone:
        folder = tmp_path_factory.mktemp("bases") / base.replace(" ", "-")
        tokens = tiny.tokenizer(chat=base == "qwen")
        backbone = Backbone.load(tiny.save_model(folder, BASES[base], tokens, seed=6), device="cpu")
        torch.manual_seed(0)
        backbone.add_lora("av", LoraConfig(r=4, target_modules=["q_proj", "down_proj"], init_lora_weights=False))
        return backbone

    return get


def contract_of(base: str, injection: dict, **facts) -> Contract:
    return Contract.from_dict(
        {"kind": "nla_model", "role": "av", "base_model": "tiny", "d_model": D, "layer": 0, "max_new_tokens": STEPS}
        | {"injection_char": tiny.MARKER, "av_template": tiny.AV_TEMPLATE, "injection": injection}
        | {"prompt_style": "chat" if base == "qwen" else "raw"}
        | facts
    )


def make(backbone: Backbone, base: str, injection: dict, adapter: str | None = None) -> Verbalizer:
    return Verbalizer(backbone, adapter, contract_of(base, injection).verify(backbone.tokenizer))


# --- the plain computation --------------------------------------------------------------------------------------------
def put(own: torch.Tensor, vector: torch.Tensor, rule: str, norm: str, scale=None, coefficient=1.0) -> torch.Tensor:
    """One state [d] after one vector [d] came to it."""
    length = {"fixed": scale, "sqrt_d": math.sqrt(D), "match": own.norm()}
    v = vector * scale if norm == "multiply" else vector
    v = v / v.norm() * length[norm] if norm in length else v
    return coefficient * v + (own if rule == "add" else 0)


def block_of(model, block: int):
    [module] = [module for name, module in model.named_modules() if name.endswith(f".layers.{block}")]
    return module


@torch.no_grad()
def plain_logits(model, ids, positions, vectors, site, block=None, **how) -> torch.Tensor:
    """Of the next token, by a plain hook on a full forward of one row."""

    def hook(module, args, output):
        states = (output[0] if isinstance(output, tuple) else output).clone()
        for position, vector in zip(positions, vectors, strict=True):
            states[0, position] = put(states[0, position], vector, **how)
        return (states, *output[1:]) if isinstance(output, tuple) else states

    module = model.get_input_embeddings() if site == "embedding" else block_of(model, block)
    handle = module.register_forward_hook(hook)
    try:
        return model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1]
    finally:
        handle.remove()


def plain_tokens(model, ids, positions, vectors, **injection) -> list[int]:
    written: list[int] = []
    for _ in range(STEPS):
        scores = plain_logits(model, [*ids, *written], positions, vectors, **injection)
        written.append(int(scores.argmax()))
    return written


def cases():
    for site in SITES:
        for rule in ("replace", "add"):
            for norm in NORMS:
                yield pytest.param(SITES[site] | {"rule": rule} | NORMS[norm], id=f"{site} {rule} {norm}")


@pytest.mark.parametrize("adapter", [None, "av"])
@pytest.mark.parametrize("injection", list(cases()))
@pytest.mark.parametrize("base", BASES)
def test_texts_are_those_of_full_forwards_with_a_plain_hook(backbones, base, injection, adapter):
    backbone = backbones(base)
    av = make(backbone, base, injection, adapter)
    written = av.tokens(av.prepare(ROWS), Sampling(STEPS, ignore_end=True))
    with backbone.using(adapter) as model:
        for vector, (tokens, _) in zip(ROWS, written, strict=True):
            assert tokens == plain_tokens(model, av.prompt_ids, [av.marker], [vector], **injection)
    assert av.tokens(av.prepare(ROWS[2:3]), Sampling(STEPS, ignore_end=True)) == written[2:3]
