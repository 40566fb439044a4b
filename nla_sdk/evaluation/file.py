"""The evaluation file: what was measured of a pair, on what, and the verdict; or what somebody published of one.

`training.evaluate` writes it, `training.evaluate verify` recomputes it, cards are rendered from it and can say nothing
else. A **measured** file has its rows beside it and names the SHA-256 of everything it was measured from; a
**published** file holds figures that exist without rows, each of which may be absent. Both carry the SHA-256 of their
own canonical JSON, and a verdict that must follow from their figures: `load` refuses a file where it does not.

NumPy-free and torch-free: reading a file takes pydantic only.

Example:
    >>> found = load(Path("results/demo/evaluation.json"))  # doctest: +SKIP
    >>> found.verdict.value, found.round_trip.fve.value
    ('reads-content', 0.324)
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ..errors import MissingFileError, NLAError

VERSION = 1
EVALUATION, ROWS, VARIANTS = "evaluation.json", "rows.parquet", "variants.parquet"
CONDITIONS = ("real", "shuffled", "unrelated", "nonsense", "empty")
EVALUATED = ("ok", "truncated")  # statuses of rows with an explanation and a reconstruction
MOST_DRAWS = 1_000_000  # more would only keep `verify` busy, and it takes them from the file

VerdictName = Literal["inconclusive", "content-blind", "template-collapsed", "reads-content"]
Interval = tuple[float, float]
Count = Annotated[int, Field(ge=0)]
Proportion = Annotated[float, Field(ge=0, le=1)]
Cosine = Annotated[float, Field(ge=-1, le=1)]
Draws = Annotated[int, Field(ge=1, le=MOST_DRAWS)]


class EvaluationError(NLAError):
    """An evaluation file is malformed, was changed by hand, or contradicts itself."""


class Part(BaseModel):
    """A part of the file: immutable, finite numbers only, unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Figure(Part):
    """A number with what it rests on."""

    value: float
    n: int = Field(ge=0, description="Rows it is a mean over (queries, for retrieval).")
    interval_95: Interval | None = Field(
        None,
        description="95 % bootstrap interval over documents. Of FVE: the rows' baseline is held fixed.",
    )
    p: float | None = Field(None, ge=0, le=1, description="Under the null that there is nothing; see docs.")


class Thresholds(Part):
    """What the verdict is decided by, kept here and nowhere else."""

    fewest_rows: int = Field(10, description="Below this many evaluated rows nothing is said.")
    least_gain: float = Field(0.05, description="Gain (1 − mse(real) / mse(empty)) below this is content-blind.")
    least_unique_share: float = Field(0.70, description="Share of distinct explanations.")
    identity_p: float = Field(0.01, description="Of the mean rank percentile in the cross-row identity test.")


class Subject(Part):
    """The pair."""

    av: str = Field(description="Hub id or folder name of the AV.")
    ar: str = Field(description="Hub id or folder name of the AR.")
    base_model: str | None = None
    layer: int | None = None
    d_model: int | None = None
    matched: bool | None = Field(None, description="Whether the halves name each other; None: not known.")


class Data(Part):
    """The held-out activations."""

    name: str
    sha256: str | None = None
    rows: Count | None = None
    documents: Count | None = None
    families: dict[str, Count] = Field({}, description="Rows by source family.")
    has_labels: bool = False
    has_texts: bool = False


class Settings(Part):
    """What decides the figures, beside the inputs."""

    seed: Count
    floor: Cosine = Field(description="Cosine of the noise floor.")
    max_new_tokens: int = Field(ge=1)
    controls_n: Count
    signal_n: Count
    permutations: Draws
    bootstrap_draws: Draws
    embedder: str | None = Field(None, description="Hub id or folder name; a folder's SHA-256 is in `inputs`.")
    paraphraser: str | None = Field(None, description="Kind and model; the SHA-256 of all its settings is in `inputs`.")


class Cosines(Part):
    """A distribution of cosines."""

    mean: Figure
    std: Proportion | None = None
    median: Cosine | None = None
    min: Cosine | None = None
    max: Cosine | None = None


class Share(Part):
    """`count` of `of`."""

    count: Count
    of: Count

    @model_validator(mode="after")
    def _at_most_all(self) -> Share:
        if self.count > self.of:
            raise ValueError(f"{self.count} of {self.of}: more than all")
        return self

    @property
    def share(self) -> float:
        return self.count / self.of if self.of else 0.0


