"""The straightforward way, with transformers and PEFT alone: one row at a time, full forwards, no cache, no stop.

Nothing here imports nla_sdk: it is what its results are held against.
"""

from __future__ import annotations

import functools
import math
from pathlib import Path

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from tests.tiny import AR_TEMPLATE, AV_TEMPLATE, D_MODEL, MARKER

CLEAR = 1e-3
"""How far the best token must lead for a greedy text to be comparable at all."""


def load(base: Path, adapter: Path | None = None, quantization: str | None = None):
    """A model of its own, in fp32 or in NF4 with fp32 compute, with or without an adapter."""
    return _load(str(base), str(adapter) if adapter else None, quantization)


@functools.cache
def _load(base: str, adapter: str | None, quantization: str | None):
    options = {}
    if quantization == "nf4":
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.float32,
        )
        options["device_map"] = {"": "cpu"}
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, **options)
    for module in model.modules():  # else bitsandbytes computes in bfloat16 where the CPU can
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    return (PeftModel.from_pretrained(model, adapter) if adapter else model).eval()


def bare(model):
    """The transformers model inside a PEFT model."""
    return model.base_model.model if isinstance(model, PeftModel) else model


def av_prompt(tokenizer, prefix: str = "<bos>", suffix: str = "") -> list[int]:
    text = prefix + AV_TEMPLATE.replace("{injection_char}", MARKER) + suffix
    return tokenizer(text, add_special_tokens=False).input_ids


def ar_prompt(tokenizer, explanation: str) -> list[int]:
    return tokenizer("<bos>" + AR_TEMPLATE.replace("{explanation}", explanation), add_special_tokens=False).input_ids


def scaled(vector: torch.Tensor, norm: float = math.sqrt(D_MODEL)) -> torch.Tensor:
    return vector.double() / vector.double().norm() * norm


@torch.no_grad()
def logits(model, ids: list[int], marker: int, vector: torch.Tensor) -> torch.Tensor:
    """Next-token logits, the embedding of the token `marker` overwritten by replacing the module's forward."""
    embedding = bare(model).get_input_embeddings()
    original = embedding.forward

    def patched(input_ids):
        output = original(input_ids)
        where = (input_ids == marker).nonzero()
        assert len(where) == 1
        output[0, where[0, 1]] = vector.to(output.dtype)
        return output

    embedding.forward = patched
    try:
        return model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1]
    finally:
        embedding.forward = original


def write(model, ids: list[int], marker: int, vector: torch.Tensor, steps: int, end: int | None = 1) -> list[int]:
    """Greedy tokens, the whole text run anew for each; a tie fails, since another order of sums could break it."""
    written: list[int] = []
    for _ in range(steps):
        scores = logits(model, [*ids, *written], marker, vector)
        best, second = scores.topk(2).values.tolist()
        assert best - second > CLEAR, "a near tie: choose another seed in tiny.py"
        token = int(scores.argmax())
        if token == end:
            break
        written.append(token)
    return written


@torch.no_grad()
def states(model, ids: list[int], block: int) -> torch.Tensor:
    """The residual stream after `block` of one unpadded row, [tokens, d]."""
    blocks = bare(model).config.get_text_config().num_hidden_layers
    if block < blocks - 1:
        return model(input_ids=torch.tensor([ids]), output_hidden_states=True).hidden_states[block + 1][0]
    # transformers gives the last block's output after the final norm only
    last = [module for name, module in bare(model).named_modules() if name.endswith(f"layers.{block}")]
    assert len(last) == 1
    seen = []
    handle = last[0].register_forward_hook(
        lambda module, args, output: seen.append(output[0] if isinstance(output, tuple) else output)
    )
    try:
        model(input_ids=torch.tensor([ids]))
    finally:
        handle.remove()
    return seen[0][0]


def reconstruct(model, ids: list[int], blocks: int, head: dict[str, torch.Tensor]) -> torch.Tensor:
    state = states(model, ids, blocks - 1)[-1].float()
    return torch.nn.functional.linear(state, head["weight"], head.get("bias"))


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    """Largest relative error over rows: ‖a − b‖ / ‖b‖."""
    return float(((a - b).norm(dim=-1) / b.norm(dim=-1)).max())
