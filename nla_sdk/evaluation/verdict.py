"""What a pair's figures amount to: the thresholds, kept here and nowhere else, and the rules in their order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

from pydantic import Field, field_validator

from .claims import TokenClass
from .measures import Ablation, Collapse, Identity, RoundTripFigures
from .parts import Data, Part

FEWEST_DOCUMENTS = 20
VerdictName = Literal["inconclusive", "content-blind", "template-collapsed", "reads-content"]
SAYS: Mapping[str, str] = {
    "reads-content": "The explanations carry content of their own activation.",
    "content-blind": "The explanations reconstruct their activations no better than no text at all. Do not read the "
    "round-trip score as the quality of explanations.",
    "template-collapsed": "The AV says the same of many activations. No explanation can be taken for its row's own.",
    "inconclusive": "These figures do not show that explanations carry content, nor that they don't.",
}
"""What each verdict means, in the words of cards and pages."""


class Thresholds(Part):
    """What the verdict is decided by, kept here and nowhere else."""

    fewest_rows: int = Field(10, description="Below this many evaluated rows nothing is said.")
    least_gain: float = Field(0.05, description="Gain (1 − mse(real) / mse(empty)) below this is content-blind.")
    least_unique_share: float = Field(0.70, description="Share of distinct explanations.")
    identity_p: float = Field(0.01, description="Of the mean rank percentile in the cross-row identity test.")
    fewest_documents: int | None = Field(
        FEWEST_DOCUMENTS,
        description="Of fewer documents a pair is not said to read content. None: the file is older than this rule.",
    )


class Verdict(Part):
    """What a pair is judged to be, and why."""

    value: VerdictName
    reason: str
    thresholds: Thresholds

    # An older file does not state what is required of documents; it keeps its hash, and is judged by it all the same.
    @field_validator("thresholds", mode="before")
    @classmethod
    def _as_stated(cls, thresholds: Any) -> Any:
        return {"fewest_documents": None, **thresholds} if isinstance(thresholds, Mapping) else thresholds

    def states(self, expected: Thresholds) -> bool:
        """Whether the thresholds are the `expected` ones, as far as the file is young enough to state them."""
        since = {} if self.thresholds.fewest_documents is not None else {"fewest_documents": None}
        return self.thresholds == expected.model_copy(update=since)


class Judged(Protocol):
    """What the rules look at: an `Evaluation` has it, and so has anything with these six parts."""

    @property
    def data(self) -> Data | None:
        """How many documents there are; None: not known."""
        ...

    @property
    def round_trip(self) -> RoundTripFigures:
        """Counts, FVE and gain of the evaluated rows."""
        ...

    @property
    def ablation(self) -> Ablation | None:
        """Against other rows' explanations; None: nothing was evaluated."""
        ...

    @property
    def identity(self) -> Identity | None:
        """Whether reconstructions find their own activations."""
        ...

    @property
    def collapse(self) -> Collapse | None:
        """How much outputs repeat."""
        ...

    @property
    def token_classes(self) -> Sequence[TokenClass] | None:
        """Beside the mean direction of each class; None: not known."""
        ...


def documents_of(trip: RoundTripFigures, data: Data | None) -> int | None:
    """Of how many documents the evaluated rows are, at most; None: not known."""
    found = trip.documents if trip.documents is not None else data.documents if data is not None else None
    return None if found is None else min(found, trip.evaluated)


def decide(evaluation: Judged | Mapping[str, Any]) -> Verdict:
    """The verdict, from the figures and `Thresholds()`; the first rule that holds.

    1. fewer than `fewest_rows` evaluated rows → inconclusive
    2. gain below `least_gain`, or its interval touches 0 → content-blind
    3. share of distinct explanations below `least_unique_share` → template-collapsed
    4. better than other rows' explanations, and identity p below `identity_p`:
       of at least `fewest_documents` documents → reads-content, of fewer or of who knows how many → inconclusive
    5. else inconclusive

    The reason also names the classes of tokens whose mean direction does better than the pair, where the file has such
    figures (since schema version 2); they change no verdict.

    Rows of one document resemble each other, so that many rows of few documents are nearly as few observations.

    Args:
        evaluation: the file, or its parts by name (`round_trip`, `ablation`, `identity`, `collapse`, and `data`, whose
            `documents` are needed to read content; `token_classes` where there are any).
    Example:
        >>> decide({"round_trip": trip, "ablation": None, "identity": None, "collapse": None}).value  # doctest: +SKIP
        'inconclusive'
    """
    get = evaluation.get if isinstance(evaluation, Mapping) else lambda name: getattr(evaluation, name)
    limits = Thresholds()
    trip, ablation, identity, collapse = (get(name) for name in ("round_trip", "ablation", "identity", "collapse"))
    documents = documents_of(trip, get("data"))

    lost = [one.name for one in get("token_classes") or () if one.loses]
    behind = f"; the mean direction of its class does better on {', '.join(lost)}" if lost else ""

    def verdict(value: VerdictName, reason: str) -> Verdict:
        return Verdict(value=value, reason=reason + behind, thresholds=limits)

    if trip.evaluated < limits.fewest_rows:
        return verdict("inconclusive", f"{trip.evaluated} evaluated rows, at least {limits.fewest_rows} needed")
    deltas = ablation.deltas if ablation is not None else {}
    # Over all rows where it was measured there; published pairs often have it for the ablation's few rows only.
    gain = trip.gain or (deltas["empty"].gain if "empty" in deltas else None)
    if gain is None:
        return verdict("inconclusive", "the gain over the empty explanation is not known")
    # Before all else: a pair that scores as well on no text has read nothing, however distinct its explanations are.
    if gain.value < limits.least_gain:
        return verdict(
            "content-blind", f"gain over the empty explanation {gain.value:.3f}, at least {limits.least_gain} needed"
        )
    if gain.interval_95 is not None and gain.interval_95[0] <= 0:
        low, high = gain.interval_95
        return verdict("content-blind", f"the gain's interval [{low:.3f}, {high:.3f}] touches 0")
    if collapse is not None and collapse.unique_share < limits.least_unique_share:
        return verdict(
            "template-collapsed",
            f"{collapse.unique} distinct explanations among {collapse.n} ({collapse.unique_share:.0%}), at least "
            f"{limits.least_unique_share:.0%} needed",
        )
    # A gain over no text may be what all rows share; only other rows' texts and the rank show the row's own content.
    over = deltas["shuffled"].gain if "shuffled" in deltas else None
    p = identity.percentile.p if identity is not None else None
    if over is not None and over.value > 0 and p is not None and p < limits.identity_p and collapse is not None:
        if documents is None or documents < FEWEST_DOCUMENTS:
            there = "the number of documents is not known" if documents is None else f"{documents} documents"
            return verdict("inconclusive", f"{there}, at least {FEWEST_DOCUMENTS} needed to say that it reads content")
        return verdict(
            "reads-content",
            f"gain {gain.value:.3f} over the empty explanation and {over.value:.3f} over other rows'; the own "
            f"activation's mean rank percentile {identity.percentile.value:.3f} (p = {p:.2g})",
        )
    over_others = "not known" if over is None else f"{over.value:.3f}"
    p_of_rank = "not known" if p is None else f"{p:.2g}"
    return verdict(
        "inconclusive",
        f"gain over other rows' explanations {over_others}, p of the identity rank percentile {p_of_rank}",
    )
