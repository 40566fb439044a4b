"""Chat templates of the kinds that models have, each beside a plain account of what it writes for which message."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

Part = tuple[str, str, int | None]  # text, section, message
SPECIAL = ["<s>", "</s>", "<|open|>", "<|close|>", "<|end|>", "<|return|>", "<|message|>", "<|channel|>"]


def byte_level(template: str | None = None, merges: tuple[tuple[str, str], ...] = ()) -> PreTrainedTokenizerFast:
    """A token a byte, printed as GPT-2's are; merged where `merges` says so. No BOS is put before a text."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: at for at, token in enumerate([*alphabet, *map("".join, merges)])}
    core = Tokenizer(models.BPE(vocabulary, list(merges)))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens(SPECIAL)
    made = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="</s>")
    made.chat_template = template
    return made


@dataclass(frozen=True)
class Template:
    """A chat template; `parts` says what it writes, from its messages and whether an answer is opened."""

    name: str
    jinja: str
    parts: Callable[[list[dict[str, Any]], bool], list[Part]]


def _turns(header: str, footer: str, *, strip: bool, bos: str, opening: str, rename: bool = False):
    def parts(messages: list[dict[str, Any]], opened: bool) -> list[Part]:
        made: list[Part] = [(bos, "scaffold", None)]
        for at, one in enumerate(messages):
            role = "model" if rename and one["role"] == "assistant" else one["role"]
            content = one["content"].strip() if strip else one["content"]
            made += [(header.format(role), "header", at), (content, "content", at), (footer, "footer", at)]
        return [*made, (opening if opened else "", "scaffold", None)]

    return parts


CHATML = Template(
    "chatml",
    "{% for m in messages %}{{ '<|open|>' + m['role'] + '\n' + m['content'] + '<|close|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|open|>assistant\n' }}{% endif %}",
    _turns("<|open|>{}\n", "<|close|>\n", strip=False, bos="", opening="<|open|>assistant\n"),
)
STRIPPED = Template(
    "renamed roles, contents stripped, alternation enforced",
    "{{ '<s>' }}{% for m in messages %}"
    "{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}"
    "{{ '<|open|>' + ('model' if m['role'] == 'assistant' else m['role']) + '\n' + m['content'] | trim "
    "+ '<|close|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|open|>model\n' }}{% endif %}",
    _turns("<|open|>{}\n", "<|close|>\n", strip=True, bos="<s>", opening="<|open|>model\n", rename=True),
)
HEADED = Template(
    "headers of two special tokens",
    "{{ '<s>' }}{% for m in messages %}{{ '<|channel|>' + m['role'] + '<|message|>\n\n' + m['content'] | trim "
    "+ '<|end|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|channel|>assistant<|message|>\n\n' }}{% endif %}",
    _turns(
        "<|channel|>{}<|message|>\n\n", "<|end|>", strip=True, bos="<s>", opening="<|channel|>assistant<|message|>\n\n"
    ),
)


def _channelled(messages: list[dict[str, Any]], opened: bool) -> list[Part]:
    made: list[Part] = [("<|open|>system<|message|>Be brief.<|end|>", "scaffold", None)]
    for at, one in enumerate(messages):
        channel = f"<|channel|>{one['channel']}" if one.get("channel") else ""
        last = at == len(messages) - 1 and one["role"] == "assistant"
        made += [(f"<|open|>{one['role']}{channel}<|message|>", "header", at), (one["content"], "content", at)]
        made += [("<|return|>" if last else "<|end|>", "footer", at)]
    return [*made, ("<|open|>assistant" if opened else "", "scaffold", None)]


CHANNELLED = Template(
    "channels, a default system turn, another end of the last answer",
    "{{ '<|open|>system<|message|>Be brief.<|end|>' }}{% for m in messages %}{{ '<|open|>' + m['role'] }}"
    "{% if m['channel'] %}{{ '<|channel|>' + m['channel'] }}{% endif %}{{ '<|message|>' + m['content'] }}"
    "{{ '<|return|>' if loop.last and m['role'] == 'assistant' else '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|open|>assistant' }}{% endif %}",
    _channelled,
)
THINKING = (
    "{% for m in messages %}{% set text = m['content'] %}"
    "{% if m['role'] == 'assistant' and '</think>' in text %}{% set text = text.split('</think>')[-1].lstrip('\n') %}"
    "{% endif %}{{ '<|open|>' + m['role'] + '\n' }}"
    "{% if m['role'] == 'assistant' and loop.last %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
    "{{ text + '<|close|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|open|>assistant\n' }}"
    "{% if enable_thinking is defined and enable_thinking is false %}"
    "{{ '<think>\n\n</think>\n\n' }}{% endif %}{% endif %}"
)
"""Drops the thinking of earlier answers, and opens the last one with an empty one."""
FOLDED = (
    "{{ '<s>' }}{% if messages[0]['role'] == 'system' %}{% set first = messages[0]['content'] + '\n\n' %}"
    "{% set rest = messages[1:] %}{% else %}{% set first = '' %}{% set rest = messages %}{% endif %}"
    "{% for m in rest %}{{ '<|open|>' + m['role'] + '\n' + (first if loop.first else '') + m['content'] "
    "+ '<|close|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|open|>model\n' }}{% endif %}"
)
"""Writes the system message into the user's first turn."""
PLAIN = (CHATML, STRIPPED, HEADED, CHANNELLED)
