"""Contracts and tokenizers that the tests of the contract share."""

import copy

from hypothesis import settings
from tokenizers import Tokenizer, decoders, models, processors
from transformers import PreTrainedTokenizerFast

from nla_sdk.contract import DIALECTS

quick = settings(max_examples=60, deadline=None, database=None)

AV = {
    "kind": "nla_model",
    "role": "av",
    "base_model": "owner/lm",
    "d_model": 1536,
    "layer": 23,
    "injection_scale": "sqrt_d_model",
    "injection_char": "㊗",
    "prompt_style": "raw",
    "av_template": "Vector: <concept>{injection_char}</concept>",
}
AR = {
    "kind": "nla_model",
    "role": "ar",
    "base_model": "owner/lm",
    "d_model": 1536,
    "layer": 23,
    "ar_num_blocks": 18,
    "ar_template": "Summary of: <text>{explanation}</text> <summary>",
}
# What a file of another dialect does not say, so that its own name for the depth may stand alone.
READ = {"ar_final_norm": "dropped", "ar_bos": True}


def put(contract: dict, key: str, value) -> dict:
    """A copy with `key` (also `block.key`) set, and the attribute's canonical key gone."""
    contract = copy.deepcopy(contract)
    attribute = next((name for name, keys in DIALECTS.items() if key in keys), key)
    contract.pop(attribute, None)
    block, _, leaf = key.rpartition(".")
    (contract.setdefault(block, {}) if block else contract)[leaf] = value
    return contract


def drop(contract: dict, *names: str) -> dict:
    return {key: value for key, value in contract.items() if key not in names}


SPECIAL = ["<unk>", "<bos>", "<eos>", "<turn>"]
CHAT = "{% for m in messages %}<turn>{{ m['role'] }}\n{{ m['content'] }}<turn>\n{% endfor %}{{ '<turn>model\\n' }}"
CHARACTERS = [chr(code) for code in range(32, 127)] + ["\n", "㊗"]


def tokenizer(bos="<bos>", *, adds="$A", chat=None, merges=(), characters=CHARACTERS, unk="<unk>"):
    """One token a character, plus `merges` (pairs) and specials; `adds` is what is put around every text."""
    tokens = [*SPECIAL, *characters, *("".join(pair) for pair in merges)]
    vocab = {token: index for index, token in enumerate(tokens)}
    backend = Tokenizer(models.BPE(vocab=vocab, merges=list(merges), unk_token=unk))
    backend.decoder = decoders.Fuse()
    backend.add_special_tokens(SPECIAL)
    backend.post_processor = processors.TemplateProcessing(
        single=adds, special_tokens=[(token, vocab[token]) for token in SPECIAL]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token=bos, unk_token=unk, eos_token="<eos>", chat_template=chat
    )


def ids_of(live, text):
    return live(text, add_special_tokens=False)["input_ids"]
