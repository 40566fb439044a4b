"""Answers of our own API."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from .common import Finite, Token, Tokenized, Told


class VerdictOf(Told):
    """What the pair is judged to be, and why."""

    value: str
    reason: str


class Figures(Told):
    """What was measured of the pair."""

    rows: int
    fve_real: float | None
    fve_empty: float | None
    fve_shuffled: float | None
    gain: float | None


class KindOf(Told):
    """Claims of one kind: how often they hold, beside another document's claims held against the same texts."""

    kind: str
    n: int
    precision: float | None
    chance: float | None


class CalibrationOf(Told):
    """What the probabilities of claims rest on."""

    data: str
    unit: str
    receipts: list[str]
    n: int | None
    documents: int | None
    ece: float | None
    auroc: float | None
    kinds: list[KindOf]


class Pair(Told):
    """The pair that is served."""

    name: str
    av: str | None
    ar: str | None
    base: str
    layer: int
    layers: list[int] | Literal["any"] | None
    d_model: int
    num_layers: int
    kind: Literal["pair", "av", "ar", "oracle"]
    centred: bool
    norm_matters: bool
    matched: bool
    baseline_mse: float | None
    verdict: VerdictOf | None
    warning: str | None
    evaluation: Figures | None
    calibration: CalibrationOf | None = Field(description="Of the probability that a claim is supported; null: none.")
    questions: list[str]
    has_av: bool
    has_ar: bool
    has_source: bool
    has_chat: bool
    limits: dict[str, Any]
    version: str
    precision: str


class ScoreColumns(Told):
    """How near a reconstruction came, beside what no words and the mean direction score."""

    cosine: float | None = None
    mse: float | None = None
    fve: float | None = None
    gain: float | None = None
    empty_cosine: float | None = None
    empty_fve: float | None = None
    mean_cosine: float | None = None
    mean_fve: float | None = None
    matched: bool | None = None


class Row(ScoreColumns):
    """A row: the SDK's own columns, where it is in the text, and what number it has."""

    index: int
    sample: int = 0
    position: int | None = None
    token: str | None = None
    l2_norm: float | None = None
    text_index: int | None = None
    api_explanation: str | None = None
    explanation_status: str | None = None
    explanation_raw: str | None = None
    tokens_written: int | None = None
    best_of: int | None = None
    sign: str | None = None
    kind: str | None = None
    question: str | None = None
    activation_layer: int | None = None
    shuffled_cosine: float | None = None
    shuffled_mse: float | None = None
    shuffled_gain: float | None = None
    shuffled_of: int | None = None
    activation_vector: list[Finite | None] | None = None
    reconstruction: list[Finite | None] | None = None
    error: str | None = Field(None, description="Of a row that failed: the error's class.")
    detail: str | None = None


class Rows(Told):
    """Rows; what looks wrong with the vectors that were passed in."""

    layer: int
    warning: str | None = None
    rows: list[Row]


class ReadRow(Token):
    """A token and its activation."""

    l2_norm: float
    activation_vector: list[Finite]


class Extracted(Told):
    """What was read."""

    layer: int
    prompt_length: int
    rows: list[ReadRow]


class ScoreRow(ScoreColumns):
    """A score."""

    index: int


class Scores(Told):
    """Scores, a row each."""

    rows: list[ScoreRow]


class ReceiptOf(Told):
    """What speaks for a claim, and the same by chance."""

    value: float | None
    null: float | None


class ClaimOf(Told):
    """A claim of an explanation: `explanation[start:end]`, in Unicode code points."""

    text: str
    kind: str
    start: int
    end: int
    support: float | None = Field(description="Probability that the text says so, as far as it was calibrated.")
    holds: bool | None = Field(description="Whether it holds in the text that is known; the probability is without it.")
    why_no_support: str | None
    reason: str
    receipts: dict[str, ReceiptOf]


class Checked(Told):
    """An explanation's claims; `support` is their mean."""

    index: int
    support: float | None
    why_no_support: str | None
    unit: str | None = Field(description="Of ablation, replacement and alone: FVE or gain.")
    missing: dict[str, str] = Field(description="Why a receipt is there for no claim.")
    facts: dict[str, Any]
    claims: list[ClaimOf]


class CheckedRows(Told):
    """Checked explanations, a row each; what looks wrong with the vectors that were passed in."""

    layer: int
    warning: str | None
    rows: list[Checked]


class Near(Told):
    """A token of the text, and its cosine to the reconstruction."""

    position: int
    token: str
    cosine: float


class Rebuilt(Told):
    """A reconstruction."""

    index: int
    l2_norm: float
    reconstruction: list[Finite] | None = None
    nearest: list[Near] = []


class Reconstructions(Told):
    """Reconstructions; whether their cosines are of what is left over the mean."""

    centred: bool
    rows: list[Rebuilt]


class Moved(Told):
    """A next token whose probability changed."""

    token: str
    plain: float
    steered: float


class Steered(Told):
    """What was written with the direction and without."""

    index: int
    prompt: str
    towards: str
    strength: float
    layer: int
    plain: str
    steered: str
    moved: list[Moved]


class SteeredRows(Told):
    """What was written, a row for each prompt, direction or strength."""

    rows: list[Steered]


class Comparison(Told):
    """Two rows in words, and what lies between them."""

    index: int
    a: str
    b: str
    difference: str
    reverse: str | None
    norm: float
    cosine: float
    a_status: str
    b_status: str
    difference_status: str
    reverse_status: str | None
    a_raw: str
    b_raw: str
    difference_raw: str
    reverse_raw: str | None
    a_tokens_written: int
    b_tokens_written: int
    difference_tokens_written: int
    reverse_tokens_written: int | None
    words_only_a: list[str]
    words_only_b: list[str]
    words_both: list[str]
    activation_vector: list[Finite] | None = None


class Completed(Tokenized):
    """A text that the source went on with.

    `pieces` is what each token adds to `completion`, a character that several spell with the last of them; `finished`
    whether an end token came.
    """

    completion: str
    pieces: list[str]
    finished: bool


class Comparisons(Told):
    """Comparisons, a row each."""

    rows: list[Comparison]


class UploadedRow(Told):
    """A vector of a file."""

    index: int
    label: str
    norm: float
    vector: list[Finite]


class Uploaded(Told):
    """The vectors of a file, and what is known of them."""

    kind: str
    layer: int | list[int]
    model: str | None
    source: str
    assumed: list[str]
    unknown: list[str]
    count: int
    rows: list[UploadedRow]


class Release(Told):
    """A published release."""

    repo: str
    subfolder: str | None
    family: str
    kind: str
    runnable: bool
    missing: list[str]
    faults: list[str]


class Releases(Told):
    """The releases that are known."""

    releases: list[Release]
