"""The AV's prompt, as text and as token ids, and its marker. The functions are methods of `Contract`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from ...errors import ContractMismatchError, MarkerError, UnstatedPromptError
from ..dialects import NEIGHBOURS
from ..refusals import needed
from ..releases.known import recognise
from ..values import MARKER_FIELD
from .chat import render
from .fields import filled
from .tokens import flat, neighbours, pieces, standing_alone

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ..model import Contract


def av_prompt(contract: Contract, fields: Mapping[str, str] | None = None) -> str:
    """The AV template with the marker and its fields in their places, before any chat template.

    Raises:
        ContractError: the contract has only the marker's token id; `verify` fills in the text.
        InputError: see `field_values`.
    """
    head, _, tail = needed(contract, "av_template").partition(MARKER_FIELD)
    number = 1 if contract.injection_markers == "any" else contract.injection_markers
    markers = needed(contract, "injection_char") * number
    return filled(contract, head, fields) + markers + filled(contract, tail, fields)


def require_style(contract: Contract) -> None:
    """Refuse an AV of which nobody says how its prompt is put to the model.

    Raises:
        UnstatedPromptError: shows both prompts as far as they are known without a tokenizer.
    """
    if contract.kind == "nla_model" and contract.role == "av" and contract.prompt_style is None:
        raise unstated_prompt(contract)


def unstated_prompt(contract: Contract, tokenizer: PreTrainedTokenizerBase | None = None) -> UnstatedPromptError:
    """The error that shows the prompt in both styles, through the tokenizer's chat template where there is one."""
    prompt = needed(contract, "av_template").replace(MARKER_FIELD, contract.injection_char or MARKER_FIELD)
    bos = getattr(tokenizer, "bos_token", None) or ""
    chat = "is the same text as one user message of the base's chat template"
    if tokenizer is not None and not getattr(tokenizer, "chat_template", None):
        chat = "is not possible: the tokenizer has no chat template"
    elif tokenizer is not None:
        try:
            chat = _shown(render(contract, tokenizer, prompt, half="AV"))
        except ContractMismatchError as error:
            chat = f"cannot be shown: the chat template fails ({type(error.__cause__ or error).__name__})"
    facts = {name: getattr(contract, name) for name in type(contract).model_fields}
    near = recognise(facts)[1]
    return UnstatedPromptError(
        f"{contract.source}: `prompt_style` is not stated, and a guess would give words of another prompt. "
        f"{near + '. ' if near else ''}Two are possible: raw: {_shown(bos + prompt)}; chat: {chat}. Say which one it "
        "was trained on: contract={'prompt_style': 'chat'} (nla: --contract prompt_style=chat), or `prompt_style:` in "
        "the file. The reference implementation and what descends from it use chat."
    )


def _shown(prompt: str) -> str:
    """A prompt in one line, its middle left out where it is long: the styles differ at its ends."""
    return repr(prompt if len(prompt) <= 420 else f"{prompt[:220]} […] {prompt[-180:]}")


def find_marker(contract: Contract, ids: Sequence[int], markers: int | None = None) -> int:
    """Position of the first marker in one prompt's ids (a list, array or tensor [n]).

    Args:
        markers: how many stand side by side; None: as many as the contract says, one where it says `any`.
    Raises:
        MarkerError: they are not there, or not between their two neighbours; or, unless the prompt has a field with
            free text, there are more. A silent miss would verbalise the marker character itself.
        ContractError: the contract does not know the marker's token id; `verify` derives it.
    """
    if markers is None:
        markers = 1 if contract.injection_markers == "any" else contract.injection_markers
    return marker_run(contract, flat(ids), needed(contract, "injection_token_id"), markers)


def marker_run(contract: Contract, tokens: list[int], marker: int, number: int) -> int:
    """`find_marker` of a known token: the first run of markers, which must be of exactly `number`."""
    shown = f"The marker {contract.injection_char!r} (token {marker})"
    count, times = tokens.count(marker), "once" if number == 1 else f"{number} times side by side"
    free = not {"question", "model_tag"}.isdisjoint(contract.fields)  # their text may hold it too
    first = tokens.index(marker) if count else 0
    run = next((length for length, token in enumerate(tokens[first:]) if token != marker), len(tokens) - first)
    if run != number or (count != number and not free):
        raise MarkerError(
            f"{shown} occurs {count} times in the prompt of {len(tokens)} tokens"
            f"{f', {run} of them first' if 0 < run < count else ''}; expected exactly {times}. Build the prompt with "
            "Contract.prompt."
        )
    both = (neighbours(tokens, first)[0], neighbours(tokens, first + number - 1)[1])
    for side, name, token in zip(("left", "right"), NEIGHBOURS, both, strict=True):
        expected = getattr(contract, name)
        if expected is not None and token != expected:
            raise MarkerError(
                f"{shown} at position {first} has {token} as its {side} neighbour; expected {expected}. Build the "
                "prompt with Contract.prompt."
            )
    return first


def marker_text(contract: Contract, tokenizer: PreTrainedTokenizerBase) -> str:
    """The marker's text: what the contract says, else what its token id stands for.

    Raises:
        ContractMismatchError: no text gives that token.
    """
    if contract.injection_char is not None:
        return contract.injection_char
    token = needed(contract, "injection_token_id")
    text, piece = str(tokenizer.decode([token])), cast(str | None, tokenizer.convert_ids_to_tokens(token))
    # Decoding may add a space or, byte by byte, spell the text otherwise than the vocabulary does; only what comes
    # back as this one token is the marker.
    for candidate in (text, text.strip(), piece):
        if candidate and standing_alone(tokenizer, candidate) == [token]:
            return candidate
    raise mismatch(contract, tokenizer, "The marker's token cannot be written as text", token, None)


def mismatch(
    contract: Contract, tokenizer: PreTrainedTokenizerBase, what: str, expected: Any, actual: Any
) -> ContractMismatchError:
    """The error for a tokenizer that is not the contract's: `expected` and `actual` are ids, one or more or None."""
    return ContractMismatchError(
        f"{contract.source}: {what}. Expected {pieces(tokenizer, expected)}, found {pieces(tokenizer, actual)}. "
        f"Load the tokenizer it was trained with (base model {contract.base_model}), or correct the contract."
    )
