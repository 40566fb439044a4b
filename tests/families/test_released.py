"""What the tests here state of a family is what is known of its releases: facts, and prompts byte for byte."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from nla_sdk.contract.releases.known import known_release

from . import templates

SOLSHINE, SYVB, MATRYOSHKA = "Solshine/gemma-4-e2b-nla-L23", "syvb/nanonla-qwen3-8b-L24", "syvb/nla-qwen2.5-7b-L20"
RL_27B = "ceselder/qwen3.6-27b-nla-rl"
RELEASES: dict[str, list[tuple[str, str | None]]] = {
    "kitft on Qwen": [("kitft/nla-qwen2.5-7b-L20-av", None), ("kitft/nla-qwen2.5-7b-L20-ar", None)],
    "kitft on Gemma 3": [("kitft/nla-gemma3-12b-L32-av", None), ("kitft/nla-gemma3-12b-L32-ar", None)],
    "kitft on Llama": [("kitft/Llama-3.3-70B-NLA-L53-av", None), ("kitft/Llama-3.3-70B-NLA-L53-ar", None)],
    "Solshine": [(f"{SOLSHINE}-av-v0_0_1", None), (f"{SOLSHINE}-ar-v0_0_1", None)],
    "syvb bullets": [(f"{MATRYOSHKA}-av-matryoshka-sonnet46-v3", None)],
    "nla-at-home single layer": [("anicka/nla-qwen2.5-7b-L20-ar-v2", None)],
    "nla-at-home universal": [("anicka/nla-phi4-universal-av-v2", None)],
    "nanoNLA merged": [(f"{SYVB}-av", None), (f"{SYVB}-ar", None)],
    "achand45 whole AR": [
        ("achand45/gemma-3-12b-it-nla-L24", "rl_vllm/iter_000400"),
        ("achand45/gemma-3-12b-it-nla-L24", "rl_vllm/critic_latest"),
    ],
    "LoRA on the SFT adapter": [
        ("ceselder/qwen3.6-27b-nla-L42", "av_rl_lora_step400"),
        ("ceselder/qwen3.6-27b-nla-L42", "rl_critic_step400"),
    ],
    "LoRA on a merged parent": [(RL_27B, "av_rl_adapters/iter_000300")],
    "olens": [("agu18dec/olens_and_ar", "any")],
    "oracle": [("adamkarvonen/checkpoints_latentqa_cls_past_lens_addition_Qwen3-8B", None)],
}
# Of the tiny pairs alone, or said beside a release's facts.
OWN = {
    *("base_model", "d_model", "layer", "layers", "ar.blocks", "max_length", "max_new_tokens", "output.stop"),
    *("fields.layer", "fields.depth", "fields.question", "injection_char", "weights.adapters", "bos", "ar.truncation"),
}


def flat(facts: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in facts.items():
        if isinstance(value, Mapping):
            yield from ((f"{name}.{leaf}", inner) for leaf, inner in value.items())
        else:
            yield name, value


@pytest.mark.parametrize("name", RELEASES)
def test_what_is_stated_of_a_family_is_what_is_known_of_its_releases(name, family):
    stated = dict(flat(family(name).stated))
    for repo, subfolder in RELEASES[name]:
        known = dict(flat(known_release(repo, subfolder) or {}))
        shared = stated.keys() & known.keys() - OWN
        if known.get("role") == "ar":
            shared -= {"role"}
        assert len(shared) >= 2, f"hardly anything is known of {repo}"
        assert {fact: stated[fact] for fact in shared} == {fact: known[fact] for fact in shared}


@pytest.mark.parametrize(
    ("template", "repo", "key"),
    [
        (templates.KITFT, "kitft/nla-qwen2.5-7b-L20-av", "av_template"),
        (templates.KITFT, "ceselder/nanonla-l24-av-qwen3-8b", "av_template"),
        (templates.SEED, f"{SOLSHINE}-av-v0_0_1", "av_template"),
        (templates.DEPTH, "anicka/nla-qwen2.5-7b-L20-av-v2", "av_template"),
        (templates.BULLETS, f"{MATRYOSHKA}-av-matryoshka-sonnet46-v3", "av_template"),
        (templates.ORACLE, "adamkarvonen/checkpoints_latentqa_cls_past_lens_addition_Qwen3-8B", "av_template"),
        (templates.AR, "kitft/nla-qwen2.5-7b-L20-ar", "ar_template"),
        (templates.AR + "㈎", "anicka/nla-qwen2.5-7b-L20-ar-v2", "ar_template"),
    ],
)
def test_a_releases_prompt_is_the_censuss_byte_for_byte(template, repo, key):
    assert (known_release(repo) or {})[key] == template
