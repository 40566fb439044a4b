"""The plain computation: transformers alone, forward hooks, no cache, adapters added to the weights by hand.

Nothing here imports nla_sdk: it is what its results are held against.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM

CLEAR = 2e-4
"""How far the best token must lead for a greedy text to be comparable at all."""
CLOSE = "</explanation>"
OPEN = "<explanation>"
Vectors = torch.Tensor


# --- models -----------------------------------------------------------------------------------------------------
def model_of(folder: Path, *adapters: tuple[Path, float]):
    """A model in fp32, with scale · B · A of each adapter added to its weights."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    for adapter, scale in adapters:
        add_lora(model, load_file(adapter / "adapter_model.safetensors"), scale, "base_model.model.")
    return model


def add_lora(model, tensors: Mapping[str, torch.Tensor], scale: float, prefix: str, suffix: str = ".weight") -> None:
    """W + scale · B · A for every pair of tensors; each must have its weight."""
    for name, a in tensors.items():
        if f".lora_A{suffix}" not in name:
            continue
        b = tensors[name.replace(".lora_A", ".lora_B")]
        module = model.get_submodule(name.removeprefix(prefix).removesuffix(f".lora_A{suffix}"))
        with torch.no_grad():
            module.weight += scale * (b @ a)


def scale_of(adapter: Path, rslora: bool | None = None) -> float:
    """α/r, or α/√r of a rank-stabilised one, by the adapter's own config."""
    config = json.loads((adapter / "adapter_config.json").read_text())
    stabilised = config.get("use_rslora", False) if rslora is None else rslora
    return config["lora_alpha"] / (math.sqrt(config["r"]) if stabilised else config["r"])


def truncated_of(folder: Path, *, norm: bool):
    """A checkpoint cut to its first blocks: with its own final norm, or with none at all."""
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder), dtype=torch.float32).eval()
    left = model.load_state_dict(load_file(folder / "model.safetensors"), strict=False)
    assert not left.unexpected_keys and set(left.missing_keys) <= {"lm_head.weight", "model.norm.weight"}
    assert norm == ("model.norm.weight" not in left.missing_keys)
    if not norm:
        model.model.norm = torch.nn.Identity()
    return model


def block_of(model, block: int) -> torch.nn.Module:
    found = [module for name, module in model.named_modules() if re.search(rf"(^|\.)layers\.{block}$", name)]
    assert len(found) == 1
    return found[0]


# --- injection --------------------------------------------------------------------------------------------------
def with_norm(vector: torch.Tensor, norm: float) -> torch.Tensor:
    return (vector.double() / vector.double().norm(dim=-1, keepdim=True) * norm).float()


@contextmanager
def embedded(model, positions: Sequence[int], vectors: Vectors) -> Iterator[None]:
    """vectors [rows, markers, d] in the place of what the embedding module gives at the positions."""

    def hook(module, args, output):
        output = output.clone()
        output[:, list(positions)] = vectors
        return output

    handle = model.get_input_embeddings().register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def after_block(model, block: int, positions: Sequence[int], change: Callable[[torch.Tensor], torch.Tensor]):
    """h [rows, markers, d] → `change(h)` at the output of a block."""

    def hook(module, args, output):
        states = (output[0] if isinstance(output, tuple) else output).clone()
        states[:, list(positions)] = change(states[:, list(positions)])
        return (states, *output[1:]) if isinstance(output, tuple) else states

    handle = block_of(model, block).register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def add_one(vectors: Vectors, coefficient: float = 1.0) -> Callable[[torch.Tensor], torch.Tensor]:
    """h + c · ‖h‖ · v/‖v‖."""
    return lambda h: h + coefficient * h.norm(dim=-1, keepdim=True) * vectors / vectors.norm(dim=-1, keepdim=True)


def replace_matched(vectors: Vectors, coefficient: float = 1.0) -> Callable[[torch.Tensor], torch.Tensor]:
    """c · ‖h‖ · v/‖v‖."""
    return lambda h: coefficient * h.norm(dim=-1, keepdim=True) * vectors / vectors.norm(dim=-1, keepdim=True)


# --- the AV -----------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Written:
    tokens: list[int]
    finished: bool
    clear: bool


@torch.no_grad()
def write(
    model, prompt: Sequence[int], rows: int, steps: int, *, end: int, closes: Callable[[list[int]], bool]
) -> list[Written]:
    """Greedy tokens of each row, the whole text run anew for each token; the caller has the injection's hook on."""
    ids = torch.tensor([list(prompt)] * rows)
    leads: list[list[bool]] = [[] for _ in range(rows)]
    for _ in range(steps):
        scores = model(input_ids=ids, use_cache=False).logits[:, -1]
        best = scores.topk(2).values
        for row, lead in enumerate((best[:, 0] - best[:, 1] > CLEAR).tolist()):
            leads[row].append(lead)
        ids = torch.cat([ids, scores.argmax(-1, keepdim=True)], dim=1)
    found = []
    for row, all_tokens in enumerate(ids[:, len(prompt) :].tolist()):
        kept: list[int] = []
        finished = False
        for token in all_tokens:
            if token == end:
                finished = True
                break
            kept.append(token)
            if closes(kept):
                finished = True
                break
        used = min(len(kept) + (finished and not closes(kept)), steps)
        found.append(Written(kept, finished, all(leads[row][:used])))
    return found


def tagged(raw: str) -> str:
    """What stands behind the opening tag, up to the closing one; all of it where there is no opening tag."""
    if OPEN not in raw:
        return raw.strip()
    return raw.split(OPEN, 1)[1].split(CLOSE)[0].replace(OPEN, "").strip()


def opened(raw: str) -> str:
    """What comes before the closing tag: the opening one is in the prompt, and may be written once more."""
    return raw.split(CLOSE)[0].lstrip().removeprefix(OPEN).strip()


def lines(raw: str) -> str:
    """One item a line, blank lines left out; between tags where there are any."""
    text = raw.split(CLOSE)[0]
    text = text.split(OPEN, 1)[1].replace(OPEN, "") if OPEN in text else text
    return "\n".join(line.strip() for line in text.strip().splitlines() if line.strip())


def whole(raw: str) -> str:
    return raw.strip()


# --- the AR -----------------------------------------------------------------------------------------------------
@torch.no_grad()
def state_of(model, ids: Sequence[int], block: int, *, at: int = -1) -> torch.Tensor:
    """The output of a block at one position, float32 [d]; of the last block before any final norm."""
    seen = []
    handle = block_of(model, block).register_forward_hook(
        lambda module, args, output: seen.append(output[0] if isinstance(output, tuple) else output)
    )
    try:
        states = model(input_ids=torch.tensor([list(ids)]), output_hidden_states=True, use_cache=False).hidden_states
    finally:
        handle.remove()
    if block + 2 < len(states):
        assert torch.equal(states[block + 1], seen[0])
    return seen[0][0, at].float()


def headed(state: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    return torch.nn.functional.linear(state, weight, bias)


def rescaled(state: torch.Tensor) -> torch.Tensor:
    return state / state.norm() * math.sqrt(len(state))


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    """Largest relative error over rows: ‖a − b‖ / ‖b‖."""
    return float(((a - b).norm(dim=-1) / b.norm(dim=-1)).max())
