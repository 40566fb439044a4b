"""Tiny random bases as the census has them: chat templates like theirs, markers that are one token, BOS or none.

Nothing here imports nla_sdk.
"""

from __future__ import annotations

import functools
from pathlib import Path

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    PretrainedConfig,
    PreTrainedTokenizerFast,
    Qwen3Config,
)

from tests import tiny

from . import templates

D = tiny.D_MODEL
BLOCKS = 5
SIZES = {
    "hidden_size": D,
    "intermediate_size": 128,
    "num_hidden_layers": BLOCKS,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "max_position_embeddings": 1024,
    "tie_word_embeddings": False,
}
SPECIAL = ("<pad>", "<unk>", "<bos>", "<|im_start|>", "<|im_end|>")
TAGS = ("<explanation>", "</explanation>")
LIKELY = {"<|im_end|>": 1.4, "</explanation>": 1.4, "<explanation>": 1.3}
"""Tokens that random weights shall write now and then, and how much longer their rows in the lm_head are."""
SHARP = ("q_norm.weight", "k_norm.weight", "q_proj.weight", "k_proj.weight")

_SYSTEM = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."
_TURNS = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
)
_OPENING = "{% if add_generation_prompt %}<|im_start|>assistant\n"
# One system message is always there; thinking is unknown.
QWEN_2_5 = (
    f"{{% if messages[0]['role'] != 'system' %}}<|im_start|>system\n{_SYSTEM}<|im_end|>\n{{% endif %}}{_TURNS}"
    f"{_OPENING}{{% endif %}}"
)
# Nothing is added unless thinking is turned off.
QWEN_3 = (
    f"{_TURNS}{_OPENING}{{% if enable_thinking is defined and enable_thinking is false %}}<think>\n\n</think>\n\n"
    "{% endif %}{% endif %}"
)
# Ends in an open line unless thinking is turned off.
QWEN_3_6 = (
    f"{_TURNS}{_OPENING}{{% if enable_thinking is defined and enable_thinking is false %}}<think>\n\n</think>\n\n"
    "{% else %}<think>\n{% endif %}{% endif %}"
)
# Writes BOS itself, and a header with a fixed date.
LLAMA_3 = f"<bos><|im_start|>system\nToday Date: 26 Jul 2024<|im_end|>\n{_TURNS}{_OPENING}{{% endif %}}"
GEMMA = f"<bos>{_TURNS}{_OPENING}{{% endif %}}"
# Has a BOS token and neither writes nor wants it.
PHI_4 = f"{_TURNS}{_OPENING}{{% endif %}}"


@functools.cache
def _vocabulary() -> Tokenizer:
    """A byte-level BPE made from the census's prompts: its neighbours and markers merge as those of real ones do."""
    core = Tokenizer(models.BPE(unk_token="<unk>"))
    split = Regex(r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(split, "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=620,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator([*templates.ALL.values(), " ? ? ? \n" * 40, *templates.TEXTS] * 2, trainer)
    return core


def tokenizer(chat: str | None, *, bos: bool = False, adds_bos: bool | None = None) -> PreTrainedTokenizerFast:
    """The vocabulary with a chat template; `bos`: it has a BOS token and (unless `adds_bos` says not) writes it."""
    core = Tokenizer.from_str(_vocabulary().to_str())
    core.add_tokens([AddedToken(text, normalized=False) for text in (*templates.MARKERS, *TAGS)])
    if bos if adds_bos is None else adds_bos:
        core.post_processor = processors.TemplateProcessing(
            single="<bos> $A", special_tokens=[("<bos>", core.token_to_id("<bos>"))]
        )
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token="<|im_end|>",
        pad_token="<pad>",
        unk_token="<unk>",
        additional_special_tokens=["<|im_start|>"],
        **({"bos_token": "<bos>"} if bos else {}),
    )
    wrapped.chat_template = chat
    return wrapped


def _config(kind: str, tokens: PreTrainedTokenizerFast, blocks: int | None = None) -> PretrainedConfig:
    ids = {
        "vocab_size": len(tokens),
        "pad_token_id": tokens.pad_token_id,
        "eos_token_id": tokens.eos_token_id,
        "bos_token_id": tokens.bos_token_id,
    }
    sizes = SIZES | ids | ({"num_hidden_layers": blocks} if blocks else {})
    count = sizes["num_hidden_layers"]
    if kind == "gemma4":
        return tiny.gemma_config(**ids, vocab_size_per_layer_input=len(tokens))
    if kind == "gemma3":
        layer_types = ["sliding_attention" if at % 2 == 0 else "full_attention" for at in range(count)]
        return Gemma3TextConfig(
            **(sizes | {"tie_word_embeddings": True, "sliding_window": 32, "query_pre_attn_scalar": 32}),
            layer_types=layer_types,
        )
    if kind == "llama":
        return tiny.llama_config(**sizes)
    return Qwen3Config(**sizes)


KINDS = {
    "qwen2.5": ("qwen", {"chat": QWEN_2_5}),
    "qwen3": ("qwen", {"chat": QWEN_3}),
    "qwen3.6": ("qwen", {"chat": QWEN_3_6}),
    "llama": ("llama", {"chat": LLAMA_3, "bos": True}),
    "phi4": ("llama", {"chat": PHI_4, "bos": True, "adds_bos": False}),
    "gemma3": ("gemma3", {"chat": GEMMA, "bos": True}),
    "gemma4": ("gemma4", {"chat": None, "bos": True}),
}


def tokens_of(kind: str) -> PreTrainedTokenizerFast:
    return tokenizer(**KINDS[kind][1])


def save_checkpoint(folder: Path, kind: str, seed: int, blocks: int | None = None) -> Path:
    """A whole checkpoint of a kind: config, weights that write tags and ends now and then, tokenizer."""
    tokens = tokens_of(kind)
    model = tiny.randomize(AutoModelForCausalLM.from_config(_config(KINDS[kind][0], tokens, blocks)), seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():  # attention that looks at few tokens, so at the marker too
            if name.endswith(SHARP):
                parameter *= 2.0
        for token, factor in LIKELY.items():
            model.get_output_embeddings().weight[tokens.convert_tokens_to_ids(token)] *= factor
    model.generation_config.eos_token_id = tokens.eos_token_id
    model.save_pretrained(folder)
    tokens.save_pretrained(folder)
    return folder


class Bases:
    """Bases on disk, each made when it is first asked for."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def __getitem__(self, kind: str) -> Path:
        folder = self.root / f"tiny-{kind}"
        if not folder.exists():
            save_checkpoint(folder, kind, seed=1000 + sorted(KINDS).index(kind))
        return folder