class Reference(Part):
    """What the data give without any explanation: cosine means nothing without them."""

    mean_cosine: Cosine = Field(description="Cosine of predicting the mean direction.")
    random_pair_cosine: Cosine | None = Field(
        None, description="Mean cosine of two activations of different documents; None: there is one document."
    )
    baseline_mse: float = Field(description="mse of the re-normalised mean direction: FVE's denominator.")
    baseline_mse_raw_variance: float = Field(description="mse of the mean unit vector as it is: the stricter one.")


class RoundTrip(Part):
    """Activation → AV's words → AR's vector. Figures are over the evaluated rows unless they say otherwise."""

    attempted: Count
    evaluated: Count = Field(description="Rows with an explanation and a reconstruction.")
    empty: Count = Field(0, description="Rows for which the AV wrote nothing; not evaluated.")
    failed: Count = Field(0, description="Rows whose vector or reconstruction has no direction; not evaluated.")
    truncated: Count | None = Field(None, description="Evaluated rows whose explanation met the token limit.")
    ar_cut: Count | None = Field(None, description="Evaluated rows whose explanation the AR cut at its max_length.")
    floor: Cosine | None = None
    above_floor: Share | None = None
    fve: Figure | None = Field(None, description="None where all activations are alike: there is nothing to explain.")
    fve_raw_variance: Figure | None = None
    fve_all_attempted: Figure | None = Field(
        None, description="FVE with empty outputs scored as what the AR makes of the empty text."
    )
    gain: Figure | None = Field(None, description="1 − mse(real) / mse(empty).")
    cosine: Cosines | None = None
    mse: Figure | None = None
    mse_min: float | None = None
    mse_max: float | None = None
    reference: Reference | None = None
    by_family: dict[str, Figure] = Field({}, description="FVE.")


class Condition(Part):
    """The AR given one kind of text for the same targets."""

    cosine: Figure
    fve: Figure | None = None
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
        return self.unique / self.n if self.n else 0.0

    @property
    def duplicate_share(self) -> float:
        return 1.0 - self.unique_share if self.n else 0.0


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


class Cost(Part):
    """Time, memory, hardware. Not reproducible, so never compared."""

    seconds: dict[str, float] = Field({}, description="By part of the evaluation; of all legs of a resumed run.")
    rows_per_second: float | None = None
    tokens_per_second: float | None = Field(None, description="Tokens the AV wrote per second.")
    peak_memory_gib: float | None = None
    hardware: str | None = None


class Verdict(Part):
    value: VerdictName
    reason: str
    thresholds: Thresholds


class Evaluation(Part):
    """The whole file."""

    schema_version: Literal[1] = VERSION
    origin: Literal["measured", "published"]
    published_at: str | None = Field(None, description="Of published figures: where they stand.")
    subject: Subject
    data: Data
    settings: Settings | None = None
    inputs: dict[str, str] = Field(
        {}, description="SHA-256 by name: contracts, adapters, heads, means, the parquet, paraphraser and embedder."
    )
    versions: dict[str, str] = Field({}, description="Code (commit) that computed the figures, and libraries.")
    measured_by: list[str] = Field(
        [], description="Code (commit) of every run that measured rows: more than one if it was killed and resumed."
    )
    round_trip: RoundTrip
    ablation: Ablation | None = None
    true_labels: Ablation | None = Field(None, description="The AR on the written labels, where the data have them.")
    identity: Identity | None = None
    true_labels_identity: Identity | None = None
    content: Content | None = None
    controls: list[Control] = []
    collapse: Collapse | None = None
    signal: Signal | None = None
    cost: Cost | None = None
    verdict: Verdict
    files: dict[str, str] = Field({}, description="SHA-256 of the tables beside the file.")
    created: str | None = Field(None, description="UTC, ISO 8601.")

    @property
    def gain(self) -> Figure | None:
        """Of the round trip over the empty explanation: measured over all rows, or what the ablation implies."""
        if self.round_trip.gain is not None:
            return self.round_trip.gain
        delta = self.ablation.deltas.get("empty") if self.ablation else None
        return delta.gain if delta else None

    @model_validator(mode="after")
    def _consistent(self) -> Evaluation:
        trip = self.round_trip
        if trip.evaluated + trip.empty + trip.failed != trip.attempted:
            raise ValueError(
                f"round_trip: {trip.evaluated} evaluated + {trip.empty} empty + {trip.failed} failed rows are not the "
                f"{trip.attempted} attempted"
            )
        if self.origin == "measured":
            wanted = ("sha256", "rows", "documents")
            named = all(getattr(self.data, name) is not None for name in wanted)
            if not named or self.settings is None or not self.inputs or ROWS not in self.files:
                raise ValueError(
                    "a measured file names its data, its settings, and the SHA-256 of its inputs and of its rows"
                )
            if self.inputs.get(self.data.name) != self.data.sha256:
                raise ValueError(f"data.sha256 is not the SHA-256 that inputs have for {self.data.name}")
        if self.origin == "published" and self.published_at is None:
            raise ValueError("published figures need `published_at`: where they were published")
        expected = decide(self)
        if self.verdict.value != expected.value:
            raise ValueError(
                f"the verdict is {self.verdict.value}, but its figures give {expected.value} ({expected.reason})"
            )
        if self.verdict.thresholds != expected.thresholds:
            raise ValueError("the verdict's thresholds are not those of this nla-sdk: a file does not choose its own")
        if self.verdict.reason != expected.reason:
            raise ValueError(f"the verdict's reason is not the one its figures give: {expected.reason}")
        return self


