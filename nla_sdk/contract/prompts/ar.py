"""The AR's prompt, as text and as token ids. The functions are methods of `Contract`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ...errors import ContractError, InputError, MarkerError
from ..refusals import needed, unstated
from ..values import EXPLANATION_FIELD
from .chat import begun, render, stand_in
from .fields import filled, require_declared

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ..model import Contract


def require_reading(contract: Contract) -> None:
    """Refuse an AR whose reading position its prompt does not have.

    Raises:
        ContractError: `turn` without a chat, or `marker` without one in the template.
    """
    if contract.role != "ar" or contract.kind == "nla_dataset":
        return
    if contract.ar_position == "turn" and contract.ar_prompt_style != "chat":
        raise ContractError(
            f"{contract.source}: `ar.position` is turn, but `ar.prompt_style` is raw, which has no turns. Say "
            "position: last, or prompt_style: chat."
        )
    if contract.ar_position == "marker":
        if contract.injection_char is None and contract.injection_token_id is None:
            raise ContractError(
                f"{contract.source}: `ar.position` is marker, and no marker is stated. Add `injection_char`, the text "
                "that stands in `ar_template`."
            )
        template = needed(contract, "ar_template")
        if contract.injection_char is not None and template.count(contract.injection_char) != 1:
            raise ContractError(
                f"{contract.source}: `ar.position` is marker, and `ar_template` holds {contract.injection_char!r} "
                f"{template.count(contract.injection_char)} times; expected exactly once."
            )


def around_explanation(contract: Contract, fields: Mapping[str, str] | None = None) -> tuple[str, str]:
    """The AR template's text before and after the explanation, its declared fields as they are if none are passed."""
    before, _, after = needed(contract, "ar_template").partition(EXPLANATION_FIELD)
    return (before, after) if fields is None else (filled(contract, before, fields), filled(contract, after, fields))


def ar_prompt(contract: Contract, explanation: str, fields: Mapping[str, str] | None = None) -> str:
    """The AR template around an explanation, whose braces are text like any other; before any chat template.

    Args:
        fields: texts of the declared fields, from `field_values`; what is lacking becomes its default.
    Example:
        >>> contract.ar_prompt("a {dict}")
        'Summary of the following text: <text>a {dict}</text> <summary>'
    """
    before, after = around_explanation(contract, fields or {})
    return before + explanation + after


def ar_prompt_ids(
    contract: Contract,
    tokenizer: PreTrainedTokenizerBase,
    explanation: str,
    max_length: int | None = None,
    fields: Mapping[str, str] | None = None,
) -> tuple[list[int], bool]:
    """Token ids of the AR prompt, with BOS in front exactly as `ar.bos` says, where the tokenizer has one.

    Args:
        explanation: any text; the empty string too.
        max_length: most ids to return; None: the contract's `max_length`, else no limit.
        fields: texts of the declared fields, from `field_values`; what is lacking becomes its default.
    Returns:
        The ids, and whether they were cut to fit, as `ar.truncation` says: the explanation's end (never the template's
        suffix: without that the AR reads a meaningless token), or the whole prompt's beginning (but BOS) or end.
    Raises:
        ContractError: not even the empty explanation fits.
        UnstatedFactError: the tokenizer has a BOS and nobody says whether the prompt begins with it.
        InputError: it is too long, and `ar.truncation` is refuse.
        MarkerError: it is too long, and the marker where the AR reads would be cut off.
    """
    return ar_prompt_ids_batch(contract, tokenizer, [explanation], max_length, fields)[0]


def ar_prompt_ids_batch(
    contract: Contract,
    tokenizer: PreTrainedTokenizerBase,
    explanations: Sequence[str],
    max_length: int | None = None,
    fields: Mapping[str, str] | None = None,
) -> list[tuple[list[int], bool]]:
    """`ar_prompt_ids` for many explanations, with one call of the tokenizer unless some must be cut."""
    limit = contract.max_length if max_length is None else max_length
    prompts = encoded(contract, tokenizer, explanations, fields)
    found = []
    for row, (ids, explanation) in enumerate(zip(prompts, explanations, strict=True)):
        if limit is None or len(ids) <= limit:
            found.append((ids, False))
        elif contract.ar_truncation == "refuse":
            raise InputError(
                f"The explanation in row {row} makes a prompt of {len(ids)} tokens; this AR was trained on none over "
                f"{limit} and cuts none (`ar.truncation: refuse`). Shorten it, or leave it out."
            )
        elif contract.ar_truncation == "explanation":
            found.append((_cut(contract, tokenizer, explanation, limit, fields), True))
        elif contract.ar_truncation == "right":
            _refuse_cut_marker(contract, ids, 0, limit)
            found.append((ids[:limit], True))
        else:
            kept = 1 if ids[0] == getattr(tokenizer, "bos_token_id", None) else 0
            _refuse_cut_marker(contract, ids, len(ids) - limit + kept, len(ids))
            found.append((ids[:kept] + ids[len(ids) - limit + kept :], True))
    return found


