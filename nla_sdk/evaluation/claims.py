"""What an evaluation says of claims: how often they hold, what speaks for them, and classes of tokens."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from .ages import since
from .parts import Cosine, Count, Figure, Part, Proportion, Share

TokenClassName = Literal["number", "punctuation", "name", "function word", "other word", "first 10 positions"]


class KindOfClaim(Part):
    """Claims of one kind, held against the texts (next tokens: against the source's own probabilities)."""

    kind: str
    n: Count = Field(description="Claims.")
    precision: Figure | None = Field(
        None,
        description="Share that is supported; p: against chance, documents' signs flipped. None: no text was at hand.",
    )
    chance: Figure | None = Field(
        None, description="The same of the same claims held against other documents' texts, a mean over these."
    )
    nothing: Share | None = Field(None, description="Claims, of those taken out, whose absence lowers no FVE.")
    by_family: dict[str, Figure] = Field({}, description="Precision by source family.")
    chance_by_family: dict[str, Figure] = {}


class ReceiptFigures(Part):
    """Whether a receipt tells supported claims from others."""

    name: str
    n: Count = Field(description="Claims that have it and are known to hold or not.")
    value: Figure = Field(description="Mean.")
    null: Figure | None = Field(None, description="Mean of what it is by chance.")
    auroc: Figure | None = Field(
        None, description="Area under the ROC curve, larger meaning supported; None: all claims are of one sort."
    )
    auroc_by_kind: dict[str, Figure] = {}


class Specifics(Part):
    """Numbers and names that explanations state."""

    what: Literal["number", "name"]
    stated: Count
    invented: Share = Field(description="Of those stated: not in the text.")
    chance: Share | None = Field(None, description="The same held against another document's text.")
    invented_per_explanation: float


class Near(Part):
    """Words that are in the text, or that come near one of its content words in meaning (by an embedder)."""

    cosine: Cosine = Field(description="Of embeddings, above which a word that is not in the text is near one of it.")
    exceeded: Proportion = Field(
        description="Share of words above it, held against a text of another document without them: 5 % at most."
    )
    precision: Figure = Field(description="Share in or near the text; p: against chance, documents' signs flipped.")
    chance: Figure | None = Field(None, description="The same words held against one text of another document.")


class Likeliest(Part):
    """Next tokens that are among the source's likeliest at the position."""

    of: Count = Field(description="How many tokens count as the likeliest.")
    named: Figure = Field(description="Share of all that are named; p: against chance, documents' signs flipped.")
    named_chance: Figure | None = Field(None, description="The same at one position of another document.")
    first: Figure = Field(description="Of those that an explanation names first.")
    first_chance: Figure | None = None


class Bin(Part):
    """Claims whose probabilities are alike."""

    n: Count
    predicted: Proportion = Field(description="Mean probability.")
    observed: Proportion = Field(description="Share that is supported.")


class Reliability(Part):
    """The calibrated probability on documents that it was not fitted on (cross-validated by document)."""

    n: Count
    documents: Count
    folds: Count
    auroc: Figure
    ece: Figure = Field(description="Expected calibration error, ten bins of as many claims each.")
    brier: Figure
    bins: list[Bin]
    receipts: list[str] = Field(description="That the probability is made of.")
    auroc_by_kind: dict[str, Figure] = {}


class Claims(Part):
    """What the words are worth."""

    n: Count = Field(description="Claims.")
    rows: Count = Field(description="Evaluated rows, whether their explanations claim anything or not.")
    documents: Count = Field(description="Of those rows.")
    known: Count = Field(0, description="Claims that are known to hold or not.")
    unit: Literal["FVE", "gain"] = Field("FVE", description="Of ablation, replacement and alone.")
    per_explanation: float
    supported_per_explanation: float | None = Field(None, description="None: not of every claim is it known.")
    kinds: list[KindOfClaim]
    receipts: list[ReceiptFigures] = []
    specifics: list[Specifics] = []
    reliability: Reliability | None = None
    near: Near | None = since(3, "Precision of words by meaning; None: no embedder, no texts or no words.")
    near_related: Near | None = since(3, "The same of related words, by the same cosine.")
    likeliest: Likeliest | None = since(3, "Next tokens among the source's likeliest; None: no texts or no such claim.")
    repeats: Share | None = since(3, "Explanations that make a claim twice, capitals and white space aside.")
    why_no_precision: str | None = Field(None, description="Where no claim is known to hold or not: why.")
    why_no_support: str | None = Field(None, description="Where no probability was calibrated: why.")


class TokenClass(Part):
    """Rows whose last token is of one class, beside the mean direction of that class (from other documents' rows)."""

    name: TokenClassName
    n: Count
    documents: Count
    fve: Figure
    mean_fve: Figure = Field(description="FVE of the class's mean direction.")
    delta: Figure = Field(description="The pair's FVE minus the class mean's, paired; p: signs of documents flipped.")

    @property
    def loses(self) -> bool:
        """Whether the mean direction of the class does better than the pair: the delta's whole interval is below 0."""
        interval = self.delta.interval_95
        return self.delta.value < 0 and interval is not None and interval[1] < 0


class PublishedFigure(Part):
    """A figure that somebody else published of another pair: to be read beside, never as this pair's."""

    what: str
    value: float
    n: Count | None = None
    of: str = Field(description="Which pair.")
    source: str = Field(description="Where it stands.")
