"""Activation oracles (rows 50-58): a question, N vectors on N markers in a row, their layer in words, thinking off."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from . import layouts, plain, templates
from .bases import Bases, D, tokens_of
from .easy import ADD_1, added
from .family import Family, PlainAV, by_hand
from .layouts import LAYER

MARK = " ?"
QUESTION = "What is the text about?"


def oracle(
    root: Path,
    bases: Bases,
    *,
    count: int = 3,
    layer: int = LAYER,
    question: str = QUESTION,
    injection: dict[str, Any] | None = None,
    inject: Callable | None = None,
    targets: list[str] | None = None,
) -> Family:
    """Row 50: LoRA without a sidecar; Add@1 unless told otherwise."""
    base, tokens = bases["qwen3"], tokens_of("qwen3")
    av = layouts.lora(root / "checkpoints_addition_tiny", base, seed=181, r=16, lora_alpha=32, targets=targets)
    content = f"Layer: {layer}\n{MARK * count} \n{question}"
    assert content == by_hand(templates.ORACLE, layer=layer, injection_char=MARK * count, question=question)
    text = tokens.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True, enable_thinking=False
    )
    (marker,) = tokens(MARK, add_special_tokens=False).input_ids

    def ask(pair: Any, rows: torch.Tensor) -> list[str]:
        return list(pair.ask(rows, question, layer=layer))  # a prompt a set

    return Family(
        rows="50-58",
        halves={"av": av},
        stated={
            "kind": "nla_model",
            "role": "av",
            "base_model": str(base),
            "d_model": D,
            "layer": LAYER,
            "layers": [1, 2, 3],
            "injection": {**(injection or ADD_1), "markers": "any"},
            "injection_char": MARK,
            "prompt_style": "chat",
            "enable_thinking": False,
            "av_template": templates.ORACLE,
            "fields": {"layer": {}, "question": {"default": QUESTION}},
            "output": {"form": "answer", "stop": "eos"},
        },
        av=PlainAV(
            model=plain.model_of(base, (av, 2.0)),
            tokenizer=tokens,
            prompt=tokens(text, add_special_tokens=False).input_ids,
            marker=marker,
            inject=inject or added(),
            parse=plain.whole,
            closes=False,
        ),
        explain=ask,
        shape=(count, D),
    )


def replacing(root: Path, bases: Bases) -> Family:
    """Row 51: trained before the addition: the state after block 0 is replaced, with coefficient 2."""
    return oracle(
        root,
        bases,
        count=1,
        injection={"site": "block", "block": 0, "rule": "replace", "norm": "match", "coefficient": 2.0},
        inject=lambda model, positions, vectors: plain.after_block(
            model, 0, positions, plain.replace_matched(vectors, 2.0)
        ),
    )
