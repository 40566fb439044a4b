"""nla-at-home (rows 10-13): depth in the prompt, the tag open in it, ARs without a head or with one for each layer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file

from tests import tiny

from . import layouts, plain, templates
from .bases import BLOCKS, Bases, D, tokens_of
from .family import Family, PlainAV, by_hand, chat, raw
from .layouts import LAYER
from .reference_like import overwritten

PERCENTS = [10, 25, 47, 63]
HEADS = [1, 2, 3]


def single_layer(root: Path, bases: Bases, reading: str = templates.AR + "㈎") -> Family:
    """Row 10: raw prompt without BOS on a base that has one, percent of the layer's middle, AR read at its marker."""
    base, tokens = bases["llama"], tokens_of("llama")
    av = layouts.lora(root / "nla-L2-av-v2", base, seed=61)
    ar = layouts.lora(root / "nla-L2-ar-v2", base, seed=62)
    for role, folder in (("av", av), ("ar", ar)):
        tiny.write_sidecar(
            folder,
            kind="nla_model",
            schema_version=2,
            role=role,
            base_model=str(base),
            d_model=D,
            extraction={"layer_index": LAYER, "injection_scale": 150.0 if role == "av" else None},
            tokens={"injection_char": "㈎", "injection_token_id": tokens.convert_tokens_to_ids("㈎")},
            training={"injection_mode": "normalize"},
        )
    model, percent = plain.model_of(base, (ar, 2.0)), round(100 * (LAYER + 0.5) / BLOCKS)
    assert percent != round(100 * LAYER / BLOCKS)

    def vectors(texts: Sequence[str]) -> torch.Tensor:
        prompts = [raw(tokens, by_hand(reading, explanation=text, depth=percent), bos=False) for text in texts]
        assert all(ids[-1] == tokens.convert_tokens_to_ids("㈎") for ids in prompts)
        return torch.stack([plain.state_of(model, ids, LAYER) for ids in prompts])

    return Family(
        rows="10",
        halves={"av": av, "ar": ar},
        stated={
            "prompt_style": "raw",
            "bos": False,
            "av_template": templates.DEPTH,
            "fields": {"depth": {"rule": "middle"}},
            "output": {"form": "opened", "stop": "closing_tag"},
            "ar_template": reading,
            "ar": {
                "blocks": LAYER + 1,
                "bos": False,
                "final_norm": "dropped",
                "position": "marker",
                "heads": "none",
            },
        },
        av=PlainAV(
            model=plain.model_of(base, (av, 2.0)),
            tokenizer=tokens,
            prompt=raw(tokens, by_hand(templates.DEPTH, injection_char="㈎", depth=percent), bos=False),
            marker=tokens.convert_tokens_to_ids("㈎"),
            inject=overwritten(150.0),
            parse=plain.opened,
        ),
        ar=vectors,
    )


def universal(root: Path, bases: Bases, layer: int = LAYER, percent: int = 47) -> Family:
    """Row 11: any layer, its percent the nearest of those trained, in chat; one head a layer; centred targets."""
    base, tokens = bases["phi4"], tokens_of("phi4")
    distance = {value: abs(value - 100 * layer / BLOCKS) for value in PERCENTS}
    assert min(distance, key=distance.__getitem__) == percent
    av = layouts.lora(root / "universal-av", base, seed=71)
    ar = layouts.lora(root / "universal-ar", base, seed=72)
    heads = {str(block): tiny.random(D, D, seed=73 + block, scale=1 / 8) for block in HEADS}
    save_file(heads, ar / "value_heads.safetensors")
    for role, folder in (("av", av), ("ar", ar)):
        tiny.write_sidecar(
            folder,
            kind="nla_model",
            schema_version=2,
            role=role,
            variant="universal",
            base_model=str(base),
            d_model=D,
            n_layers=BLOCKS,
            extraction={"injection_scale": 150.0 if role == "av" else None},
            tokens={"injection_char": "★", "injection_token_id": tokens.convert_tokens_to_ids("★")},
            training={"injection_mode": "normalize", "chat_template": True},
            **({"prompt_templates": {"ar": templates.AR}} if role == "ar" else {}),
        )
    model = plain.model_of(base, (ar, 2.0))

    def vectors(texts: Sequence[str]) -> torch.Tensor:
        prompts = [tokens(by_hand(templates.AR, explanation=text)).input_ids for text in texts]
        states = [plain.state_of(model, ids, layer) for ids in prompts]
        return torch.stack([plain.headed(state, heads[str(layer)]) for state in states])

    return Family(
        rows="11",
        halves={"av": av, "ar": ar},
        stated={
            "layer": LAYER,
            "layers": list(range(BLOCKS)),
            "prompt_style": "chat",
            "bos": False,
            "av_template": templates.DEPTH,
            "fields": {"depth": {"rule": "start", "values": PERCENTS, "nearest": True}},
            "output": {"form": "opened", "stop": "closing_tag"},
            "max_length": 256,
            "ar": {
                "blocks": max(HEADS) + 1,
                "bos": False,
                "final_norm": "dropped",
                "heads": "per_layer",
                "head_file": "value_heads.safetensors",
                "truncation": "right",
                "target": "centred",
            },
        },
        av=PlainAV(
            model=plain.model_of(base, (av, 2.0)),
            tokenizer=tokens,
            prompt=chat(tokens, by_hand(templates.DEPTH, injection_char="★", depth=percent)),
            marker=tokens.convert_tokens_to_ids("★"),
            inject=overwritten(150.0),
            parse=plain.opened,
        ),
        ar=vectors,
        explain=lambda pair, rows: pair.explain(rows, layer=layer),
        reconstruct=lambda pair, texts: pair.reconstruct(texts, layer=layer),
    )
