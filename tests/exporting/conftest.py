"""Tiny pairs of the kinds that are exported."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import Gemma3TextConfig, Qwen3Config

from nla_sdk import NLAPair
from tests import tiny

FULL = {"ar.final_norm": "dropped"}
GEMMA3 = {
    "head_dim": 32,
    "sliding_window": 8,
    "layer_types": [f"{kind}_attention" for kind in ("sliding", "full", "sliding", "full")],
    "num_hidden_layers": 4,
}


THINKING = (
    "{{ bos_token }}{% for message in messages %}[{{ message['role'] }}]\n{{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}[model]\n{% if enable_thinking is defined and not enable_thinking %}"
    "<think></think>\n{% endif %}{% endif %}\n"
)


@pytest.fixture(scope="session")
def bases(tmp_path_factory, llama_base) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("export-bases")
    qwen = Qwen3Config(**(tiny.SIZES | {"num_hidden_layers": 4, "head_dim": 32, "bos_token_id": None}))
    thinks, no_bos = tiny.tokenizer(chat=True), tiny.tokenizer(chat=True)
    thinks.chat_template = THINKING
    no_bos.chat_template = tiny.CHAT_TEMPLATE.replace("{{ bos_token }}", "")
    return {
        "thinks": tiny.save_model(root / "thinks", tiny.llama_config(), thinks, seed=2),
        "no-bos": tiny.save_model(root / "no-bos", tiny.llama_config(), no_bos, seed=2),
        "llama": llama_base,
        "gemma3": tiny.save_model(
            root / "gemma3", Gemma3TextConfig(**(tiny.SIZES | GEMMA3)), tiny.tokenizer(chat=True), seed=45
        ),
        "qwen3": tiny.save_model(root / "qwen3", qwen, tiny.tokenizer(bos=False, chat=True), seed=43),
    }


@pytest.fixture(scope="session")
def write(tmp_path_factory, bases) -> Callable[..., Path]:
    """base, style, facts of the AV's contract → the folder of a LoRA pair whose AR's head has a bias."""

    def write(base: str, *, style: str = "chat", norms: bool = False, ar: dict | None = None, **facts) -> Path:
        folder = tmp_path_factory.mktemp(base)
        model = tiny.plain_model(bases[base])
        av = {"layer": 2, "norms": norms, "prompt_style": style, "provenance": {"pair_id": "one"}}
        tiny.lora_av(folder / "av", bases[base], model, **(av | facts))
        tiny.lora_ar(
            folder / "ar", bases[base], model, layer=2, blocks=3, **{"provenance": {"pair_id": "one"}, **(ar or {})}
        )
        return folder

    return write


@pytest.fixture(scope="session")
def loaded(write, full_folder) -> Callable[[str], NLAPair]:
    """name → a pair in float32."""

    @functools.cache
    def load(name: str) -> NLAPair:
        if name == "full":
            return NLAPair.from_pretrained(full_folder, contract=FULL)
        base, style = name.split("-")
        return NLAPair.from_pretrained(write(base, style=style, norms=base != "llama"))

    return load
