"""Cards: a contract and an evaluation file → a README with front matter, for models, tables and trajectories.

Every number is the contract's or the evaluation file's. Without an evaluation a card says "Not evaluated" and makes no
claim about quality; published figures are said to be "as published, not re-measured"; a verdict's box cannot be
switched off. Strings from files are inert (`cards.text`), templates are rendered in a sandbox, and free text comes from
the author's notes only, in a section of its own. Needs no torch.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from nla_sdk.contract import Contract
from nla_sdk.evaluation.reading import load
from nla_sdk.evaluation.schema import Evaluation
from nla_sdk.io.files import atomic

from . import metadata
from .errors import CardError
from .facts.dataset import DatasetFacts
from .facts.licences import Made, licence_of
from .facts.recipe import Recipe
from .notes import kept_sections, notes_in, tame
from .sandbox import BUNDLED, fill

if TYPE_CHECKING:
    from huggingface_hub import CardData

Kind = Literal["av", "ar", "dataset", "trajectory"]
METHOD = "https://transformer-circuits.pub/2026/nla/"


@dataclass(frozen=True)
class Card:
    """A rendered card.

    Attributes:
        metadata: of the front matter.
        body: Markdown below it.
    """

    metadata: CardData
    body: str

    @property
    def text(self) -> str:
        """The whole README.md."""
        return f"---\n{self.metadata.to_yaml()}\n---\n\n{self.body}"

    def save(self, path: Path) -> Path:
        """Write it, atomically; returns its path."""
        path = Path(path)
        with atomic(path) as sibling:
            sibling.write_text(self.text, encoding="utf-8", newline="\n")
        return path


@dataclass(frozen=True)
class Checkpoint:
    """One step of a trajectory: its folder in the repository, its contract, its evaluation if there is one."""

    name: str
    contract: Contract
    evaluation: Evaluation | None = None


@dataclass(frozen=True)
class About:
    """What a card says beside contract and evaluation.

    Attributes:
        repo: owner/name it is published as.
        pair: the other half's repository; of a table the AV's.
        pair_ar: of a table, the AR's repository.
        notes: the author's card_notes.md.
        existing: the card that is there now, for its `<!-- keep -->` sections.
        figures: names of the figures beside the card, `figures/<name>.png`.
        files: path → bytes of what is published.
        datasets: repositories of the training data.
        language: ISO 639-1 codes of the explanations.
        licence: the author's word on the licence, an id of the Hub's list.
        is_adapter: LoRA on the base, as opposed to a full checkpoint.
        dataset: of a table: the facts of all tables.
        checkpoints: of a trajectory.
        trend: what the training loss did at the end, in words.
        evaluation_url: where the evaluation file is published.
        benchmark: the dataset on the Hub that holds the table it was measured on.
        in_part: not all that the card describes is published anew: notes, licence and training data stay as `existing`
            has them, where nothing else is said.
        author, year: for the citation; default: the repository's owner, the year of the evaluation.
    """

    repo: str
    pair: str | None = None
    pair_ar: str | None = None
    notes: str | None = None
    existing: str | None = None
    figures: Sequence[str] = ()
    files: Mapping[str, int] = field(default_factory=dict)
    datasets: Sequence[str] = ()
    language: Sequence[str] = ("en",)
    licence: str | None = None
    is_adapter: bool = True
    dataset: DatasetFacts | None = None
    checkpoints: Sequence[Checkpoint] = ()
    trend: str | None = None
    evaluation_url: str | None = None
    benchmark: str | None = None
    in_part: bool = False
    author: str | None = None
    year: int | None = None


def render(
    contract: Contract,
    evaluation: Evaluation | Path | None = None,
    training_log: Path | None = None,
    kind: Kind | None = None,
    *,
    about: About,
) -> Card:
    """Render a card.

    Args:
        contract: of the half; of a table's sidecar; of a trajectory's last checkpoint.
        evaluation: the file or its path; None: not evaluated.
        training_log: `log.jsonl` of the training, for steps and time; None: not at hand.
        kind: default: the contract's role.
        about: repository, other half, notes, figures, …
    Raises:
        CardError: the kind does not fit the contract, or something it needs is missing.
        EvaluationError: the evaluation file does not hold.
    Example:
        >>> card = render(contract, None, about=About("ada/cat-av", pair="ada/cat-ar"))  # doctest: +SKIP
        >>> card.save(Path("README.md"))
    """
    kind = kind or contract.role or "dataset"
    if isinstance(evaluation, (str, os.PathLike)):
        evaluation = load(evaluation)
    if kind in ("av", "ar") and contract.role != kind:
        raise CardError(f"A card of kind {kind} was asked for, the contract is of role {contract.role}.")
    if kind == "dataset" and about.dataset is None:
        raise CardError("A dataset card needs the facts of its tables: About(dataset=DatasetFacts.read(paths)).")
    if kind == "trajectory" and not about.checkpoints:
        raise CardError("A trajectory card needs its checkpoints: About(checkpoints=[Checkpoint(…), …]).")
    _check_subject(evaluation, contract)
    for checkpoint in about.checkpoints:
        _check_subject(checkpoint.evaluation, checkpoint.contract)
    made: Made = "data" if kind == "dataset" else "adapter" if about.is_adapter else "model"
    if about.in_part and about.existing:
        about = _with_what_stands(about, licence_of(contract.base_model, None, made).id)
    licence = licence_of(contract.base_model, about.licence, made)
    if kind == "dataset":
        data = metadata.dataset_metadata(about.dataset, licence=licence, language=list(about.language))
    else:
        data = metadata.model_metadata(
            contract,
            evaluation if kind != "trajectory" else None,
            repo=about.repo,
            licence=licence,
            datasets=list(about.datasets),
            language=list(about.language),
            is_adapter=about.is_adapter,
            source=about.evaluation_url,
            benchmark=about.benchmark,
        )
    body = fill(
        f"{'model' if kind in ('av', 'ar') else kind}.md",
        contract=contract,
        evaluation=evaluation,
        about=about,
        kind=kind,
        role=contract.role,
        licence=licence,
        recipe=Recipe.read(contract, training_log),
        logged=training_log is not None,
        notes=tame(about.notes) if about.notes else notes_in(about.existing) if about.in_part else None,
        kept=kept_sections(about.existing),
        author=about.author or (None if about.repo in BUNDLED else about.repo.split("/")[0]),
        year=about.year or _year_of(evaluation),
        method=METHOD,
    )
    return Card(data, body)


def _with_what_stands(about: About, known: str) -> About:
    """What the card there says and what is published in part does not: licence and training data.

    Args:
        known: the licence that the base's name tells.
    """
    from huggingface_hub import ModelCard

    data = ModelCard(str(about.existing)).data
    names = [data.datasets] if isinstance(data.datasets, str) else data.datasets or ()
    return replace(
        about,
        licence=about.licence or (data.license if data.license not in (None, "other", known) else None),
        datasets=about.datasets or tuple(map(str, names)),
    )


def space(
    repo: str,
    pair: str,
    contract: Contract,
    evaluation: Evaluation | None,
    *,
    other: str | None = None,
    existing: str | None = None,
) -> Card:
    """The card of a Docker Space that serves a pair; what was measured stands above any code.

    Args:
        repo: the Space, owner/name.
        pair: what is served: the AV's repository, or "demo"; other: the AR's.
        contract: the AV's.
        evaluation: what was measured of the pair; None: nothing was.
        existing: the card that is there now, for its `<!-- keep -->` sections.
    Raises:
        CardError: a `keep` marker without its other half.
    """
    title = repo.partition("/")[2]
    named = [one for one in (pair, other, contract.base_model) if one]
    address = f"https://{re.sub('[^a-z0-9]+', '-', repo.lower())}.hf.space"
    values = {"pair": pair, "contract": contract, "evaluation": evaluation, "address": address}
    body = fill("space.md", title=title, notes=None, kept=kept_sections(existing), **values)
    return Card(metadata.space_metadata(title, named, evaluation), body)


def _year_of(evaluation: Evaluation | None) -> str | None:
    year = re.match(r"\d{4}-", evaluation.created) if evaluation is not None and evaluation.created else None
    return year[0][:4] if year else None


def _check_subject(evaluation: Evaluation | None, contract: Contract) -> None:
    for name in ("layer", "d_model"):
        measured = getattr(evaluation.subject, name) if evaluation is not None else None
        here = getattr(contract, name)
        if measured is not None and measured != here:
            raise CardError(
                f"The evaluation is of a pair whose `{name}` is {measured}, the contract's is {here}: its "
                "figures belong to another half. Pass this half's own evaluation, or none."
            )
