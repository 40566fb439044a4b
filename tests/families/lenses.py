"""Oracle lenses and the linear-map family (rows 39, 41-43): the vector's own norm matters, or another space's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file

from tests import tiny

from . import layouts, plain, templates
from .bases import Bases, D, tokens_of
from .family import Family, PlainAV, by_hand, chat, raw
from .layouts import LAYER
from .reference_like import overwritten

WIDTH = 48  # of the other model, whose vectors are mapped
TAGS = ["tiny-other", "tiny-third"]


def bullets(root: Path, bases: Bases, layer: int = LAYER) -> Family:
    """Row 42: 16000 · unit(h) on the marker, the layer said in the prompt, bullets with dashes."""
    base, tokens = bases["qwen3.6"], tokens_of("qwen3.6")
    av = layouts.lora(root / "olens", base, seed=151)
    return Family(
        rows="42",
        halves={"av": av},
        stated={
            "kind": "nla_model",
            "role": "av",
            "base_model": str(base),
            "d_model": D,
            "layer": LAYER,
            "layers": [1, 2, 3],
            "injection": {"site": "embedding", "rule": "replace", "norm": "fixed", "scale": 16000},
            "injection_char": "㈜",
            "prompt_style": "chat",
            "av_template": templates.OLENS,
            "fields": {"layer": {}},
            "output": {"form": "dashes", "stop": "eos", "temperature": 1.0, "top_p": 0.95, "top_k": 64},
        },
        av=PlainAV(
            model=plain.model_of(base, (av, 2.0)),
            tokenizer=tokens,
            prompt=chat(tokens, by_hand(templates.OLENS, injection_char="㈜", layer=layer)),
            marker=tokens.convert_tokens_to_ids("㈜"),
            inject=overwritten(16000.0),
            parse=plain.lines,
            closes=False,
        ),
        explain=lambda pair, rows: pair.explain(rows, layer=layer, temperature=0.0),
        notes={"base": base},
    )


def multiplied(root: Path, bases: Bases, factor: float = 6.4559) -> Family:
    """Row 43: the raw vector times a constant frozen in training; one tagged span."""
    base, tokens = bases["qwen3.6"], tokens_of("qwen3.6")
    av = layouts.lora(root / "ao-checkpoint", base, seed=161)
    return Family(
        rows="43",
        halves={"av": av},
        stated={
            "kind": "nla_model",
            "role": "av",
            "base_model": str(base),
            "d_model": D,
            "layer": LAYER,
            "injection": {"site": "embedding", "rule": "replace", "norm": "multiply", "scale": factor},
            "injection_char": "㈜",
            "prompt_style": "chat",
            "enable_thinking": False,
            "av_template": templates.SPAN,
            "fields": {"layer": {}},
            "output": {"form": "span", "stop": "closing_tag"},
        },
        av=PlainAV(
            model=plain.model_of(base, (av, 2.0)),
            tokenizer=tokens,
            prompt=chat(tokens, by_hand(templates.SPAN, injection_char="㈜", layer=LAYER), enable_thinking=False),
            marker=tokens.convert_tokens_to_ids("㈜"),
            inject=lambda model, positions, vectors: plain.embedded(model, positions, factor * vectors),
        ),
    )


def mapped(root: Path, bases: Bases, tag: str = TAGS[0]) -> Family:
    """Row 39: a source of another width is mapped in, set to √d, said by its tag, and mapped back after the AR."""
    base, tokens = bases["qwen3"], tokens_of("qwen3")
    av = layouts.lora(root / "adapter_universal_v6", base, seed=171)
    ar = layouts.lora(root / "adapter_universal_v6_ar", base, seed=172)
    into, back = tiny.random(D, WIDTH, seed=173, scale=1 / 8), tiny.random(WIDTH, D, seed=174, scale=1 / 8)
    head = {"weight": tiny.random(D, D, seed=175, scale=1 / 8)}
    torch.save(head, ar / "value_head.pt")
    for folder in (av, ar):  # the maps of one source, beside both halves
        save_file({"weight": into}, folder / "encoder.safetensors")
        save_file({"weight": back}, folder / "decoder.safetensors")
    model = plain.model_of(base, (ar, 2.0))

    def vectors(texts: Sequence[str]) -> torch.Tensor:
        prompts = [raw(tokens, by_hand(templates.AR, explanation=text), bos=False) for text in texts]
        return torch.stack(
            [plain.headed(plain.state_of(model, ids, LAYER), head["weight"]) @ back.T for ids in prompts]
        )

    return Family(
        rows="39",
        halves={"av": av, "ar": ar},
        stated={
            "kind": "nla_model",
            "base_model": str(base),
            "d_model": D,
            "layer": LAYER,
            "injection": {"site": "embedding", "rule": "replace", "norm": "sqrt_d"},
            "injection_char": "㈎",
            "prompt_style": "chat",
            "av_template": templates.TAGGED,
            "fields": {"model_tag": {"values": TAGS, "default": tag}},
            "activation_map": "encoder.safetensors",
            "reconstruction_map": "decoder.safetensors",
            "output": {"form": "tagged", "stop": "closing_tag"},
            "ar_template": templates.AR,
            "ar": {"blocks": LAYER + 1, "bos": False, "final_norm": "dropped"},
        },
        av=PlainAV(
            model=plain.model_of(base, (av, 2.0)),
            tokenizer=tokens,
            prompt=chat(tokens, by_hand(templates.TAGGED, injection_char="㈎", model_tag=tag)),
            marker=tokens.convert_tokens_to_ids("㈎"),
            inject=lambda model, positions, rows: overwritten(math.sqrt(D))(model, positions, rows @ into.T),
        ),
        ar=vectors,
        shape=(WIDTH,),
    )
