"""Cards: a contract and an evaluation file → a README with front matter, for models, tables and trajectories.

Every number is the contract's or the evaluation file's. Without an evaluation a card says "Not evaluated" and makes no
claim about quality; published figures are said to be "as published, not re-measured"; a verdict's box cannot be
switched off. Strings from files are inert (`cards.text`), templates are rendered in a sandbox, and free text comes from
the author's notes only, in a section of its own. Needs no torch.
"""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

from nla_sdk.contract import Contract
from nla_sdk.errors import NLAError

from . import metadata, report, text, usage
from .evaluation import Evaluation, load
from .licences import licence_of

Kind = Literal["av", "ar", "dataset", "trajectory"]
KEEP = re.compile(r"<!--\s*keep\s*-->(.*?)<!--\s*/?keep\s*-->", re.DOTALL)
METHOD = "https://transformer-circuits.pub/2026/nla/"


class CardError(NLAError):
    """A card cannot be rendered from what was given."""


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
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            temporary.write_text(self.text, encoding="utf-8", newline="\n")
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
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
        pair: the other half's repository.
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
        author, year: for the citation.
    """

    repo: str
    pair: str | None = None
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
    if kind == "dataset":
        data = metadata.dataset_metadata(about.dataset, licence=about.licence, language=list(about.language))
        licence = licence_of(contract.base_model, about.licence)
    else:
        licence = licence_of(contract.base_model, about.licence)
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
        "training": training_facts(contract, training_log),
        "notes": tame(about.notes) if about.notes else None,
        "kept": kept_sections(about.existing),
        "method": METHOD,
        "usage": usage,
        "report": report,
        "SAYS": report.SAYS,
    }
    name = {"av": "model", "ar": "model"}.get(kind, kind)
    body = _environment().get_template(f"{name}.md.jinja2").render(values)
    return Card(data, re.sub(r"\n{3,}", "\n\n", body).strip() + "\n")


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
        "url": quote,
    }
    return environment


# --- what the template is given ----------------------------------------------------------------------------------
def training_facts(contract: Contract, log: Path | None) -> list[tuple[str, str]]:
    """The training table: the contract's provenance, and steps and hours of the log."""
    training = contract.provenance.get("training") or contract.extras.get("training") or {}
    facts = list(_flat(training)) if isinstance(training, Mapping) else [("training", str(training))]
    if log is not None:
        records = list(_records(log))
        seconds = [one["seconds"] for one in records if isinstance(one.get("seconds"), int | float)]
        memory = [one["peak_memory_gib"] for one in records if isinstance(one.get("peak_memory_gib"), int | float)]
        if records and "step" in records[-1]:
            facts.append(("steps in the log", str(records[-1]["step"])))
        if seconds:
            facts.append(("hours in steps", text.number(sum(seconds) / 3600, 2)))
        if memory:
            facts.append(("peak memory, GiB", text.number(max(memory), 2)))
    return [(name.removeprefix("settings."), value) for name, value in facts]


def _flat(values: Mapping, path: str = "") -> Iterator[tuple[str, str]]:
    for key, value in values.items():
        name = f"{path}.{key}" if path else str(key)
        if isinstance(value, Mapping):
            yield from _flat(value, name)
        elif value is not None:
            yield name, ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _records(log: Path) -> Iterator[dict]:
    """The log's lines; one torn by a kill is left out."""
    for line in log.read_text(encoding="utf-8").splitlines():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(record, dict):
            yield record


def size(count: int) -> str:
    """Bytes for people."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count} B"


def bibtex(value: object) -> str:
    """A string inside braces of a BibTeX entry, in a code block."""
    return re.sub(r"[{}\\`\n\r]", " ", str(value)).strip()


def tame(notes: str) -> str:
    """The author's notes as a section of a card: headings below it, no HTML, code fences closed, no markers of ours."""
    lines, fence = [], None
    for line in notes.replace("\r\n", "\n").split("\n"):
        if mark := re.match(r"\s*(`{3,}|~{3,})", line):
            fence = None if fence and mark[1].startswith(fence) else fence or mark[1][:3]
        elif fence is None:
            line = line.replace("<", "&lt;")
            if re.fullmatch(r"\s*(-{3,}|={3,})\s*", line):
                line = ""  # a rule or the line under a heading; at a file's head it would begin metadata
            line = re.sub(r"^\s*(#{1,6})(?=\s)", lambda found: "#" * min(6, len(found[1]) + 2), line)
        lines.append(line)
    if fence is not None:
        lines.append(fence)
    return "\n".join(lines).strip()


def kept_sections(existing: str | None) -> list[str]:
    """What stands between `<!-- keep -->` and `<!-- /keep -->` in the card that is there now."""
    return [section.strip() for section in KEEP.findall(existing or "")]


def diff(old: str, new: str) -> str:
    """What changes between two cards, for people: front matter and body apart, each line under its section."""
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
    for line in lines[2:]:
        if hunk := re.match(r"@@ -(\d+)", line):
            above = [text for text in before[: int(hunk[1])] if text.startswith("#")]
            yield f"@@ {above[-1].lstrip('# ') if above else 'top'}"
        else:
            yield line