def _refuse_cut_marker(contract: Contract, ids: Sequence[int], first: int, end: int) -> None:
    """Refuse to cut the marker where the AR reads: an explanation may hold its token too, and would be read there."""
    if contract.ar_position == "marker" and not first <= reading_position(contract, ids) < end:
        raise MarkerError(
            f"The AR reads at the marker {contract.injection_char!r}, which `ar.truncation: {contract.ar_truncation}` "
            f"cuts off a prompt of {len(ids)} tokens. Raise `max_length`, or shorten the explanation."
        )


def reading_position(contract: Contract, ids: Sequence[int]) -> int:
    """Index of the token whose state the AR reads in one prompt's ids, counted from 0, as `ar.position` says.

    `last` and `turn` are the prompt's last token: a turn of the chat ends in it, as nothing opens an answer. `marker`
    is where the template's marker stands: an explanation may hold its token too.

    Raises:
        MarkerError: it is not there, as a prompt cut on that side may have lost it.
        ContractError: the contract does not know the marker's token id; `verify` derives it.
    """
    if contract.ar_position != "marker":
        return len(ids) - 1
    tokens, marker = list(ids), needed(contract, "injection_token_id")
    if marker not in tokens:
        raise MarkerError(
            f"The AR reads at the marker {contract.injection_char!r} (token {marker}), which the prompt of "
            f"{len(tokens)} tokens does not hold. Build it with Contract.ar_prompt_ids_batch; raise `max_length` if it "
            "was cut off."
        )
    before, _ = around_explanation(contract)
    if contract.injection_char is not None and contract.injection_char in before:
        return tokens.index(marker)
    return len(tokens) - 1 - tokens[::-1].index(marker)


def encoded(
    contract: Contract,
    tokenizer: PreTrainedTokenizerBase,
    explanations: Sequence[str],
    fields: Mapping[str, str] | None,
) -> list[list[int]]:
    """Ids of whole prompts."""
    require_declared(contract, "ar")
    before, after = around_explanation(contract, fields or {})
    texts, bos = [before + explanation + after for explanation in explanations], begins_with_bos(contract, tokenizer)
    if contract.ar_prompt_style == "chat":
        texts = [render(contract, tokenizer, text, half="AR") for text in texts]
    return begun(contract, tokenizer, texts, chat=contract.ar_prompt_style == "chat", bos=bos, half="AR")


def suffix_text(contract: Contract, tokenizer: PreTrainedTokenizerBase, fields: Mapping[str, str] | None) -> str:
    """What every prompt ends in after its explanation: the template's end, in a chat that of the turn too."""
    before, after = around_explanation(contract, fields or {})
    if contract.ar_prompt_style == "raw":
        return after
    place = stand_in(before + after)
    return render(contract, tokenizer, before + place + after, half="AR").partition(place)[2]


def begins_with_bos(contract: Contract, tokenizer: PreTrainedTokenizerBase) -> bool:
    if getattr(tokenizer, "bos_token_id", None) is None:
        return False
    if contract.ar_bos is None and contract.kind == "nla_model":
        raise unstated(contract, "ar_bos")
    return contract.ar_bos is not False  # a table need not say it: nothing is read at its prompts' ends


def _cut(
    contract: Contract,
    tokenizer: PreTrainedTokenizerBase,
    explanation: str,
    limit: int,
    fields: Mapping[str, str] | None,
) -> list[int]:
    """The longest beginning of the explanation, in characters, whose whole prompt has at most `limit` ids."""
    fitting, shortest, too_long = encoded(contract, tokenizer, [""], fields)[0], 0, len(explanation)
    if len(fitting) > limit:
        raise ContractError(
            f"{contract.source}: `max_length` {limit} leaves no room for an explanation: the AR template alone takes "
            f"{len(fitting)} tokens. Raise max_length."
        )
    # Bisection over characters, the whole prompt tokenised anew at each try: ids cut from the explanation's own would
    # not be what the tokenizer makes of the shorter text, as tokens merge across the explanation's end (`.</`).
    while too_long - shortest > 1:
        middle = (shortest + too_long) // 2
        ids = encoded(contract, tokenizer, [explanation[:middle]], fields)[0]
        if len(ids) <= limit:
            fitting, shortest = ids, middle
        else:
            too_long = middle
    return fitting
