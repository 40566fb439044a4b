"""A check as JSON has it, for tables and for the wire, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from .forms.claim import Claim
from .receipts import RECEIPTS, Check, CheckedClaim, Receipt, ReceiptName


def told(check: Check) -> dict[str, Any]:
    """What is told of a check.

    Returns:
        `support`: mean of its claims' probabilities, None where there are none; `why_no_support, unit, missing`;
        `claims`: each with `text, kind, start, end, support, holds, why_no_support, reason` and `receipts`, by name
        `{value, null}`.
    """
    known = [one.support for one in check.claims if one.support is not None]
    return {
        "support": sum(known) / len(known) if known else None,
        "why_no_support": check.why_no_support,
        "unit": check.unit,
        "missing": dict(check.missing),
        "claims": [_of_claim(one, check.reason(one)) for one in check.claims],
    }


def _of_claim(one: CheckedClaim, reason: str) -> dict[str, Any]:
    claim = one.claim
    receipts = {name: one.receipts[name] for name in RECEIPTS if name in one.receipts}
    return {
        "text": claim.text,
        "kind": claim.kind,
        "start": claim.start,
        "end": claim.end,
        "support": one.support,
        "holds": one.holds,
        "why_no_support": one.why_no_support,
        "reason": reason,
        "receipts": {name: {"value": receipt.value, "null": receipt.null} for name, receipt in receipts.items()},
    }


def heard(explanation: str, said: Mapping[str, Any]) -> Check:
    """The check that `told` told of.

    Args:
        explanation: as it was given.
    Raises:
        KeyError, TypeError: it is none.
    """
    return Check(
        explanation,
        tuple(_claim_of(one) for one in said["claims"]),
        why_no_support=said["why_no_support"],
        unit=said["unit"],
        missing=dict(said["missing"]),
    )


def _claim_of(said: Mapping[str, Any]) -> CheckedClaim:
    claim = Claim(said["text"], said["kind"], int(said["start"]), int(said["end"]))
    receipts = {cast(ReceiptName, name): Receipt(one["value"], one["null"]) for name, one in said["receipts"].items()}
    return CheckedClaim(claim, receipts, said["support"], said["why_no_support"], said["holds"])
