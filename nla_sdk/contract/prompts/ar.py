"""The AR's prompt, as text and as token ids. The functions are methods of `Contract`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ...errors import ContractError
from ..refusals import needed
from ..values import EXPLANATION_FIELD
from .tokens import encode

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ..model import Contract


def around_explanation(contract: Contract) -> tuple[str, str]:
    """The AR template's text before and after the explanation."""
    before, _, after = needed(contract, "ar_template").partition(EXPLANATION_FIELD)
    return before, after


def ar_prompt(contract: Contract, explanation: str) -> str:
    """The AR template around an explanation, whose braces are text like any other.

    Example:
        >>> contract.ar_prompt("a {dict}")
        'Summary of the following text: <text>a {dict}</text> <summary>'
    """
    before, after = around_explanation(contract)
    return before + explanation + after


def ar_prompt_ids(
    contract: Contract, tokenizer: PreTrainedTokenizerBase, explanation: str, max_length: int | None = None
) -> tuple[list[int], bool]:
    """Token ids of the AR prompt, with BOS exactly once where the tokenizer has one.

    Args:
        explanation: any text; the empty string too.
        max_length: most ids to return; None: the contract's `max_length`, else no limit.
    Returns:
        The ids, and whether the explanation was cut to fit. Its end is cut, never the template's suffix: without
        that the AR reads a meaningless token.
    Raises:
        ContractError: not even the empty explanation fits.
    """
    return ar_prompt_ids_batch(contract, tokenizer, [explanation], max_length)[0]


def ar_prompt_ids_batch(
    contract: Contract,
    tokenizer: PreTrainedTokenizerBase,
    explanations: Sequence[str],
    max_length: int | None = None,
) -> list[tuple[list[int], bool]]:
    """`ar_prompt_ids` for many explanations, with one call of the tokenizer unless some must be cut."""
    limit = contract.max_length if max_length is None else max_length
    prompts = encode(tokenizer, [ar_prompt(contract, explanation) for explanation in explanations])
    return [
        (ids, False) if limit is None or len(ids) <= limit else (_cut(contract, tokenizer, explanation, limit), True)
        for ids, explanation in zip(prompts, explanations, strict=True)
    ]


def _cut(contract: Contract, tokenizer: PreTrainedTokenizerBase, explanation: str, limit: int) -> list[int]:
    """The longest beginning of the explanation, in characters, whose whole prompt has at most `limit` ids."""
    fitting, shortest, too_long = encode(tokenizer, [ar_prompt(contract, "")])[0], 0, len(explanation)
    if len(fitting) > limit:
        raise ContractError(
            f"{contract.source}: `max_length` {limit} leaves no room for an explanation: the AR template alone takes "
            f"{len(fitting)} tokens. Raise max_length."
        )
    # Bisection over characters, the whole prompt tokenised anew at each try: ids cut from the explanation's own would
    # not be what the tokenizer makes of the shorter text, as tokens merge across the explanation's end (`.</`).
    while too_long - shortest > 1:
        middle = (shortest + too_long) // 2
        ids = encode(tokenizer, [ar_prompt(contract, explanation[:middle])])[0]
        if len(ids) <= limit:
            fitting, shortest = ids, middle
        else:
            too_long = middle
    return fitting
