"""The front matter, through the Hub's own classes: what the Hub indexes, and the model-index of measured figures."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from nla_sdk.contract import Contract
from nla_sdk.evaluation.schema import Evaluation

from .facts.dataset import DatasetFacts
from .facts.licences import Licence

if TYPE_CHECKING:
    from huggingface_hub import DatasetCardData, EvalResult, ModelCardData, SpaceCardData

TAGS = ["natural-language-autoencoder", "nla", "interpretability", "activations", "nla-sdk"]
PORT = 7860
"""Where a Space listens."""
ROLE_TAGS = {"av": "activation-verbalizer", "ar": "activation-reconstructor"}


def model_metadata(
    contract: Contract,
    evaluation: Evaluation | None,
    *,
    repo: str,
    licence: Licence,
    datasets: list[str],
    language: list[str],
    is_adapter: bool,
) -> ModelCardData:
    """A model card's front matter; a model-index only where there is an evaluation."""
    from huggingface_hub import ModelCardData

    results = list(eval_results(evaluation, contract.role)) if evaluation is not None else []
    verdict = [f"nla-verdict-{evaluation.verdict.value}"] if evaluation is not None else []
    base = contract.base_model
    return ModelCardData(
        base_model=base if base and "/" in base and not base.startswith(("/", ".", "~")) else None,
        base_model_relation="adapter" if is_adapter else "finetune",
        library_name="peft" if is_adapter else "transformers",
        pipeline_tag="text-generation" if contract.role == "av" else "feature-extraction",
        license=licence.id,
        tags=[*TAGS, ROLE_TAGS[contract.role], *verdict],
        datasets=datasets or None,
        language=language or None,
        model_name=repo.rpartition("/")[2] if results else None,
        eval_results=results or None,
        **_named(licence),
    )


def _named(licence: Licence) -> dict[str, str]:
    """The Hub wants a name beside "other"."""
    return {"license_name": licence.name} if licence.name else {}


def eval_results(evaluation: Evaluation, role: str) -> Iterator[EvalResult]:
    """The headline figures as the Hub's model-index has them, named so that none can be taken for more than it is."""
    from huggingface_hub import EvalResult

    trip, data = evaluation.round_trip, evaluation.data
    published = "" if evaluation.origin == "measured" else ", as published"
    gain = "Round-trip gain over the empty explanation"
    if trip.gain is None:
        gain += ", derived from the published ablation" if published else ", of the ablation's rows"
    figures = {
        "fve": ("Round-trip FVE, mean-norm baseline", trip.fve),
        "gain": (gain, evaluation.gain),
        "cosine": (
            "Round-trip cosine (does not compare across layers or models)",
            trip.cosine.mean if trip.cosine else None,
        ),
    }
    labels = evaluation.true_labels.conditions.get("real") if evaluation.true_labels is not None else None
    if role == "ar" and labels is not None:
        figures["fve_labels"] = ("FVE on written labels, mean-norm baseline", labels.fve)
    for kind, (name, figure) in figures.items():
        if figure is None:
            continue
        yield EvalResult(
            task_type="feature-extraction",
            task_name="activation round trip",
            dataset_type=data.name,
            dataset_name=data.name,
            metric_type=kind,
            metric_name=f"{name} (n = {figure.n}{'' if 'published' in name else published})",
            metric_value=round(figure.value, 4),
        )


def dataset_metadata(facts: DatasetFacts, *, licence: Licence, language: list[str]) -> DatasetCardData:
    """A dataset card's front matter, with a `configs:` entry per table for the viewer."""
    from huggingface_hub import DatasetCardData

    configs = [
        {"config_name": table.name, "data_files": [{"split": table.split, "path": table.path}]}
        for table in facts.tables
    ]
    return DatasetCardData(
        license=licence.id,
        language=language or None,
        tags=TAGS,
        task_categories=["feature-extraction", "text-generation"],
        size_categories=_size(sum(table.rows for table in facts.tables)),
        configs=configs,
        **_named(licence),
    )


def _size(rows: int) -> str:
    limits = ((1000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
    return next((name for limit, name in limits if rows < limit), "1M<n<10M")


def space_metadata(title: str, named: list[str], evaluation: Evaluation | None) -> SpaceCardData:
    """The front matter of a Docker Space.

    Args:
        named: repositories that it loads, and other words for them; those of the Hub are linked.
    """
    from huggingface_hub import SpaceCardData

    verdict = [f"nla-verdict-{evaluation.verdict.value}"] if evaluation is not None else []
    return SpaceCardData(
        title=title,
        sdk="docker",
        app_port=PORT,
        colorFrom="indigo",
        colorTo="gray",
        pinned=False,
        models=[one for one in named if one.count("/") == 1 and one[0] not in "/.~"] or None,
        tags=[*TAGS, *verdict],
    )
