"""kitft and its descendants, Solshine and tiny-nla: the marker's embedding is overwritten (rows 1-8, 32-35, 38-40)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from tests import tiny

from . import layouts, plain, templates
from .bases import Bases, D, save_checkpoint, tokens_of
from .family import Family, PlainAV, by_hand, chat, raw
from .layouts import LAYER


def overwritten(norm: float) -> Callable:
    """The marker's embedding becomes the vector at that norm."""
    return lambda model, positions, vectors: plain.embedded(model, positions, plain.with_norm(vectors, norm))


def read_last(
    model: Any,
    tokenizer: Any,
    head: dict[str, torch.Tensor],
    *,
    block: int,
    bos: bool,
    then: Callable[[torch.Tensor], torch.Tensor] = lambda state: state,
    longest: int | None = None,
) -> Callable[[Sequence[str]], torch.Tensor]:
    """T-AR, one text after the other: the last token's state after a block, then the head; the last tokens are kept."""

    def vectors(texts: Sequence[str]) -> torch.Tensor:
        rows = []
        for text in texts:
            ids = raw(tokenizer, by_hand(templates.AR, explanation=text), bos=bos)
            ids = ids[-longest:] if longest else ids
            rows.append(plain.headed(then(plain.state_of(model, ids, block)), head["weight"], head.get("bias")))
        return torch.stack(rows)

    return vectors


def kitft(root: Path, bases: Bases, kind: str = "qwen2.5", scale: float = 150.0, marker: str = "㈎") -> Family:
    base, tokens = bases[kind], tokens_of(kind)
    av = save_checkpoint(root / "nla-L2-av", kind, seed=21)
    ar = layouts.cut_checkpoint(root / "nla-L2-ar", kind, seed=22, blocks=LAYER + 1, norm=False)
    for role, folder in (("av", av), ("ar", ar)):
        layouts.reference_sidecar(folder, role, kind, base, scale=scale, marker=marker, av=templates.KITFT)
    return Family(
        rows="1-4",
        halves={"av": av, "ar": ar},
        stated={
            "prompt_style": "chat",
            "output": {"form": "tagged", "stop": "closing_tag"},
            "ar": {"bos": True, "final_norm": "dropped"},
        },
        av=PlainAV(
            model=plain.model_of(av),
            tokenizer=tokens,
            prompt=chat(tokens, by_hand(templates.KITFT, injection_char=marker)),
            marker=tokens.convert_tokens_to_ids(marker),
            inject=overwritten(scale),
        ),
        ar=read_last(
            plain.truncated_of(ar, norm=False),
            tokens,
            load_file(ar / "value_head.safetensors"),
            block=LAYER,
            bos=tokens.bos_token_id is not None,
        ),
    )


def matryoshka(root: Path, bases: Bases, template: str = templates.BULLETS) -> Family:
    """Rows 32-35: as kitft, but an untagged list that ends with the budget, and `actor`/`critic` in the sidecar."""
    base, tokens = bases["qwen2.5"], tokens_of("qwen2.5")
    av = save_checkpoint(root / "lines-av", "qwen2.5", seed=31)
    ar = layouts.cut_checkpoint(root / "lines-ar", "qwen2.5", seed=32, blocks=LAYER + 1, norm=False)
    for role, folder in (("av", av), ("ar", ar)):
        layouts.reference_sidecar(folder, role, "qwen2.5", base, scale=150.0, marker="㈎", av=template)
        old = {"av": "actor", "ar": "critic"}
        changes = {"role": old[role], "prompt_templates": {"actor": template, "critic": templates.AR}}
        tiny.write_sidecar(folder, **changes)
    return Family(
        rows="32-35",
        halves={"av": av, "ar": ar},
        stated={
            "prompt_style": "chat",
            "output": {"form": "lines", "stop": "budget"},
            "ar": {"bos": True, "final_norm": "dropped"},
        },
        av=PlainAV(
            model=plain.model_of(av),
            tokenizer=tokens,
            prompt=chat(tokens, by_hand(template, injection_char="㈎")),
            marker=tokens.convert_tokens_to_ids("㈎"),
            inject=overwritten(150.0),
            parse=plain.lines,
            steps=9,
            closes=False,
        ),
        ar=read_last(
            plain.truncated_of(ar, norm=False),
            tokens,
            load_file(ar / "value_head.safetensors"),
            block=LAYER,
            bos=False,
        ),
    )


def solshine(root: Path, bases: Bases) -> Family:
    """Row 5: LoRAs on a Gemma 4 without chat template, no sidecar, √d, an AR of fewer blocks than the layer's."""
    base, tokens, layer, blocks = bases["gemma4"], tokens_of("gemma4"), 4, 3
    av = layouts.lora(root / "av", base, seed=41, r=16)
    ar = layouts.lora(root / "ar", base, seed=42, r=16, targets=layouts.ATTENTION)
    head = {"weight": tiny.random(D, D, seed=43, scale=1 / 8), "bias": tiny.random(D, seed=44)}
    torch.save(head, ar / "linear_head.pt")
    return Family(
        rows="5-8",
        halves={"av": av, "ar": ar},
        stated={
            "kind": "nla_model",
            "base_model": str(base),
            "d_model": D,
            "layer": layer,
            "injection": {"site": "embedding", "rule": "replace", "norm": "sqrt_d"},
            "injection_char": "㊗",
            "prompt_style": "raw",
            "bos": True,
            "av_template": templates.SEED,
            "output": {"form": "tagged", "stop": "closing_tag"},
            "ar_template": templates.AR,
            "ar": {"blocks": blocks, "bos": True, "final_norm": "dropped", "bias": True},
        },
        av=PlainAV(
            model=plain.model_of(base, (av, 2.0)),
            tokenizer=tokens,
            prompt=raw(tokens, by_hand(templates.SEED, injection_char="㊗"), bos=True),
            marker=tokens.convert_tokens_to_ids("㊗"),
            inject=overwritten(math.sqrt(D)),
        ),
        ar=read_last(plain.model_of(base, (ar, 2.0)), tokens, head, block=blocks - 1, bos=True),
        notes={"base": base},
    )


def code_decoder(root: Path, bases: Bases) -> Family:
    """Row 40's code-decoder: the mean is subtracted first, the scale is nowhere, and what it writes is Python."""
    base, tokens = bases["qwen3"], tokens_of("qwen3")
    av = save_checkpoint(root / "code-decoder", "qwen3", seed=51)
    layouts.dataset_sidecar(av, "qwen3", base, marker="㈎", extraction={"injection_scale": None})
    mean = tiny.random(D, seed=52, scale=3.0)
    np.save(av / "centre_mean.npy", mean.numpy())
    return Family(
        rows="40 code-decoder",
        halves={"av": av},
        stated={
            "kind": "nla_model",
            "role": "av",
            "injection": {"site": "embedding", "rule": "replace", "norm": "fixed", "scale": 300},
            "activation_mean": "centre_mean.npy",
            "prompt_style": "chat",
            "output": {"form": "answer", "stop": "eos"},
        },
        av=PlainAV(
            model=plain.model_of(av),
            tokenizer=tokens,
            prompt=chat(tokens, by_hand(templates.KITFT, injection_char="㈎")),
            marker=tokens.convert_tokens_to_ids("㈎"),
            inject=lambda model, positions, vectors: overwritten(300.0)(model, positions, vectors - mean),
            parse=plain.whole,
            closes=False,
        ),
    )
