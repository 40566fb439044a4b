"""Builders of tiny real things on disk: tokenizers, random Gemma 4 and Llama models, pairs in every released layout.

Weights are random but scaled so that every block matters. Nothing here imports nla_sdk.
"""

from __future__ import annotations

import copy
import functools
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import torch
import yaml
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, processors
from transformers import (
    AutoModelForCausalLM,
    Gemma4Config,
    Gemma4TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

MARKER = "㊗"
D_MODEL, VOCABULARY, RANK = 64, 320, 8
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": D_MODEL,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": 2,
}
"""Of a two-block model of whatever kind, as its config takes them."""
GEMMA_BLOCKS, FIRST_SHARED = 6, 3
LLAMA_BLOCKS, LLAMA_LAYER = 4, 1
AV_TEMPLATE = "What does the vector <concept>{injection_char}</concept> hold? Say it:\n"
AR_TEMPLATE = "Summary of the following text: <text>{explanation}</text> <summary>"
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}[{{ message['role'] }}]\n{{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}[model]\n{% endif %}"
)
ATTENTION = r".*\.layers\.\d+\.self_attn\.(q_proj|k_proj|v_proj|o_proj)"
EVERY_LINEAR = r".*\.layers\.\d+\.(self_attn|mlp)\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"


def random(*shape: int, seed: int, scale: float = 1.0) -> torch.Tensor:
    """Normal numbers that depend on the seed only, not on the global generator."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale


# --- tokenizers -------------------------------------------------------------------------------------------------
def tokenizer(*, bos: bool = True, chat: bool = False, marker: bool = True) -> PreTrainedTokenizerFast:
    """A character BPE with two-letter merges, 320 tokens. With `chat`, the chat template writes BOS itself."""
    tokens = ["<pad>", "<eos>", "<bos>" if bos else "<none>", "<unk>"]
    tokens += [chr(code) for code in range(32, 127)] + ["\n"]
    pairs = [(a, b) for a in "bcdfghjklmnpqrstvwxyz BCDFGHJKLMNPQRSTVWXYZ0123456789" for b in "aeiou"]
    merges = pairs[: VOCABULARY - len(tokens) - 1]
    vocabulary = {token: at for at, token in enumerate([*tokens, *map("".join, merges)])}
    core = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>"))
    core.decoder = decoders.Fuse()
    core.add_special_tokens(["<pad>", "<eos>", "<unk>", *(["<bos>"] if bos else [])])
    core.add_tokens([AddedToken(MARKER if marker else "<more>", normalized=False)])
    if bos:
        core.post_processor = processors.TemplateProcessing(
            single="<bos> $A", special_tokens=[("<bos>", vocabulary["<bos>"])]
        )
    special = {"bos_token": "<bos>"} if bos else {}
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token="<eos>", pad_token="<pad>", unk_token="<unk>", **special
    )
    if chat:
        wrapped.chat_template = CHAT_TEMPLATE
    return wrapped


# --- models -----------------------------------------------------------------------------------------------------
def gemma_config(**text) -> Gemma4Config:
    """Gemma 4 in miniature: per-layer embeddings, KV sharing, sliding and full attention, double-wide MLP, softcap."""
    sizes = {
        "vocab_size": VOCABULARY,
        "hidden_size": D_MODEL,
        "intermediate_size": 128,
        "num_hidden_layers": GEMMA_BLOCKS,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 64,
        "global_head_dim": 128,
        "sliding_window": 8,
        "layer_types": [f"{kind}_attention" for kind in ("sliding", "full", "sliding", "sliding", "sliding", "full")],
        "num_kv_shared_layers": GEMMA_BLOCKS - FIRST_SHARED,
        "use_double_wide_mlp": True,
        "hidden_size_per_layer_input": 64,
        "vocab_size_per_layer_input": VOCABULARY,
        "final_logit_softcapping": 30.0,
        "max_position_embeddings": 1024,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "bos_token_id": 2,
    }
    return Gemma4Config(text_config=Gemma4TextConfig(**(sizes | text)), vision_config=None, audio_config=None)


def e2b_config() -> Gemma4Config:
    """Gemma-4-E2B's text model in full size: for the meta device only."""
    return gemma_config(
        vocab_size=262_144,
        vocab_size_per_layer_input=262_144,
        hidden_size=1536,
        intermediate_size=6144,
        num_hidden_layers=35,
        num_attention_heads=8,
        num_key_value_heads=1,
        head_dim=256,
        global_head_dim=512,
        sliding_window=512,
        layer_types=["full_attention" if (at + 1) % 5 == 0 else "sliding_attention" for at in range(35)],
        num_kv_shared_layers=20,
        hidden_size_per_layer_input=256,
    )


