"""Explanations to be checked, as `NLAPair.check` takes them → a request, and the checks that come back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...checking.contexts import text_of_each
from ...claims.receipts import Check
from ...claims.telling import heard
from ...errors import InputError
from ...results import Activations
from ...sampling import whole_number
from .asking import text_fields

NOT_SENT = "is not sent to a served pair; check with a pair in memory, or leave it out."


def refuse_unsent(**given: object) -> None:
    """Refuse what only a pair in memory can use.

    Raises:
        InputError: names it.
    """
    for name, value in given.items():
        if value is not None:
            raise InputError(f"{name}= {NOT_SENT}")


def known(text: Any, position: Any, read: Activations | None, count: int) -> dict[str, Any]:
    """The texts that rows were read in and where, as fields.

    Args:
        read: what `extract` returned, which knows of which text its rows are, and where.
        count: of rows.
    Raises:
        InputError, EmptyBatchError, TextError: as `NLAPair.check`.
    """
    texts = text_of_each(text, None if read is None else read.texts, count)
    if texts is None:
        return {}
    if hasattr(position, "__iter__"):
        positions = list(position)
    else:
        positions = list(read.positions) if position == -1 and read is not None else [position] * count
    if len(positions) != count:
        raise InputError(f"{len(positions)} positions and {count} activations; expected one, or as many.")
    each = zip(texts, positions, strict=True)
    return {"known": [{**text_fields(one), "position": whole_number("position", at)} for one, at in each]}


def checks(explanations: Sequence[str], answer: Any) -> list[Check]:
    """What is made of the answer."""
    return [heard(text, row) for text, row in zip(explanations, answer["rows"], strict=True)]
