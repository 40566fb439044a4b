"""What is measured of a pair: one class a question, in the order in which a report asks them."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from .ages import since
from .parts import Balanced, Cosine, Count, Figure, Part, Proportion, Share

CONDITIONS = ("real", "shuffled", "unrelated", "nonsense", "empty")
EVALUATED = ("ok", "truncated")  # statuses of rows with an explanation and a reconstruction


class Cosines(Part):
    """A distribution of cosines."""

    mean: Figure
    std: Proportion | None = None
    median: Cosine | None = None
    min: Cosine | None = None
    max: Cosine | None = None


class Reference(Part):
    """What the data give without any explanation: cosine means nothing without them."""

    mean_cosine: Cosine = Field(description="Cosine of predicting the mean direction.")
    random_pair_cosine: Cosine | None = Field(
        None, description="Mean cosine of two activations of different documents; None: there is one document."
    )
    baseline_mse: float = Field(description="mse of the re-normalised mean direction: FVE's denominator.")
    baseline_mse_raw_variance: float = Field(description="mse of the mean unit vector as it is: the stricter one.")
    outlying: Count | None = Field(
        None, description="Rows with a norm far above the median (attention sinks); None: there is none."
    )
    baseline_mse_without_outlying: float | None = Field(
        None, description="mse of the other rows' mean direction; None: there are no outlying rows."
    )


class Tokens(Part):
    """How long explanations are, in tokens that the AV wrote (its tags included), over the evaluated rows."""

    median: float = Field(ge=0)
    max: Count


class RoundTripFigures(Part):
    """Activation → AV's words → AR's vector. Figures are over the evaluated rows unless they say otherwise."""

    attempted: Count
    evaluated: Count = Field(description="Rows with an explanation and a reconstruction.")
    documents: Count | None = Field(
        None, description="Documents the evaluated rows are of, where they are not all of the data's."
    )
    empty: Count = Field(0, description="Rows for which the AV wrote nothing; not evaluated.")
    untagged: Count | None = Field(
        None,
        description="Rows whose output is not in the form that the contract states, so that it holds no explanation; "
        "not evaluated. None: there is none.",
    )
    failed: Count = Field(0, description="Rows whose vector or reconstruction has no direction; not evaluated.")
    truncated: Count | None = Field(None, description="Evaluated rows whose explanation met the token limit.")
    ar_cut: Count | None = Field(None, description="Evaluated rows whose explanation the AR cut at its max_length.")
    floor: Cosine | None = None
    above_floor: Share | None = None
    fve: Figure | None = Field(None, description="None where all activations are alike: there is nothing to explain.")
    fve_raw_variance: Figure | None = None
    fve_all_attempted: Figure | None = Field(
        None, description="FVE with empty and untagged outputs scored as what the AR makes of the empty text."
    )
    fve_without_outlying: Figure | None = Field(
        None, description="FVE of the rows whose norm is not outlying, by their own mean direction."
    )
    gain: Figure | None = Field(None, description="1 − mse(real) / mse(empty).")
    cosine: Cosines | None = None
    mse: Figure | None = None
    mse_min: float | None = None
    mse_max: float | None = None
    reference: Reference | None = None
    by_family: dict[str, Figure] = Field({}, description="FVE, of families with at least 5 rows.")
    fve_balanced: Balanced | None = since(
        3, "FVE, each source family counting alike; documents are drawn within families. None: there are not two."
    )
    tokens: Tokens | None = since(3, "That the AV wrote an explanation.")


class Condition(Part):
    """The AR given one kind of text for the same targets."""

    cosine: Figure
    fve: Figure | None = None
    fve_balanced: Balanced | None = since(3, "FVE, each source family counting alike.")
    above_floor: Share | None = Field(None, description="Not of `shuffled`: a row's cosine there is a mean over rows.")


class Delta(Part):
    """Real explanation minus another condition, paired by row; positive: the real one is better."""

    cosine: Figure
    fve: Figure | None = None
    gain: Figure | None = Field(None, description="1 − mse(real) / mse(other).")


class Ablation(Part):
    """The AR on the same targets with real, other rows', unrelated, nonsense and no text."""

    n: Count
    conditions: dict[str, Condition]
    deltas: dict[str, Delta] = {}

    @property
    def content_independent_share(self) -> float | None:
        """cos(empty) / cos(real): how much of the headline cosine any text at all would have scored."""
        real, empty = self.conditions.get("real"), self.conditions.get("empty")
        if real is None or empty is None or real.cosine.value == 0:
            return None
        return empty.cosine.value / real.cosine.value


class Pool(Part):
    """How often the own activation is first among `size`, over random draws of so many rows."""

    size: Count
    draws: Count
    top1: Proportion

    @property
    def times_chance(self) -> float:
        """Top-1 over what guessing gives: 1 / `size`."""
        return self.top1 * self.size


