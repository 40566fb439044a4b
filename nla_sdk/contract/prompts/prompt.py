"""The AV's prompt whole: template, markers, fields, chat, BOS and the beginning of the answer, as token ids."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...errors import ContractError, ContractMismatchError, InputError, MarkerError
from ..refusals import needed, unstated
from ..values import MARKER_FIELD
from .av import marker_run, marker_text, unstated_prompt
from .chat import begun, render, stand_in
from .fields import filled, require_declared
from .tokens import control_tokens, plain, standing_alone

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ..model import Contract

# Who says a `prompt_style` without meaning by it that BOS is put where there is one: that is what the key means in our
# own files, and what others' files and releases mean must be said.
_SAYS_NOTHING_OF_BOS = {"raw": ("given", "files"), "chat": ("given", "files", "release")}


@dataclass(frozen=True)
class Prompt:
    """One prompt's token ids, and where in it the vectors go.

    Attributes:
        ids: of the whole prompt, BOS and the beginning of the answer among them.
        positions: of the markers, consecutive; as many as there are vectors.
    """

    ids: tuple[int, ...]
    positions: tuple[int, ...]

    @property
    def marker(self) -> int:
        """Position of the first marker: everything before it is the same whatever the vectors are."""
        return self.positions[0]


def prompt(
    contract: Contract,
    tokenizer: PreTrainedTokenizerBase,
    *,
    markers: int | None = None,
    fields: Mapping[str, str] | None = None,
) -> Prompt:
    """The AV's prompt as token ids, and the markers' positions in it.

    The marker's text is repeated `markers` times in the template's {injection_char}. What stands in a field is data:
    braces in it are text, and a question that holds the marker's own token, behind the markers, changes nothing. One
    that holds a control token of the tokenizer (`<|im_end|>`) is refused: it would end the user's turn.

    Args:
        markers: how many vectors there are; None: as many as the contract says, one where it says `any`.
        fields: texts of the declared fields, from `field_values`; what is lacking becomes its default.
    Raises:
        UnstatedPromptError, UnstatedFactError: whether it is raw or chat, or begins with BOS, is not stated.
        ContractMismatchError: the tokenizer has no chat template, one that fails, or no BOS where one is stated.
        MarkerError: the markers are not there as one run between their neighbours.
        UnseenValueError, InputError: a field's value, or the number of markers, is not what was trained.
    Example:
        >>> oracle.prompt(tokenizer, markers=3, fields=oracle.field_values(layer=9, question="Which language?"))
        ... # doctest: +SKIP
        Prompt(ids=(151644, 872, …), positions=(7, 8, 9))
    """
    if contract.prompt_style is None:
        raise unstated_prompt(contract, tokenizer)
    number, marker = _number(contract, markers), marker_text(contract, tokenizer)
    before, ids = prompt_tokens(contract, tokenizer, marker * number, fields)
    token = contract.injection_token_id
    if token is None:  # not verified yet
        token = standing_alone(tokenizer, marker)[0]
    if token in plain(tokenizer, before):
        raise MarkerError(
            f"The marker {marker!r} (token {token}) also stands in the text before its place, {before[-60:]!r}, so "
            "which of them is meant cannot be told. Word that text otherwise."
        )
    first = marker_run(contract, ids, token, number)
    return Prompt(tuple(ids), tuple(range(first, first + number)))


def prompt_tokens(
    contract: Contract, tokenizer: PreTrainedTokenizerBase, markers: str, fields: Mapping[str, str] | None
) -> tuple[str, list[int]]:
    """The prompt's text up to its markers, and the ids of the whole; the markers are not looked for."""
    before, text = _texts(contract, tokenizer, markers, fields)
    chat, bos = contract.prompt_style == "chat", begins_with_bos(contract, tokenizer, text)
    return before, begun(contract, tokenizer, [text], chat=chat, bos=bos, half="AV")[0]


def av_prompt_ids(contract: Contract, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Token ids of the AV's default prompt: see `prompt`."""
    return list(prompt(contract, tokenizer).ids)


def _number(contract: Contract, markers: int | None) -> int:
    stated = contract.injection_markers
    if markers is None:
        return 1 if stated == "any" else stated
    if markers < 1 or stated not in ("any", markers):
        expected = "one or more" if stated == "any" else str(stated)
        raise InputError(
            f"{contract.source}: {markers} vectors for one prompt; expected {expected} (`injection.markers`)."
        )
    return markers


def _texts(
    contract: Contract, tokenizer: PreTrainedTokenizerBase, markers: str, fields: Mapping[str, str] | None
) -> tuple[str, str]:
    """The prompt's text up to its markers, and whole; through the chat template where that is the style."""
    require_declared(contract, "av")
    head, _, tail = needed(contract, "av_template").partition(MARKER_FIELD)
    head, tail = filled(contract, head, fields), filled(contract, tail, fields)
    for name, value in (fields or {}).items():
        if control := control_tokens(tokenizer, value):
            raise InputError(
                f"{contract.source}: the {name.replace('_', ' ')} holds {control[0]!r}, which the tokenizer reads as "
                "a control token, not as text: it would end the turn or begin another. Leave it out."
            )
    prefill = contract.prefill or ""
    if contract.prompt_style == "raw":
        if name := next((name for name in ("system", "enable_thinking") if getattr(contract, name) is not None), ""):
            raise ContractError(
                f"{contract.source}: `{name}` is stated, but `prompt_style` is raw, and only a chat has one. Say "
                "prompt_style: chat, or take it out."
            )
        return head, head + markers + tail + prefill
    text = render(contract, tokenizer, head + markers + tail, half="AV")
    place = stand_in(text)
    before, found, after = render(contract, tokenizer, head + place + tail, half="AV").partition(place)
    if not found or before + markers + after != text:
        raise ContractMismatchError(
            f"{contract.source}: the tokenizer's chat template leaves the user's message out, or changes it around the "
            f"marker. Load the tokenizer it was trained with (base model {contract.base_model})."
        )
    return before, text + prefill


def begins_with_bos(contract: Contract, tokenizer: PreTrainedTokenizerBase, text: str | None = None) -> bool:
    """Whether the AV's prompt begins with BOS.

    Args:
        text: the prompt as the chat template renders it; None: the question whether anybody says it is not asked.
    Raises:
        UnstatedFactError: nobody says it, and neither the style's source nor the chat template does.
    """
    if getattr(tokenizer, "bos_token_id", None) is None:
        if contract.bos:
            raise ContractMismatchError(
                f"{contract.source}: `bos` is true, but the tokenizer has no BOS token. Load the tokenizer it was "
                f"trained with (base model {contract.base_model}), or correct the contract."
            )
        return False
    if contract.bos is not None:
        return contract.bos
    style = str(contract.prompt_style)
    silent = text is not None and contract.origins["prompt_style"] in _SAYS_NOTHING_OF_BOS[style]
    if silent and (style == "raw" or plain(tokenizer, text or "")[:1] != [tokenizer.bos_token_id]):
        raise unstated(contract, "bos")
    return True
