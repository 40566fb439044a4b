"""nanoNLA and EasyNLA (rows 14-29): Add@1, rank-stabilised LoRAs, parents elsewhere, ARs that keep or drop the norm."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from . import layouts, plain, templates
from .bases import Bases, D, save_checkpoint, tokens_of
from .family import Family, PlainAV, by_hand, chat
from .layouts import LAYER
from .reference_like import read_last

ADD_1 = {"site": "block", "block": 1, "rule": "add", "norm": "match"}
R, ALPHA = 8, 4
LONGEST = 24  # tokens that an AR prompt keeps, the last ones
STABLE, PLAIN = ALPHA / math.sqrt(R), ALPHA / R
TAGGED = {"form": "tagged", "stop": "closing_tag"}


def added(block: int = 1) -> Callable:
    """h + ‖h‖ · v/‖v‖ at the output of a block."""
    return lambda model, positions, vectors: plain.after_block(model, block, positions, plain.add_one(vectors))


def av_of(kind: str, model: Any, marker: str, options: dict[str, Any] | None = None, prefill: str = "") -> PlainAV:
    """T-KITFT in chat and Add@1; the prefill is tokenised with what stands before it."""
    tokens = tokens_of(kind)
    message = [{"role": "user", "content": by_hand(templates.KITFT, injection_char=marker)}]
    text = tokens.apply_chat_template(message, tokenize=False, add_generation_prompt=True, **(options or {}))
    return PlainAV(
        model=model,
        tokenizer=tokens,
        prompt=tokens(text + prefill, add_special_tokens=False).input_ids,
        marker=tokens.convert_tokens_to_ids(marker),
        inject=added(),
    )


def lora(folder: Path, base: Path, seed: int, **config: Any) -> Path:
    return layouts.lora(folder, base, seed, r=R, lora_alpha=ALPHA, use_rslora=True, **config)


def lora_ar(
    root: Path, base: Path, kind: str, seed: int, *, stripped: bool | None, longest: int | None = None
) -> tuple[Path, Callable[[Sequence[str]], torch.Tensor]]:
    """An AR of one file beside `ar_meta.json`, and its plain computation: α/√r, which no file says."""
    meta = {} if stripped is None else {"final_norm_stripped": stripped}
    ar = layouts.lora_and_head(root, base, seed, blocks=LAYER + 1, r=R, alpha=ALPHA, **meta)
    tensors = load_file(ar / "ar_lora_value_head.safetensors")
    model, tokens = plain.model_of(base), tokens_of(kind)
    plain.add_lora(model, tensors, STABLE, "backbone.", ".default.weight")
    norm = torch.nn.Identity() if stripped else model.model.norm

    @torch.no_grad()
    def normed(state: torch.Tensor) -> torch.Tensor:
        return plain.rescaled(norm(state))

    head = {"weight": tensors["value_head.weight"]}
    return ar, read_last(model, tokens, head, block=LAYER, bos=False, then=normed, longest=longest)


def whole_ar(folder: Path, kind: str, seed: int, norm: str) -> tuple[Path, Callable[[Sequence[str]], torch.Tensor]]:
    """An AR folder with a final norm in its file, which its trainer's loader takes away or leaves; √d, no BOS."""
    ar = layouts.cut_checkpoint(folder, kind, seed, blocks=LAYER + 1, norm=True)
    model, tokens = plain.truncated_of(ar, norm=True), tokens_of(kind)
    final = model.model.norm if norm == "kept" else torch.nn.Identity()

    @torch.no_grad()
    def normed(state: torch.Tensor) -> torch.Tensor:
        return plain.rescaled(final(state))

    head = load_file(ar / "value_head.safetensors")
    return ar, read_last(model, tokens, head, block=LAYER, bos=False, then=normed)