class Identity(Part):
    """Whether each reconstruction finds its own activation among all of them."""

    n: Count
    top1: Figure
    chance: Proportion
    percentile: Figure = Field(description="Mean rank percentile of the own activation: 1 first, 0 last, 0.5 chance.")
    margin: Figure = Field(description="Cosine to the own activation minus the mean to other documents', centred.")
    pool: Pool | None = None


class Retrieval(Part):
    """From one text (or vector) of a document to another of the same document, one candidate a document."""

    query: Literal["explanation", "activation"]
    candidates: Literal["explanations", "source texts", "activations"]
    features: Literal["words", "characters", "embeddings", "activations"]
    queries: Count
    eligible: Count | None = Field(
        None, description="Rows the queries were drawn from, where they are not all of them."
    )
    documents: Count
    chance: Proportion
    top1: Figure | None = Field(None, description="Of the worst of the negative-sampling seeds; its largest p.")
    by_seed: list[Proportion] = []
    broken: str | None = Field(None, description="Why the metric cannot say anything here, if it cannot.")

    @property
    def times_chance(self) -> float | None:
        """Top-1 over what guessing gives; None where the metric is broken."""
        return self.top1.value / self.chance if self.top1 is not None and self.chance else None


class Probe(Part):
    """A cross-validated linear classifier."""

    on: Literal["activation", "explanation", "reconstruction"]
    target: Literal["document", "family"]
    classes: Count
    accuracy: Figure | None = None
    chance: Proportion = Field(description="Share of the commonest class.")
    broken: str | None = Field(None, description="Why it could not be made, if it could not.")


class Content(Part):
    """Does the AV's text tell documents apart; the raw activations are the ceiling."""

    retrieval: list[Retrieval]
    probes: list[Probe] = []


class Control(Part):
    """What happens when something else is injected than the row's activation."""

    name: Literal["zero", "none", "random", "other"]
    n: Count
    changed: Share = Field(description="Rows whose text differs from the real one.")
    cosine: Figure
    delta: Figure = Field(description="Real cosine minus this one; positive: the score falls as it should.")


class Collapse(Part):
    """How much outputs repeat."""

    n: Count
    unique: Count
    prefixes: dict[int, Count] = Field({}, description="Distinct beginnings, by their length in characters.")
    stems: Count | None = Field(None, description="Distinct openings of four words.")
    commonest_stems: list[tuple[str, Count]] = []
    distinct: dict[int, Proportion] = Field({}, description="Share of distinct word n-grams, by n.")
    mean_words: float | None = None

    @property
    def unique_share(self) -> float:
        """Share of outputs that are distinct, 0–1."""
        return self.unique / self.n if self.n else 0.0

    @property
    def duplicate_share(self) -> float:
        """Share of outputs that repeat another word for word, 0–1."""
        return 1.0 - self.unique_share if self.n else 0.0


class Matching(Part):
    """Explanations put to texts one to one, drawn and in random order: a stand-in for readers."""

    features: Literal["words", "meaning"] = Field(description="TF-IDF; or cosines of sentence embeddings.")
    of: int = Field(ge=1, description="Explanations and texts in a draw, each of another document.")
    draws: Count
    documents: Count = Field(description="With a text and an explanation, that the draws are of.")
    rows: Count = Field(description="Of those documents.")
    chance: Proportion
    matched: Figure | None = Field(
        None,
        description="Mean share that is given its own text; n: rows that were drawn. Drawn anew for the interval are "
        "documents and draws.",
    )
    why_not: str | None = Field(None, description="Why it was not measured, if it was not.")

    @property
    def times_chance(self) -> float | None:
        """The share over what guessing gives; None where it was not measured."""
        return None if self.matched is None or not self.chance else self.matched.value / self.chance


class Signal(Part):
    """Which part of an explanation carries the score, on a subsample. Values are FVE or differences of FVE."""

    n: Count
    whole: Figure
    claims: Figure | None = Field(None, description="FVE lost when one claim is left out, a mean over claims.")
    claims_by_position: list[Figure] = []
    claims_shuffled: Figure | None = Field(None, description="FVE lost when the claims change order.")
    words_shuffled: Figure | None = Field(None, description="FVE lost when all words change order.")
    quotes_only: Figure | None = None
    prose_only: Figure | None = Field(None, description="Quoted spans taken out.")
    prose_only_gain: Figure | None = Field(None, description="1 − mse(prose) / mse(empty), on the same rows.")
    first_words: dict[int, Figure] = Field({}, description="FVE of the first k words.")
    round_trips: dict[int, Figure] = Field({}, description="FVE against the first activation after k round trips.")
    paraphrased: Figure | None = Field(None, description="FVE lost when another model says it in other words.")
