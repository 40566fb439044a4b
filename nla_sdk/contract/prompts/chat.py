"""A prompt through the tokenizer's chat template, and with BOS in front exactly as stated."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...errors import ContractMismatchError, first_line
from .tokens import encode, one_bos, plain_batch

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ..model import Contract

_STAND_IN = "\ue0a7"


def render(contract: Contract, tokenizer: PreTrainedTokenizerBase, content: str, *, half: str) -> str:
    """A prompt as one user message of the tokenizer's chat template, as text.

    The AV's ends in the opening of the answer (the generation prompt), the AR's in the end of the user's turn. The
    system message is the contract's; without one, what the template puts there by itself. `enable_thinking` is passed
    only where it is stated.

    Raises:
        ContractMismatchError: the tokenizer has no chat template, one that fails, or one that drops the system message.
    """
    key = "prompt_style" if half == "AV" else "ar.prompt_style"
    if not getattr(tokenizer, "chat_template", None):
        raise ContractMismatchError(
            f"{contract.source}: `{key}` is chat, but the tokenizer has no chat template. Load the tokenizer "
            f"of the instruction-tuned base ({contract.base_model}), or set `{key}: raw` if it was trained so."
        )
    messages = [{"role": "user", "content": content}]
    if contract.system is not None:
        messages.insert(0, {"role": "system", "content": contract.system})
    options: dict[str, Any] = {}
    if contract.enable_thinking is not None:
        options["enable_thinking"] = contract.enable_thinking
    try:
        text = str(
            tokenizer.apply_chat_template(messages, add_generation_prompt=half == "AV", tokenize=False, **options)
        )
    except Exception as error:  # a template is somebody's program, and raises what it likes
        raise ContractMismatchError(
            f"{contract.source}: the tokenizer's chat template fails on the {half} prompt ({type(error).__name__}: "
            f"{first_line(error)}). Load the tokenizer it was trained with (base model {contract.base_model})."
        ) from error
    said = (contract.system or "").strip()
    if said and text.count(said) <= content.count(said):  # the prompt itself may hold the words
        raise ContractMismatchError(
            f"{contract.source}: the tokenizer's chat template drops the `system` message. Load the tokenizer it was "
            f"trained with (base model {contract.base_model}), or take `system` out of the contract."
        )
    return text


def stand_in(text: str) -> str:
    """What stands for markers or explanation where a chat template is asked what it puts around them: a private
    character, repeated until `text` does not hold it."""
    found = _STAND_IN
    while found in text:
        found += _STAND_IN
    return found


def begun(
    contract: Contract, tokenizer: PreTrainedTokenizerBase, texts: list[str], *, chat: bool, bos: bool, half: str
) -> list[list[int]]:
    """Token ids of prompts' texts in one call of the tokenizer, with BOS in front exactly once or not at all.

    Raises:
        ContractMismatchError: there must be none, and the chat template writes one.
    """
    if not chat and bos:
        return encode(tokenizer, texts)
    rows, token = plain_batch(tokenizer, texts), getattr(tokenizer, "bos_token_id", None)
    if bos:
        return [one_bos(tokenizer, ids) for ids in rows]
    if token is not None and any(ids[:1] == [token] for ids in rows):
        where = "the tokenizer's chat template writes" if chat else "the template holds"
        raise ContractMismatchError(
            f"{contract.source}: `{'bos' if half == 'AV' else 'ar.bos'}` is false, but {where} BOS at the {half} "
            "prompt's beginning. Correct the one or the other."
        )
    return rows