def merged(root: Path, bases: Bases, norm: str = "dropped") -> Family:
    """Rows 14, 15: a merged AV with a table's sidecar, a whole AR."""
    base = bases["qwen3"]
    av = save_checkpoint(root / "nanonla-L2-av", "qwen3", seed=85)
    ar, vectors = whole_ar(root / "nanonla-L2-ar", "qwen3", 82, norm)
    for folder in (av, ar):
        layouts.dataset_sidecar(folder, "qwen3", base, marker="㈎", extraction={"injection_scale": None})
    return Family(
        rows="14, 15",
        halves={"av": av, "ar": ar},
        stated={
            "injection": ADD_1,
            "prompt_style": "chat",
            "output": TAGGED,
            "ar": {"blocks": LAYER + 1, "bos": False, "final_norm": norm, "state": "sqrt_d"},
        },
        av=av_of("qwen3", plain.model_of(av), "㈎"),
        ar=vectors,
    )


def easynla(root: Path, bases: Bases, *, stripped: bool | None = None, kind: str = "gemma3") -> Family:
    """Rows 24-28: LoRAs, BOS once in the AV's chat and none before the AR's prompt, α/√r, the norm kept or stripped."""
    base, marker = bases[kind], "㈜"
    av = lora(root / "rl" / "iter_000400", base, seed=91)
    ar, vectors = lora_ar(root / "rl" / "critic_latest", base, kind, 92, stripped=stripped)
    for folder in (av, ar):
        layouts.dataset_sidecar(folder, kind, base, marker=marker)
    return Family(
        rows="24-28",
        halves={"av": av, "ar": ar},
        stated={
            "injection": ADD_1,
            "prompt_style": "chat",
            "output": TAGGED,
            "ar": {"bos": False, "state": "sqrt_d"},
        },
        av=av_of(kind, plain.model_of(base, (av, STABLE)), marker),
        ar=vectors,
        notes={"base": base},
    )


def stripped_full(root: Path, bases: Bases) -> Family:
    """Row 26: a LoRA AV; a whole AR of K+1 blocks whose `ar_meta.json` says that the final norm is stripped."""
    kind, marker = "gemma3", "㈜"
    base, tokens = bases[kind], tokens_of(kind)
    av = lora(root / "rl_vllm" / "iter_000400", base, seed=105)
    ar = layouts.cut_checkpoint(root / "rl_vllm" / "critic_latest", kind, 102, blocks=LAYER + 1, norm=False)
    meta = {"ar_num_layers": LAYER + 1, "final_norm_stripped": True}
    (ar / "ar_meta.json").write_text(json.dumps(meta))
    for folder in (av, ar):
        layouts.dataset_sidecar(folder, kind, base, marker=marker)
    head = load_file(ar / "value_head.safetensors")
    return Family(
        rows="26",
        halves={"av": av, "ar": ar},
        stated={
            "injection": ADD_1,
            "prompt_style": "chat",
            "output": TAGGED,
            "ar": {"bos": False, "state": "sqrt_d"},
        },
        av=av_of(kind, plain.model_of(base, (av, STABLE)), marker),
        ar=read_last(plain.truncated_of(ar, norm=False), tokens, head, block=LAYER, bos=False, then=plain.rescaled),
    )


def two_loras(root: Path, bases: Bases) -> Family:
    """Row 23: two rank-stabilised LoRAs at once, a rendered prompt in `nla_config.json`, the AR's last tokens."""
    kind, marker = "qwen3.6", "㈜"
    base, tokens = bases[kind], tokens_of(kind)
    sft, rl = lora(root / "av_sft_lora", base, seed=111), lora(root / "av_rl_lora", base, seed=112)
    ar, vectors = lora_ar(root / "rl_critic", base, kind, 113, stripped=True, longest=LONGEST)
    av = av_of(kind, plain.model_of(base, (sft, STABLE), (rl, STABLE)), marker)
    message = [{"role": "user", "content": by_hand(templates.KITFT, injection_char=marker)}]
    config = {
        "base_model": str(base),
        "layer": LAYER,
        "d_model": D,
        **{key: layouts.marker_tokens(kind, marker)[key] for key in ("injection_char", "injection_token_id")},
        "injection": "additive norm-matched (Karvonen) at block-1 output",
        "actor_prompt_rendered": tokens.apply_chat_template(message, tokenize=False, add_generation_prompt=True),
        "actor_prompt_ids": av.prompt,
        "critic_prompt_template": templates.AR,
        "ar_lora_r": R,
        "ar_num_layers": LAYER + 1,
        "lora_targets": layouts.EVERY,
    }
    (root / "nla_config.json").write_text(json.dumps(config, ensure_ascii=False))
    layouts.dataset_sidecar(root, kind, base, marker=marker, weights={"adapters": ["av_sft_lora", "av_rl_lora"]})
    layouts.dataset_sidecar(ar, kind, base, marker=marker)
    return Family(
        rows="23",
        halves={"av": root, "ar": ar},
        stated={
            "injection": ADD_1,
            "prompt_style": "chat",
            "output": TAGGED,
            "max_length": LONGEST,
            "ar": {"bos": False, "state": "sqrt_d", "truncation": "left"},
        },
        av=av,
        ar=vectors,
    )


