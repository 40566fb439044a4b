"""A chat template that turns one user message into an AV's prompt, token for token.

A reader of the reference layout knows one way to a prompt: the template's text as the only user message, the chat
template with its generation prompt, tokenised in that step. What the pair's prompt has beside that text (nothing but
BOS where it is raw; a system message, a word on thinking, the beginning of the answer where it is a chat) goes into the
chat template, and what comes out is compared with the tokens that the pair itself uses.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..contract import Contract
from ..contract.prompts.tokens import flat, pieces
from ..errors import ExportError, first_line

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_RAW = (
    "{% if messages | length != 1 or messages[0]['role'] != 'user' %}"
    "{{ raise_exception('This model reads one user message: its prompt is raw text.') }}{% endif %}"
    "{{ messages[0]['content'] }}"
)


def with_template(
    tokenizer: PreTrainedTokenizerBase, contract: Contract, prompt: str, ids: Sequence[int]
) -> PreTrainedTokenizerBase:
    """A copy of the tokenizer whose chat template makes `ids` of `prompt`.

    Args:
        prompt: the AV's template with the marker in it.
        ids: the tokens of the whole prompt, as the pair uses them.
    Raises:
        ExportError: no template does; shows where the tokens part.
    """
    tokenizer = copy.deepcopy(tokenizer)
    template = _RAW if contract.prompt_style == "raw" else _around(str(tokenizer.chat_template), contract)
    bos = getattr(tokenizer, "bos_token", None)
    found = None
    for tokenizer.chat_template in [template, *(["{{ bos_token }}" + template] if bos else [])]:
        found = rendered(tokenizer, prompt)
        if found == list(ids):
            return tokenizer
    raise ExportError(
        "The reference layout cannot carry the AV's prompt: through a chat template, tokenised in one step, it becomes "
        f"{_difference(tokenizer, found or [], ids)}."
    )


def rendered(tokenizer: PreTrainedTokenizerBase, prompt: str) -> list[int]:
    """The tokens that a reader of the reference layout makes of an AV's prompt.

    Raises:
        ExportError: the chat template fails on it.
    """
    try:
        message = [{"role": "user", "content": prompt}]
        return flat(tokenizer.apply_chat_template(message, add_generation_prompt=True, tokenize=True))
    except Exception as error:  # a template is somebody's program, and raises what it likes
        raise ExportError(
            f"The tokenizer's chat template fails on the AV's prompt ({type(error).__name__}: {first_line(error)})."
        ) from error


def _around(template: str, contract: Contract) -> str:
    """The base's chat template with what the contract passes to it, or puts behind it, as part of it."""
    before = ""
    if contract.enable_thinking is not None:
        before += f"{{% set enable_thinking = {str(contract.enable_thinking).lower()} %}}"
    if contract.system is not None:
        system = f"{{'role': 'system', 'content': {_text(contract.system)}}}"
        before += f"{{% if messages[0]['role'] != 'system' %}}{{% set messages = [{system}] + messages %}}{{% endif %}}"
    if contract.prefill is None:
        return before + template
    # Jinja takes one newline off a template's end, which is no longer there once something stands behind it.
    behind = f"{{% if add_generation_prompt %}}{{{{ {_text(contract.prefill)} }}}}{{% endif %}}"
    return before + template.removesuffix("\n") + behind


def _text(value: str) -> str:
    """A text as Jinja writes it: JSON, with no character that could end an expression."""
    return json.dumps(value, ensure_ascii=False).replace("{", "\\u007b").replace("}", "\\u007d")


def _difference(tokenizer: PreTrainedTokenizerBase, found: Sequence[int], ids: Sequence[int]) -> str:
    both = list(zip(found, ids, strict=False))
    at = next((position for position, (ours, theirs) in enumerate(both) if ours != theirs), len(both))
    near = slice(max(0, at - 1), at + 3)
    return (
        f"{pieces(tokenizer, list(found[near]))} at position {near.start}, where the pair has "
        f"{pieces(tokenizer, list(ids[near]))}"
    )
