"""What speaks for a claim: receipts, each a number beside what it is by chance, and the probability that they give."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from ..io.rows.shown import html_table
from .forms.claim import Claim
from .reasons import reason_of

ReceiptName: TypeAlias = Literal[
    "in_text",
    "in_text_exact",
    "in_text_meaning",
    "in_text_after",
    "model_agrees",
    "lens",
    "ablation",
    "replacement",
    "alone",
    "repeats",
    "recurs_nearby",
    "recurs_in_samples",
    "dictionary",
    "steering",
]
RECEIPTS: Mapping[ReceiptName, str] = {
    "in_text": "share of its words whose stems are in the text up to the position (0 to 1)",
    "in_text_exact": "1 where the text up to the position has it word for word, else 0",
    "in_text_meaning": "largest cosine of its sentence embedding with one of the text's sentences",
    "in_text_after": "share of its words whose stems are in the text behind the position (0 to 1)",
    "model_agrees": "the source's probability of the named token at the position (0 to 1)",
    "lens": "log-probability of the named token where the source's last norm and lm_head read the vector itself (nats)",
    "ablation": "FVE lost when it is taken out",
    "replacement": "FVE lost when another row's claim of its kind stands in its place",
    "alone": "FVE that it has by itself over no words",
    "repeats": "how often the explanation says it, beyond once",
    "recurs_nearby": "share of the neighbouring positions whose explanation says it too (0 to 1)",
    "recurs_in_samples": "share of other samples of the same activation that say it too (0 to 1)",
    "dictionary": "1 where the label of a top feature of the dictionary says it, else 0",
    "steering": "nats by which steering with its reconstruction raises the named tokens",
}
"""Every receipt, and what its number is. `in_text*` and `model_agrees` need the text; the others do not."""
OF_TEXT: frozenset[ReceiptName] = frozenset(
    {"in_text", "in_text_exact", "in_text_meaning", "in_text_after", "model_agrees"}
)


@dataclass(frozen=True)
class Receipt:
    """One number that speaks for a claim, or against it.

    Attributes:
        value: see `RECEIPTS`.
        null: what it is by chance: the same number for another row's activation or text, or of another row's claim;
            None where nothing to compare with was at hand.
    """

    value: float
    null: float | None = None


MARKS: Mapping[bool | None, str] = {True: "✓", False: "✗", None: " "}
"""How it is shown whether a claim holds in the text; None: no text is known."""


@dataclass(frozen=True)
class CheckedClaim:
    """A claim with its receipts.

    Attributes:
        claim: what is claimed.
        receipts: by name; what could not be had is absent.
        support: calibrated probability that it is supported by the text, 0 to 1, from receipts that need no text.
        why_no_support: in words, where that is None.
        holds: whether it holds in the text that was given (`claims.truth.supported`), whatever the probability, which
            does not look at the text; None: no text, or of a next token no source to ask.
    """

    claim: Claim
    receipts: Mapping[ReceiptName, Receipt]
    support: float | None = None
    why_no_support: str | None = None
    holds: bool | None = None

    def to_row(self) -> dict[str, Any]:
        """Its columns in a table: the claim, its support, each receipt and its null (`<name>_null`)."""
        row: dict[str, Any] = {
            "claim": self.claim.text,
            "claim_kind": self.claim.kind,
            "claim_start": self.claim.start,
            "claim_end": self.claim.end,
            "support": self.support,
            "holds": self.holds,
        }
        for name in RECEIPTS:
            receipt = self.receipts.get(name)
            row[name] = None if receipt is None else receipt.value
            row[f"{name}_null"] = None if receipt is None else receipt.null
        return row


CHECK_NUMBERS = ("support", *(column for name in RECEIPTS for column in (name, f"{name}_null")))
"""Columns of a check's table that may be empty in every row."""


@dataclass(frozen=True)
class Check:
    """An explanation's claims, each with its receipts.

    Attributes:
        explanation: as it was given.
        claims: in their order.
        why_no_support: in words, where no claim has a probability.
        unit: of ablation, replacement and alone: "FVE" or "gain"; None: there are none.
        missing: why a receipt that was looked for is there for no claim.
    """

    explanation: str
    claims: Sequence[CheckedClaim]
    why_no_support: str | None = None
    unit: str | None = None
    missing: Mapping[str, str] = field(default_factory=dict)

    @property
    def calibrated(self) -> bool:
        """Whether the claims have a probability."""
        return self.why_no_support is None

    def reason(self, claim: CheckedClaim | int) -> str:
        """What speaks for a claim or against it, as one short sentence.

        Args:
            claim: one of `claims`, or its number.
        """
        one = self.claims[claim] if isinstance(claim, int) else claim
        return reason_of(one.claim.kind, one.receipts, self.unit)

    def to_rows(self) -> list[dict[str, Any]]:
        """A dict of columns for each claim; see `CheckedClaim.to_row`."""
        return [one.to_row() for one in self.claims]

    def __repr__(self) -> str:
        probable = "; the probability that the text says so is judged without the text" if self.calibrated else ""
        lines = [f"Check of {self.explanation!r}{probable}"]
        for one in self.claims:
            probable = "   –" if one.support is None else f"{one.support:4.0%}"
            lines.append(f"  {probable} {MARKS[one.holds]} {one.claim.kind}: {one.claim.text!r} {self.reason(one)}")
        return "\n".join([*lines, *([f"  [no support: {self.why_no_support}]"] if self.why_no_support else [])])

    def _repr_html_(self) -> str:
        rows = [
            {
                "claim": one.claim.text,
                "kind": one.claim.kind,
                "support": "" if one.support is None else f"{one.support:.0%}",
                "holds": MARKS[one.holds].strip(),
                "reason": self.reason(one),
            }
            for one in self.claims
        ]
        why = f"<p>No support: {html.escape(self.why_no_support)}</p>" if self.why_no_support else ""
        return html_table(rows, shown=len(rows)) + why
