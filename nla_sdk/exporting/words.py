"""The page beside an exported half: how code that knows only the layout runs it, and which file is what."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatch
from typing import Any

_AV = """\
# Activation verbalizer (AV): an activation → text

A causal language model, whole, without adapters. To put an activation `v` of `{base_model}` into words (the output of
decoder block {layer}, counted from 0; {d_model} numbers):

1. Prompt: `prompt_templates.av` of `nla_meta.yaml` with the marker `{marker}` in the place of `{{injection_char}}`,
   as the only user message of the chat template, with its generation prompt, tokenised in that step: a second one would
   add a second BOS.
2. Take the input embeddings of these tokens and overwrite the one of the marker (token {token}, there once) with `v`
   scaled to the norm `extraction.injection_scale`, {scale:.6g}.
3. `generate` from these embeddings. The explanation ends at `</explanation>`, or where the output does.
"""
_AR = """\
# Activation reconstructor (AR): text → an activation

{blocks} blocks of a language model, without final norm and lm_head. To turn an explanation into the direction of an
activation of `{base_model}` (the output of decoder block {layer}, counted from 0; {d_model} numbers):

1. Prompt: `prompt_templates.ar` of `nla_meta.yaml` with the explanation in the place of `{{explanation}}`, as raw
   text, tokenised with the tokenizer's special tokens.
2. Run the model with the final norm replaced by the identity and take the state of the last token. There is no such
   norm in the file; a loader makes up a fresh one and only warns.
3. Multiply it by `weight` of `value_head.safetensors`, [{d_model}, {d_model}]; there is no bias. Only the direction
   counts.
"""
_FILES = {
    "README.md": "this page",
    "nla_meta.yaml": "the contract: prompts, marker, norm, layer, and what it was made from",
    "config.json": "what transformers builds the model from",
    "generation_config.json": "what ends an output, and its budget",
    "model*.safetensors": "the weights",
    "model.safetensors.index.json": "which weight is in which file",
    "value_head.safetensors": "the head: one matrix, `weight`",
    "activation_mean.safetensors": "μ, the mean activation, which is subtracted from an activation first",
    "activation_statistics.safetensors": "what right activations look like",
    "chat_template.jinja": "how messages become the prompt",
    "*token*": "the tokenizer",
    "vocab*": "the tokenizer",
    "merges.txt": "the tokenizer",
    "*": "terms of what this was made from",
}


def readme(sidecar: Mapping[str, Any], notes: Sequence[str], origin: str, files: Iterable[str]) -> str:
    """Markdown for one half.

    Args:
        sidecar: what stands in its `nla_meta.yaml`.
        notes: what was folded in, and what is left to the reader.
        origin: what the half is called where it comes from.
        files: the names of those beside.
    """
    extraction, tokens = sidecar["extraction"], sidecar["tokens"]
    text = (_AV if sidecar["role"] == "av" else _AR).format(
        base_model=sidecar["base_model"],
        d_model=sidecar["d_model"],
        layer=extraction["layer_index"],
        scale=extraction["injection_scale"] or 0.0,
        marker=tokens.get("injection_char"),
        token=tokens.get("injection_token_id"),
        blocks=sidecar.get("ar", {}).get("num_hidden_layers", 0) + 1,
    )
    if notes:
        text += "\n" + "\n".join(f"- {note}" for note in notes) + "\n"
    text += "\n| file | what it is |\n|---|---|\n"
    for name in sorted({*files, "README.md"}):
        what = next(what for pattern, what in _FILES.items() if fnmatch(name, pattern))
        text += f"| `{name}` | {what} |\n"
    return f"{text}\nMade from `{origin}` by nla-sdk, whose `NLAPair.from_pretrained` loads it too.\n"