def decide(evaluation: Evaluation | Mapping[str, Any]) -> Verdict:
    """The verdict, from the figures and `Thresholds()`; the first rule that holds.

    1. fewer than `fewest_rows` evaluated rows → inconclusive
    2. gain below `least_gain`, or its interval touches 0 → content-blind
    3. share of distinct explanations below `least_unique_share` → template-collapsed
    4. better than other rows' explanations, and identity p below `identity_p` → reads-content
    5. else inconclusive

    Args:
        evaluation: the file, or its parts by name (`round_trip`, `ablation`, `identity`, `collapse`).
    """
    get = evaluation.get if isinstance(evaluation, Mapping) else lambda name: getattr(evaluation, name)
    limits = Thresholds()
    trip, ablation, identity, collapse = (get(name) for name in ("round_trip", "ablation", "identity", "collapse"))

    def verdict(value: VerdictName, reason: str) -> Verdict:
        return Verdict(value=value, reason=reason, thresholds=limits)

    if trip.evaluated < limits.fewest_rows:
        return verdict("inconclusive", f"{trip.evaluated} evaluated rows, at least {limits.fewest_rows} needed")
    deltas = ablation.deltas if ablation is not None else {}
    gain = trip.gain or (deltas["empty"].gain if "empty" in deltas else None)
    if gain is None:
        return verdict("inconclusive", "the gain over the empty explanation is not known")
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
    over = deltas["shuffled"].gain if "shuffled" in deltas else None
    p = identity.percentile.p if identity is not None else None
    if over is not None and over.value > 0 and p is not None and p < limits.identity_p and collapse is not None:
        return verdict(
            "reads-content",
            f"gain {gain.value:.3f} over the empty explanation and {over.value:.3f} over other rows'; the own "
            f"activation's mean rank percentile {identity.percentile.value:.3f} (p = {p:.2g})",
        )
    said = "not known" if over is None else f"{over.value:.3f}"
    return verdict(
        "inconclusive",
        f"gain over other rows' explanations {said}, p of the identity rank percentile "
        f"{'not known' if p is None else f'{p:.2g}'}",
    )


# --- reading and writing ---------------------------------------------------------------------------------------------
def canonical(evaluation: Evaluation) -> str:
    """The file's JSON without its own hash: sorted keys, no spaces, shortest floats, absent parts left out."""
    values = evaluation.model_dump(mode="json", exclude_none=True)
    return json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest(evaluation: Evaluation) -> str:
    """SHA-256 of the canonical JSON."""
    return hashlib.sha256(canonical(evaluation).encode()).hexdigest()