def llama_config(blocks: int = LLAMA_BLOCKS, **sizes) -> LlamaConfig:
    defaults = {
        "vocab_size": VOCABULARY,
        "hidden_size": D_MODEL,
        "intermediate_size": 128,
        "num_hidden_layers": blocks,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 1024,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "bos_token_id": 2,
    }
    return LlamaConfig(**(defaults | sizes))


def randomize(model: torch.nn.Module, seed: int, embedding: float = 0.12) -> torch.nn.Module:
    """Weights at which activations keep their size from block to block and no part is idle."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim < 2:
                parameter.copy_(1.0 + 0.2 * noise)
            elif "embed" in name:
                parameter.copy_(noise * embedding)
            else:
                parameter.copy_(noise * 1.5 / math.sqrt(parameter.shape[-1]))
    return model


def save_model(folder: Path, config, tokens: PreTrainedTokenizerFast, seed: int) -> Path:
    model = randomize(AutoModelForCausalLM.from_config(config), seed)
    model.save_pretrained(folder)
    tokens.save_pretrained(folder)
    return folder


def plain_model(folder: Path):
    """The model as transformers loads it, in fp32 and eval mode: a copy of what is read once while its files stay."""
    files = sorted(file for file in folder.iterdir() if file.is_file())
    return copy.deepcopy(
        _read(folder, tuple((str(file), file.stat().st_mtime_ns, file.stat().st_size) for file in files))
    )


@functools.lru_cache(maxsize=8)
def _read(folder: Path, files: tuple[tuple[str, int, int], ...]):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


# --- halves -----------------------------------------------------------------------------------------------------
def lora_tensors(model: torch.nn.Module, pattern: str, seed: int, rank: int = RANK) -> dict[str, torch.Tensor]:
    """Random A and B, under PEFT's file names, for every module whose path matches `pattern` in full."""
    tensors = {}
    modules = [(name, module) for name, module in model.named_modules() if re.fullmatch(pattern, name)]
    for at, (name, module) in enumerate(modules):
        path = f"base_model.model.{name}"
        a, b = (rank, module.in_features), (module.out_features, rank)
        tensors[f"{path}.lora_A.weight"] = random(*a, seed=seed + 2 * at, scale=1 / math.sqrt(module.in_features))
        tensors[f"{path}.lora_B.weight"] = random(*b, seed=seed + 2 * at + 1, scale=0.1)
    return tensors


def write_adapter(folder: Path, tensors: Mapping[str, torch.Tensor], pattern: str, **config) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    described = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "tiny",
        "r": RANK,
        "lora_alpha": 2 * RANK,
        "lora_dropout": 0.05,
        "target_modules": pattern,
        "bias": "none",
        "inference_mode": True,
    }
    (folder / "adapter_config.json").write_text(json.dumps(described | config))
    save_file(dict(tensors), folder / "adapter_model.safetensors", metadata={"format": "pt"})
    return folder


def rename_tensors(folder: Path, rename: Callable[[str], str]) -> Path:
    """Change the names of an adapter's tensors in place."""
    file = folder / "adapter_model.safetensors"
    save_file({rename(key): tensor for key, tensor in load_file(file).items()}, file, metadata={"format": "pt"})
    return folder


