"""Cards: a contract and an evaluation file → a README with front matter, for models, tables and trajectories.

Every number is the contract's or the evaluation file's. Without an evaluation a card says "Not evaluated" and makes no
claim about quality; published figures are said to be "as published, not re-measured"; a verdict's box cannot be
switched off. Strings from files are inert (`cards.text`), templates are rendered in a sandbox, and free text comes from
the author's notes only, in a section of its own. Needs no torch.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

from nla_sdk.contract import Contract
from nla_sdk.evaluation.file import Evaluation, digest, load
from nla_sdk.io.files import atomic

from . import metadata, report, text, usage
from .errors import CardError
from .licences import Made, licence_of
from .notes import Fences, kept_sections, tame, tidy
from .recipe import Recipe

Kind = Literal["av", "ar", "dataset", "trajectory"]
METHOD = "https://transformer-circuits.pub/2026/nla/"


@dataclass(frozen=True)
class Card:
    """A rendered card.

    Attributes:
        metadata: `huggingface_hub.CardData` of the front matter.
        body: Markdown below it.
    """

    metadata: Any
    body: str

    @property
    def text(self) -> str:
        """The whole README.md."""
        return f"---\n{self.metadata.to_yaml()}\n---\n\n{self.body}"

    def save(self, path: Path) -> Path:
        """Write it, atomically."""
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
        dataset: of a table: `cards.dataset.DatasetFacts`.
        checkpoints: of a trajectory.
        trend: what the training loss did at the end, in words.
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
    dataset: Any = None
    checkpoints: Sequence[Checkpoint] = ()
    trend: str | None = None
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
    found = load(evaluation) if isinstance(evaluation, (str, os.PathLike)) else evaluation
    if kind in ("av", "ar") and contract.role != kind:
        raise CardError(f"A card of kind {kind} was asked for, the contract is of role {contract.role}.")
    if kind == "dataset" and about.dataset is None:
        raise CardError("A dataset card needs the facts of its tables: About(dataset=DatasetFacts.read(paths)).")
    if kind == "trajectory" and not about.checkpoints:
        raise CardError("A trajectory card needs its checkpoints: About(checkpoints=[Checkpoint(…), …]).")
    for measured, here in [(found, contract), *((one.evaluation, one.contract) for one in about.checkpoints)]:
        _check_subject(measured, here)
    made: Made = "data" if kind == "dataset" else "adapter" if about.is_adapter else "model"
    licence = licence_of(contract.base_model, about.licence, made)
    if kind == "dataset":
        data = metadata.dataset_metadata(about.dataset, licence=licence, language=list(about.language))
    else:
        data = metadata.model_metadata(
            contract,
            found if kind != "trajectory" else None,
            repo=about.repo,
            licence=licence,
            datasets=list(about.datasets),
            language=list(about.language),
            is_adapter=about.is_adapter,
        )
    values = {
        "contract": contract,
        "evaluation": found,
        "about": about,
        "kind": kind,
        "role": contract.role,
        "licence": licence,
        "recipe": Recipe.read(contract, training_log),
        "logged": training_log is not None,
        "notes": tame(about.notes) if about.notes else None,
        "kept": kept_sections(about.existing),
        "author": about.author or (None if usage.is_bundled(about.repo) else about.repo.split("/")[0]),
        "year": about.year or _year_of(found),
        "method": METHOD,
        "usage": usage,
        "report": report,
        "SAYS": report.SAYS,
    }
    name = {"av": "model", "ar": "model"}.get(kind, kind)
    body = _environment().get_template(f"{name}.md.jinja2").render(values)
    return Card(data, tidy(body))


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


@cache
def _environment():
    """The sandbox the templates run in; whatever is undefined is an error."""
    from jinja2 import PackageLoader, StrictUndefined
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(
        loader=PackageLoader("cards"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "inert": text.inert,
        "number": text.number,
        "signed": text.signed,
        "percent": text.percent,
        "figure": text.figure,
        "p": text.p_value,
        "share": text.share,
        "size": size,
        "bibtex": bibtex,
        "link": link,
        "digest": digest,
        "url": quote,
    }
    return environment


# --- what the template is given ----------------------------------------------------------------------------------
def size(count: int) -> str:
    """Bytes for people."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count} B"


def bibtex(value: object) -> str:
    """A string inside braces of a BibTeX entry, in a code block."""
    return re.sub(r"[{}\\`\n\r]", " ", str(value)).strip()


def link(value: str) -> str:
    """Where something was published: a link if it is a web address, else inert text."""
    if not re.fullmatch(r"https?://[^\s/]+\S*", value):
        return text.inert(value)
    return f"[{text.inert(value.partition('//')[2])}]({quote(value, safe=':/?#@!$&+,;=%~')})"


def diff(old: str, new: str) -> str:
    """What changes between two cards, for people: front matter and body apart, each line under its section."""
    old, new = (re.sub(r"\r\n?", "\n", card) for card in (old, new))
    found = []
    for name, before, after in zip(("front matter", "body"), _parts(old), _parts(new), strict=True):
        lines = list(difflib.unified_diff(before, after, "published", "new", lineterm="", n=1))
        if lines:
            found += [f"== {name}", *_with_sections(lines, before)]
    return "\n".join(found)


def _parts(card: str) -> tuple[list[str], list[str]]:
    match = re.match(r"---\n(.*?)\n---\n", card, re.DOTALL)
    if not match:
        return [], card.splitlines()
    return match[1].splitlines(), card[match.end() :].splitlines()


def _with_sections(lines: list[str], before: list[str]) -> Iterator[str]:
    """Hunk headers say which heading of the old card they are under."""
    fences = Fences()
    # In code a # begins a comment.
    headings = [line if not fences.hold(line) and line.startswith("#") else None for line in before]
    for line in lines[2:]:
        if hunk := re.match(r"@@ -(\d+)", line):
            above = [heading for heading in headings[: int(hunk[1])] if heading]
            yield f"@@ {above[-1].lstrip('# ') if above else 'top'}"
        else:
            yield line