def on_a_parent(root: Path, bases: Bases) -> Family:
    """Rows 15, 21: an RL LoRA that applies on a merged parent in another folder; only the AV is said to need it."""
    kind, marker = "qwen3.6", "㈜"
    base = bases[kind]
    parent = save_checkpoint(root / "repo" / "av_base", kind, seed=121)
    av = lora(root / "repo" / "av_rl_adapters" / "iter_000300", parent, seed=122)
    layouts.dataset_sidecar(av, kind, base, marker=marker)
    return Family(
        rows="15, 18, 21",
        halves={"av": root / "repo", "subfolder": "av_rl_adapters/iter_000300"},
        stated={
            "injection": ADD_1,
            "prompt_style": "chat",
            "enable_thinking": False,
            "output": TAGGED,
            "weights": {"parent": "av_base"},
        },
        av=av_of(kind, plain.model_of(parent, (av, STABLE)), marker, {"enable_thinking": False}),
        notes={"adapter": av, "base": base},
    )


def on_the_sft(root: Path, bases: Bases) -> Family:
    """Row 19: RL on top of the merged SFT adapter, thinking closed, the opening tag prefilled; a whole AR beside it."""
    kind, marker = "qwen3.6", "㈜"
    base = bases[kind]
    sft, rl = lora(root / "av_sft_lora", base, seed=131), lora(root / "av_rl_lora_step400", base, seed=132)
    ar, vectors = whole_ar(root / "rl_critic_step400", kind, 133, "dropped")
    active = {"adapters": ["av_sft_lora", "av_rl_lora_step400"]}
    layouts.dataset_sidecar(root, kind, base, marker=marker, weights=active)
    layouts.dataset_sidecar(ar, kind, base, marker=marker)
    prefill = "<explanation>\n"
    av = av_of(kind, plain.model_of(base, (sft, STABLE), (rl, STABLE)), marker, {"enable_thinking": False}, prefill)
    return Family(
        rows="19",
        halves={"av": root, "ar": ar},
        stated={
            "injection": ADD_1,
            "prompt_style": "chat",
            "enable_thinking": False,
            "prefill": prefill,
            "output": {"form": "opened", "stop": "closing_tag"},
            "ar": {"blocks": LAYER + 1, "bos": False, "final_norm": "dropped", "state": "sqrt_d"},
        },
        av=PlainAV(**{**vars(av), "parse": plain.opened}),
        ar=vectors,
    )


def several_layers(root: Path, bases: Bases, layers: Sequence[int] = (1, 2, 3)) -> Family:
    """Row 29: vectors of several layers in one prompt, a marker each, Add@1 at every marker."""
    kind, marker = "qwen3", "㈎"
    base, tokens = bases[kind], tokens_of(kind)
    av = lora(root / "multilayer", base, seed=141)
    layouts.dataset_sidecar(av, kind, base, marker=marker, prompt_templates={"actor": templates.SEVERAL})
    content = by_hand(templates.SEVERAL, injection_char=marker * len(layers))
    return Family(
        rows="29",
        halves={"av": av},
        stated={
            "injection": {**ADD_1, "markers": len(layers), "layers": list(layers)},
            "prompt_style": "chat",
            "output": TAGGED,
        },
        av=PlainAV(
            model=plain.model_of(base, (av, STABLE)),
            tokenizer=tokens,
            prompt=chat(tokens, content),
            marker=tokens.convert_tokens_to_ids(marker),
            inject=added(),
        ),
        shape=(len(layers), D),
    )
