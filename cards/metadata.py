"""The front matter, through the Hub's own classes: what the Hub indexes, and the model-index of measured figures."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nla_sdk.contract import Contract
from nla_sdk.evaluation.schema import Evaluation

from .facts.dataset import DatasetFacts
from .facts.licences import Licence
from .facts.results import model_index

if TYPE_CHECKING:
    from huggingface_hub import DatasetCardData, ModelCardData, SpaceCardData

LIBRARY = "nla-sdk"
TAGS = ["natural-language-autoencoder", "nla", "interpretability", "activations", LIBRARY]
ADAPTER_TAGS = ["peft", "lora"]
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
    source: str | None,
    benchmark: str | None,
) -> ModelCardData:
    """A model card's front matter; a model-index only where there is an evaluation.

    Args:
        source: where the evaluation file is published; benchmark: the dataset that holds its held-out table.
    """
    from huggingface_hub import ModelCardData

    results = []
    if evaluation is not None:
        results = model_index(evaluation, str(contract.role), source=source, dataset=benchmark)
    verdict = [f"nla-verdict-{evaluation.verdict.value}"] if evaluation is not None else []
    base = contract.base_model
    return ModelCardData(
        base_model=base if base and "/" in base and not base.startswith(("/", ".", "~")) else None,
        base_model_relation="adapter" if is_adapter else "finetune",
        library_name=LIBRARY,
        pipeline_tag="text-generation" if contract.role == "av" else "feature-extraction",
        license=licence.id,
        tags=[*TAGS, ROLE_TAGS[contract.role], *(ADAPTER_TAGS if is_adapter else ()), *verdict],
        datasets=datasets or None,
        language=language or None,
        model_name=repo.rpartition("/")[2] if results else None,
        eval_results=results or None,
        **_named(licence),
    )


def _named(licence: Licence) -> dict[str, str]:
    """The Hub wants a name beside "other"."""
    return {"license_name": licence.name} if licence.name else {}


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