def dumps(evaluation: Evaluation) -> str:
    """The file's text: readable JSON, its hash last."""
    values = evaluation.model_dump(mode="json", exclude_none=True)
    return json.dumps({**values, "sha256": digest(evaluation)}, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def save(evaluation: Evaluation, path: Path) -> Path:
    """Write the file atomically."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "w", encoding="utf-8", newline="\n") as stream:
            stream.write(dumps(evaluation))
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def load(path: Path) -> Evaluation:
    """Read an evaluation file and check what it says of itself.

    Raises:
        MissingFileError: there is no such file.
        EvaluationError: malformed; or a figure was changed: its hash, its verdict or its arithmetic does not hold.
    """
    path = Path(path)
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise MissingFileError(
            f"{path} does not exist; expected an evaluation file (training.evaluate makes one)."
        ) from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise EvaluationError(f"{path} is no readable JSON: {error}.") from error
    if not isinstance(found, dict):
        raise EvaluationError(f"{path} holds a {type(found).__name__}; expected an evaluation.")
    if "schema_version" not in found:
        raise EvaluationError(f"{path} is no evaluation file: it has no schema_version. Measure the pair again.")
    if found["schema_version"] != VERSION:
        raise EvaluationError(
            f"{path} has schema version {found['schema_version']!r}; this nla-sdk reads {VERSION}. Update one of them."
        )
    stated = found.pop("sha256", None)
    try:
        evaluation = Evaluation.model_validate(found)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise EvaluationError(f"{path}: {where}: {first['msg']}.") from None
    if stated != digest(evaluation):
        raise EvaluationError(
            f"{path} was changed after it was written: its SHA-256 is {digest(evaluation)[:12]}…, it states "
            f"{str(stated)[:12]}…. Restore it, or measure the pair again."
        )
    if wrong := contradictions(evaluation):
        raise EvaluationError(f"{path} contradicts itself: {'; '.join(wrong)}.")
    return evaluation


def contradictions(evaluation: Evaluation) -> list[str]:
    """What the file's own arithmetic refutes: mse = 2 (1 − cos), gains, shares, counts, order. Empty if it holds.

    Measured figures must agree within 1e-6, published ones, which are rounded, within 1e-3.
    """
    tolerance = 1e-6 if evaluation.origin == "measured" else 1e-3
    return [
        *_round_trip(evaluation, tolerance),
        *_ablations(evaluation, tolerance),
        *_tests(evaluation, tolerance),
        *_collapse(evaluation),
        *_figures(evaluation.model_dump(exclude_none=True), tolerance, inside=evaluation.origin == "published"),
    ]


def _same(what: str, stated: float | None, follows: float | None, tolerance: float) -> Iterator[str]:
    if stated is not None and follows is not None and not math.isclose(stated, follows, rel_tol=0, abs_tol=tolerance):
        yield f"{what} is {stated:g}, but {follows:g} follows from the other figures"


def _ordered(what: str, tolerance: float, **named: float | None) -> Iterator[str]:
    """Values that must not fall, from left to right; those that are absent are left out."""
    there = {name: value for name, value in named.items() if value is not None}
    if any(one > following + tolerance for one, following in pairwise(there.values())):  # a mean of equal ones rounds
        yield f"{what}: {', '.join(there)} are not in order: {list(there.values())}"


def _round_trip(evaluation: Evaluation, tolerance: float) -> Iterator[str]:
    trip, cosines = evaluation.round_trip, evaluation.round_trip.cosine
    if evaluation.data.rows is not None and trip.attempted != evaluation.data.rows:
        yield f"round_trip: {trip.attempted} rows attempted, the data have {evaluation.data.rows}"
    for name in ("truncated", "ar_cut"):
        if (getattr(trip, name) or 0) > trip.evaluated:
            yield f"round_trip.{name} is {getattr(trip, name)}, evaluated were {trip.evaluated}"
    for name in ("fve", "fve_raw_variance", "gain", "mse"):
        if (one := getattr(trip, name)) is not None and one.n != trip.evaluated:
            yield f"round_trip: {name} is over {one.n} rows, evaluated were {trip.evaluated}"
    if trip.above_floor is not None and trip.above_floor.of != trip.evaluated:
        yield f"round_trip.above_floor is of {trip.above_floor.of} rows, evaluated were {trip.evaluated}"
    if cosines is not None:
        mean = cosines.mean.value
        if cosines.mean.n != trip.evaluated:
            yield f"round_trip: cosine is over {cosines.mean.n} rows, evaluated were {trip.evaluated}"
        if not -1 <= mean <= 1:
            yield f"round_trip.cosine.mean is {mean:g}, no cosine"
        yield from _ordered("round_trip.cosine", tolerance, min=cosines.min, mean=mean, max=cosines.max)
        yield from _ordered("round_trip.cosine", tolerance, min=cosines.min, median=cosines.median, max=cosines.max)
        yield from _same("round_trip.mse", trip.mse.value if trip.mse else None, 2 * (1 - mean), tolerance)
        for name, of in (("mse_min", cosines.max), ("mse_max", cosines.min)):
            yield from _same(f"round_trip.{name}", getattr(trip, name), None if of is None else 2 * (1 - of), tolerance)
        if trip.above_floor is not None and trip.floor is not None:
            count, of = trip.above_floor.count, trip.above_floor.of
            if (cosines.min or -1) > trip.floor and count < of or (cosines.max or 1) <= trip.floor and count:
                yield f"round_trip.above_floor is {count} of {of}, which the least or largest cosine refutes"
    if trip.fve is not None and trip.mse is not None and trip.reference is not None:
        follows = 1 - trip.mse.value / trip.reference.baseline_mse if trip.reference.baseline_mse else None
        yield from _same("round_trip.fve", trip.fve.value, follows, tolerance)


def _ablations(evaluation: Evaluation, tolerance: float) -> Iterator[str]:
    trip = evaluation.round_trip
    for name, found in (("ablation", evaluation.ablation), ("true_labels", evaluation.true_labels)):
        if found is None:
            continue
        for kind, one in found.conditions.items():
            if not -1 <= one.cosine.value <= 1:
                yield f"{name}.conditions.{kind}.cosine is {one.cosine.value:g}, no cosine"
            if one.cosine.n != found.n or (one.above_floor is not None and one.above_floor.of != found.n):
                yield f"{name}.conditions.{kind} is not over the {found.n} rows of the ablation"
        if "real" not in found.conditions:
            continue
        real = found.conditions["real"].cosine.value
        for other, delta in found.deltas.items():
            if other not in found.conditions:
                yield f"{name}.deltas.{other} has no condition of that name"
                continue
            cosine = found.conditions[other].cosine.value
            yield from _same(f"{name}.deltas.{other}.cosine", delta.cosine.value, real - cosine, tolerance)
            if delta.gain is not None and cosine < 1:
                follows = 1 - (1 - real) / (1 - cosine)
                yield from _same(f"{name}.deltas.{other}.gain", delta.gain.value, follows, tolerance)
    found = evaluation.ablation
    if trip.gain is None or found is None or found.n != trip.gain.n or not {"real", "empty"} <= set(found.conditions):
        return
    real, empty = (found.conditions[name].cosine.value for name in ("real", "empty"))
    if empty < 1:
        yield from _same("round_trip.gain", trip.gain.value, 1 - (1 - real) / (1 - empty), tolerance)


def _tests(evaluation: Evaluation, tolerance: float) -> Iterator[str]:
    """Identity and retrieval: shares, and their chance."""
    for name in ("identity", "true_labels_identity"):
        if (one := getattr(evaluation, name)) is not None:
            for part in ("top1", "percentile"):
                if not 0 <= getattr(one, part).value <= 1:
                    yield f"{name}.{part} is {getattr(one, part).value:g}, no share"
            yield from _same(f"{name}.chance", one.chance, 1 / one.n if one.n else None, tolerance)
    for at, one in enumerate(evaluation.content.retrieval if evaluation.content else []):
        where = f"content.retrieval.{at}"
        yield from _same(f"{where}.chance", one.chance, 1 / one.documents if one.documents else None, tolerance)
        if one.top1 is not None and one.by_seed:
            yield from _same(f"{where}.top1", one.top1.value, min(one.by_seed), tolerance)
        if one.eligible is not None and one.eligible < one.queries:
            yield f"{where}: {one.queries} queries among {one.eligible} rows"


def _collapse(evaluation: Evaluation) -> Iterator[str]:
    if (one := evaluation.collapse) is None:
        return
    if one.n != evaluation.round_trip.evaluated:
        yield f"collapse is over {one.n} rows, evaluated were {evaluation.round_trip.evaluated}"
    if one.unique > one.n:
        yield f"collapse: {one.unique} distinct explanations among {one.n}"
    counts = {f"{length} characters": count for length, count in one.prefixes.items()}
    for what, count in ({"four words": one.stems} | counts).items():
        if count is not None and count > one.unique:
            yield f"collapse: {count} distinct beginnings of {what} of {one.unique} distinct explanations"
    if sum(count for _, count in one.commonest_stems) > one.n:
        yield f"collapse: the commonest openings have more than {one.n} rows"


def _figures(part: Any, tolerance: float, inside: bool, where: str = "") -> Iterator[str]:
    """Every interval, wherever it is: its ends in order; where `inside`, its value between them.

    Not of measured files: a percentile bootstrap of few draws may miss its own value, and `verify` draws it again.
    """
    if isinstance(part, list | tuple):
        part = dict(enumerate(part))
    if not isinstance(part, dict):
        return
    if "interval_95" in part:
        (low, high), value = part["interval_95"], part["value"]
        if low > high or inside and not low - tolerance <= value <= high + tolerance:
            yield f"{where.lstrip('.')} is {value:g} with the interval [{low:g}, {high:g}]"
    for name, one in part.items():
        yield from _figures(one, tolerance, inside, f"{where}.{name}")