def write_sidecar(folder: Path, *drop: str, **changes) -> Path:
    """Write `nla_meta.yaml`, or change the one that is there."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "nla_meta.yaml"
    old = yaml.safe_load(file.read_text(encoding="utf-8")) if file.exists() else {}
    new = {key: value for key, value in (old | changes).items() if key not in drop}
    file.write_text(yaml.safe_dump(new, allow_unicode=True), encoding="utf-8")
    return folder


def lora_av(
    folder: Path, base: Path, model, *, layer: int, seed: int = 100, norms: bool = False, rank: int = RANK, **contract
) -> Path:
    """An AV as released: LoRA on every linear layer; with `norms`, RMSNorms in `modules_to_save` too."""
    tensors = lora_tensors(model, EVERY_LINEAR, seed, rank)
    saved = ["input_layernorm", "post_attention_layernorm", "q_norm"] if norms else []
    for at, (name, module) in enumerate(model.named_modules()):
        if name.rpartition(".")[2] in saved:
            tensors[f"base_model.model.{name}.weight"] = 1.0 + random(
                *module.weight.shape, seed=seed + 5000 + at, scale=0.5
            )
    write_adapter(folder, tensors, EVERY_LINEAR, modules_to_save=saved or None, r=rank, lora_alpha=2 * rank)
    facts = {
        "kind": "nla_model",
        "role": "av",
        "base_model": str(base),
        "d_model": D_MODEL,
        "layer": layer,
        "injection_char": MARKER,
        "injection_scale": "sqrt_d_model",
        "av_template": AV_TEMPLATE,
        "prompt_style": "raw",
        "max_new_tokens": 12,
        "provenance": {"pair_id": f"tiny-{base.name}-{layer}"},
    }
    return write_sidecar(folder, **(facts | contract))


def lora_ar(
    folder: Path,
    base: Path,
    model,
    *,
    layer: int,
    blocks: int,
    seed: int = 9000,
    rank: int = RANK,
    d_model: int = D_MODEL,
    **contract,
) -> Path:
    """An AR as released: LoRA on the attention of ALL blocks, though only `blocks` run, and `linear_head.pt`."""
    tensors = lora_tensors(model, ATTENTION, seed, rank)
    write_adapter(folder, tensors, ATTENTION, r=rank, lora_alpha=2 * rank)
    weight = random(d_model, d_model, seed=seed + 1, scale=1 / math.sqrt(d_model))
    head = {"weight": weight, "bias": random(d_model, seed=seed + 2)}
    torch.save(head, folder / "linear_head.pt")
    facts = {
        "kind": "nla_model",
        "role": "ar",
        "base_model": str(base),
        "d_model": d_model,
        "layer": layer,
        "ar_template": AR_TEMPLATE,
        "ar_num_blocks": blocks,
        "head_bias": True,
        "provenance": {"pair_id": f"tiny-{base.name}-{layer}"},
    }
    return write_sidecar(folder, **(facts | contract))


def lora_pair(folder: Path, base: Path, model, *, layer: int, blocks: int, norms: bool = False) -> Path:
    """`folder/av` and `folder/ar`."""
    lora_av(folder / "av", base, model, layer=layer, norms=norms)
    lora_ar(folder / "ar", base, model, layer=layer, blocks=blocks)
    return folder


def centre(folder: Path, mean: torch.Tensor, norm: float, baseline: float) -> Path:
    """Make a pair a centred one, in place."""
    for half in ("av", "ar"):
        save_file({"mean": mean}, folder / half / "activation_mean.safetensors")
        facts = {"activation_mean": "activation_mean.safetensors", "centred_norm": norm, "baseline_mse": baseline}
        write_sidecar(folder / half, **facts)
    return folder


def full_pair(folder: Path, source: Path) -> Path:
    """A reference release: two whole Llama checkpoints, the AR truncated and without final norm and lm_head."""
    extraction = {"layer_index": LLAMA_LAYER, "d_model": D_MODEL, "injection_scale": "150", "mse_scale": "sqrt_d_model"}
    tokens = tokenizer(chat=True)
    save_model(folder / "av", llama_config(), tokens, seed=21)
    write_sidecar(
        folder / "av",
        kind="nla_model",
        role="actor",
        base_checkpoint=str(source),
        extraction=extraction,
        tokens={"injection_char": MARKER, "injection_token_id": tokens.convert_tokens_to_ids(MARKER)},
        prompt_templates={"actor": AV_TEMPLATE},
        prompt_style="chat",
        max_new_tokens=12,
        provenance={"pair_id": "tiny-full"},
    )
    save_model(folder / "ar", llama_config(LLAMA_LAYER + 1), tokens, seed=22)
    weights = folder / "ar" / "model.safetensors"
    kept = {k: v for k, v in load_file(weights).items() if k not in ("model.norm.weight", "lm_head.weight")}
    save_file(kept, weights, metadata={"format": "pt"})
    save_file({"weight": random(D_MODEL, D_MODEL, seed=23, scale=1 / 8)}, folder / "ar" / "value_head.safetensors")
    write_sidecar(
        folder / "ar",
        kind="nla_model",
        role="critic",
        base_checkpoint=str(source),
        extraction=extraction | {"injection_scale": None},
        prompt_templates={"critic": AR_TEMPLATE},
        critic={"num_hidden_layers": LLAMA_LAYER},
        ar={"bos": True, "final_norm": "dropped"},  # which the reference's own sidecars do not say
        provenance={"pair_id": "tiny-full"},
    )
    return folder


# --- an AV whose every word is foreseeable ------------------------------------------------------------------------
def scripted_av(folder: Path, base: Path, scripts: Mapping[str, Iterable[str]]) -> Path:
    """A full-checkpoint AV that, given the activation `word_vector(folder, start)`, writes the words of that script.

    Its blocks add nothing and its lm_head maps each word to its successor. Words that occur in several scripts must be
    followed by the same word in all of them; `<eos>` ends an output.
    """
    follows: dict[str, str] = {}
    for start, words in scripts.items():
        words = list(words)
        for word, successor in zip([start, *words], words, strict=False):
            assert follows.setdefault(word, successor) == successor, f"{word} has two successors"
    words = sorted({*follows, *follows.values()} - {"<eos>"})
    vocabulary = {word: at for at, word in enumerate(["<unk>", "<eos>", "say", MARKER, *words])}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    from tokenizers import pre_tokenizers

    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.add_special_tokens(["<unk>", "<eos>"])
    tokens = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<eos>", unk_token="<unk>")
    config = llama_config(1, vocab_size=len(vocabulary), tie_word_embeddings=False, bos_token_id=None)
    model = randomize(LlamaForCausalLM(config), seed=31)
    embeddings = torch.nn.functional.normalize(random(len(vocabulary), D_MODEL, seed=32), dim=-1)
    with torch.no_grad():
        block = model.model.layers[0]
        block.self_attn.o_proj.weight.zero_()
        block.mlp.down_proj.weight.zero_()
        model.model.norm.weight.fill_(1.0)
        model.model.embed_tokens.weight.copy_(embeddings)
        model.lm_head.weight.zero_()
        for word, successor in follows.items():
            model.lm_head.weight[vocabulary[successor]] += embeddings[vocabulary[word]]
    model.save_pretrained(folder)
    tokens.save_pretrained(folder)
    return write_sidecar(
        folder,
        kind="nla_model",
        role="av",
        base_model=str(base),
        d_model=D_MODEL,
        layer=0,
        injection_char=MARKER,
        injection_scale="sqrt_d_model",
        av_template="say {injection_char}",
        prompt_style="raw",
        max_new_tokens=10,
    )


def word_vector(folder: Path, word: str) -> torch.Tensor:
    """The embedding of a word in a scripted AV."""
    vocabulary = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
    return load_file(folder / "model.safetensors")["model.embed_tokens.weight"][vocabulary[word]]
