"""A tiny random language model and its tokenizer, for the scripts that need one; wants torch and transformers."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

WORDS = ["the", "a", "cat", "dog", "bird", "tree", "sat", "ran", "flew", "happy", "sad", "old", "big"]
POSITIVE = ["the happy cat sat", "a happy dog ran", "the happy bird flew", "a happy old dog", "the happy big tree"]
NEGATIVE = [text.replace("happy", "sad") for text in POSITIVE]
D_MODEL, BLOCKS = 8, 3


def tokenizer() -> PreTrainedTokenizerFast:
    """One token a word."""
    vocabulary = {word: at for at, word in enumerate(["[UNK]", "[PAD]", "[BOS]", *WORDS])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    special = {"unk_token": "[UNK]", "pad_token": "[PAD]", "bos_token": "[BOS]", "eos_token": "[BOS]"}
    return PreTrainedTokenizerFast(tokenizer_object=words, **special)


def llama() -> LlamaForCausalLM:
    """RMSNorm, as most models."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(WORDS) + 3,
        hidden_size=D_MODEL,
        intermediate_size=16,
        num_hidden_layers=BLOCKS,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=32,
        initializer_range=0.5,
    )
    return LlamaForCausalLM(config).eval()


def gpt2() -> GPT2LMHeadModel:
    """LayerNorm."""
    torch.manual_seed(0)
    size = len(WORDS) + 3
    config = GPT2Config(
        vocab_size=size, n_positions=32, n_embd=D_MODEL, n_layer=BLOCKS, n_head=2, initializer_range=0.5
    )
    return GPT2LMHeadModel(config).eval()


def save(model: torch.nn.Module, folder: Path) -> Path:
    """The model and its tokenizer in a folder."""
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder
