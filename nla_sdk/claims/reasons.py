"""What a claim's receipts say, as one short sentence."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .receipts import Receipt, ReceiptName

SHOWN = 3  # of what there is to say
NEXT = 0.01  # of the source's probability, below which a next token does not hold


def reason_of(kind: str, receipts: Mapping[ReceiptName, Receipt], unit: str | None = "FVE") -> str:
    """The receipts that say most, those of a text first.

    Args:
        kind: of the claim.
        unit: of ablation, replacement and alone.
    Example:
        >>> reason_of("word", {"in_text": Receipt(1.0), "ablation": Receipt(0.031, 0.002)})
        'The text says it; without it 3.1 points of FVE are lost (by chance 0.2).'
    """
    said = list(_said(kind, receipts, unit or "FVE"))[:SHOWN] or ["nothing is at hand that speaks for it or against it"]
    whole = "; ".join(said)
    return f"{whole[0].upper()}{whole[1:]}."


def _said(kind: str, receipts: Mapping[ReceiptName, Receipt], unit: str) -> Iterator[str]:
    value = {name: receipt.value for name, receipt in receipts.items()}
    if "model_agrees" in value:
        agrees = value["model_agrees"]
        yield f"the model gives it {f'{100 * agrees:.0f}' if agrees >= NEXT else '< 1'} % as the next token"
    elif kind == "register" and "in_text" in value:
        yield "the text is of this kind" if value["in_text"] == 1.0 else "the text is not of this kind"
    elif value.get("in_text_exact") == 1.0:
        yield "the text has it word for word"
    elif "in_text" in value:
        share = value["in_text"]
        yield (
            "the text says it"
            if share == 1.0
            else "the text does not say it"
            if not share
            else (f"the text has {100 * share:.0f} % of its words")
        )
    if "in_text_meaning" in value and value.get("in_text") != 1.0:
        yield f"its nearest sentence has cosine {value['in_text_meaning']:.2f}"
    if "lens" in value:
        null = receipts["lens"].null
        compared = "" if null is None else f" (other rows' claims {null:.1f})"
        yield f"the vector itself gives it log-probability {value['lens']:.1f}{compared}"
    if "ablation" in value:
        lost, null = value["ablation"], receipts["ablation"].null
        chance = "" if null is None else f" (by chance {100 * null:.1f})"
        yield (
            f"without it {100 * lost:.1f} points of {unit} are lost{chance}"
            if lost > 0
            else (f"without it no {unit} is lost")
        )
    elif "alone" in value:
        yield f"by itself it has {100 * value['alone']:.1f} points of {unit}"
    if "recurs_in_samples" in value:
        yield f"{100 * value['recurs_in_samples']:.0f} % of other samples say it"
    if "recurs_nearby" in value:
        yield f"{100 * value['recurs_nearby']:.0f} % of neighbouring positions say it"
    if value.get("dictionary"):
        yield "the label of a top feature says it"
    if "steering" in value:
        yield f"steering with it moves its tokens by {value['steering']:+.1f} nats"
    if value.get("repeats"):
        yield f"it is said {int(value['repeats']) + 1} times"
