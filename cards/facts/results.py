"""An evaluation's headline figures for the Hub: the `model-index` of a card, and entries of `.eval_results`.

Both say what the evaluation file says and nothing else. A figure's name says what it is relative to, over how many rows
it is a mean, and its interval. The formats: https://huggingface.co/docs/hub/model-cards#evaluation-results and
https://huggingface.co/docs/hub/eval-results, whose required fields the Hub's client does not look at (`checked`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from nla_sdk.evaluation.parts import Balanced, Figure
from nla_sdk.evaluation.reading import digest
from nla_sdk.evaluation.schema import EVALUATION, Evaluation

from ..errors import CardError

if TYPE_CHECKING:
    from huggingface_hub import EvalResult, EvalResultEntry

ENTRIES = ".eval_results/nla.yaml"
TASKS = {
    "fve": "round_trip_fve",
    "fve_balanced": "round_trip_fve_balanced",
    "gain": "round_trip_gain",
    "fve_labels": "labels_fve",
}
"""Task ids of `.eval_results`, by kind of figure: a dataset that is to be a benchmark names them in its eval.yaml.
Cosine is not among them: it does not compare across models, and a leaderboard compares."""
DIGITS = 4


@dataclass(frozen=True)
class Headline:
    """One figure.

    Attributes:
        kind: "fve", "fve_balanced", "gain", "cosine", or of an AR "fve_labels".
        name: what it is, and relative to what.
    """

    kind: str
    name: str
    figure: Figure

    @property
    def told(self) -> str:
        """Its name with what it rests on."""
        end = ""
        if self.figure.interval_95 is not None:
            low, high = (f"{one:.3f}".replace("-", "−") for one in self.figure.interval_95)
            end = f", 95 % [{low}, {high}]"
        return f"{self.name} (n = {self.figure.n}{end})"

    @property
    def value(self) -> float:
        """Rounded as cards show it, and a little less."""
        return round(self.figure.value, DIGITS)


def headlines(evaluation: Evaluation, role: str) -> Iterator[Headline]:
    """The figures that the Hub is told, as far as the file has them.

    FVE is 1 − mse / mse of predicting the mean direction of the rows; gain is 1 − mse / mse of what the AR makes of no
    text (https://transformer-circuits.pub/2026/nla/ for FVE; docs/evaluation.md).
    """
    trip = evaluation.round_trip
    published = "" if evaluation.origin == "measured" else ", as published"
    over = ", over the mean direction"
    gained = "Held-out round-trip gain, over the empty explanation"
    if trip.gain is None:
        gained += ", derived from the published ablation" if published else ", of the ablation's rows"
    else:
        gained += published
    balanced = trip.fve_balanced
    found: list[tuple[str, str, Figure | None]] = [
        ("fve", f"Held-out round-trip FVE{over}{published}", trip.fve),
        ("fve_balanced", f"Held-out round-trip FVE{over}{_families(balanced)}{published}", balanced),
        ("gain", gained, evaluation.gain),
        (
            "cosine",
            f"Held-out round-trip cosine{published}, which does not compare across layers or models",
            trip.cosine.mean if trip.cosine else None,
        ),
    ]
    labels = evaluation.true_labels.conditions.get("real") if evaluation.true_labels is not None else None
    if role == "ar" and labels is not None:
        found.append(("fve_labels", f"FVE of written labels, held-out rows{over}{published}", labels.fve))
    for kind, name, figure in found:
        if figure is not None:
            yield Headline(kind, name, figure)


def _families(balanced: Balanced | None) -> str:
    return f", mean of {balanced.families} source families" if balanced is not None else ""


def model_index(
    evaluation: Evaluation, role: str, *, source: str | None = None, dataset: str | None = None
) -> list[EvalResult]:
    """The results of a card's `model-index`: the figures, and the verdict in its own word.

    Args:
        source: where the evaluation file is published.
        dataset: the Hub's dataset that holds the held-out table; None: it goes by the table's name.
    """
    from huggingface_hub import EvalResult

    def result(kind: str, name: str, value: float | str) -> EvalResult:
        return EvalResult(
            task_type="feature-extraction",
            task_name="activation round trip",
            dataset_type=dataset or evaluation.data.name,
            dataset_name=evaluation.data.name,
            metric_type=kind,
            metric_name=name,
            metric_value=value,
            source_name=f"{EVALUATION} (nla-sdk)" if source else None,
            source_url=source,
        )

    found = [result(one.kind, one.told, one.value) for one in headlines(evaluation, role)]
    if not found:
        return []
    of = "" if evaluation.origin == "measured" else "published "
    said = f"Verdict, by nla-sdk's fixed thresholds, of these {of}figures"
    return [*found, result("verdict", said, evaluation.verdict.value)]


def hub_entries(evaluation: Evaluation, role: str, *, dataset: str, source: str) -> list[EvalResultEntry]:
    """The same figures as entries of `.eval_results`, but for cosine.

    Args:
        dataset: owner/name of the dataset on the Hub that holds the very table they were measured on.
        source: where the evaluation file is published.
    Raises:
        CardError: an entry lacks what the Hub requires; published figures, which are not re-measured, make none.
    """
    from huggingface_hub import EvalResultEntry

    if evaluation.origin != "measured":
        raise CardError("Published figures were not re-measured: they are no results of a dataset on the Hub.")
    subject, sha256 = evaluation.subject, evaluation.data.sha256 or ""
    about = (
        f"verdict {evaluation.verdict.value}; block {subject.layer}"
        + (f" of {subject.base_model}" if subject.base_model else "")
        + f"; table SHA-256 {sha256[:12]}, evaluation {digest(evaluation)[:12]}"
    )
    return [
        checked(
            EvalResultEntry(
                dataset_id=dataset,
                task_id=TASKS[one.kind],
                value=one.value,
                date=evaluation.created,
                source_url=source,
                source_name=f"{EVALUATION} (nla-sdk)",
                notes=f"{one.told}; {about}",
            )
        )
        for one in headlines(evaluation, role)
        if one.kind in TASKS
    ]


def checked(entry: EvalResultEntry) -> EvalResultEntry:
    """The entry, if it has what the Hub requires and nothing that it could not read.

    Raises:
        CardError: names the field.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    def refuse(name: str, found: object, expected: str) -> CardError:
        return CardError(f"An entry of {ENTRIES} has {name} {found!r}; the Hub expects {expected}.")

    try:
        validate_repo_id(entry.dataset_id)
        named = entry.dataset_id.count("/") == 1
    except HFValidationError:
        named = False
    if not named:
        raise refuse("dataset.id", entry.dataset_id, "owner/name of a dataset")
    if not isinstance(entry.task_id, str) or not entry.task_id.strip():
        raise refuse("dataset.task_id", entry.task_id, "the id of a task of the dataset's eval.yaml")
    is_number = isinstance(entry.value, int | float) and not isinstance(entry.value, bool)
    if not is_number or not math.isfinite(entry.value):
        raise refuse("value", entry.value, "a number")
    if entry.date is not None:
        try:
            datetime.fromisoformat(entry.date.removesuffix("Z"))
        except ValueError:
            raise refuse("date", entry.date, "a date or a time of ISO 8601") from None
    if entry.source_url is not None and not entry.source_url.startswith(("https://", "http://")):
        raise refuse("source.url", entry.source_url, "a web address")
    return entry


def entries_file(entries: Sequence[EvalResultEntry]) -> str:
    """The text of `.eval_results/nla.yaml`."""
    from huggingface_hub import eval_result_entries_to_yaml
    from huggingface_hub.utils import yaml_dump

    return yaml_dump(eval_result_entries_to_yaml(list(entries)), sort_keys=False)
