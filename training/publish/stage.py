"""The second step of a publication: what was checked becomes whole repositories in a folder, cards and all.

What is staged is what will be sent, byte for byte: it is searched for secrets here, and compared with the Hub later.
"""

from __future__ import annotations

import fnmatch
import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from cards import About, Checkpoint, render
from cards.facts.dataset import DatasetFacts
from cards.facts.results import ENTRIES, entries_file, hub_entries
from nla_sdk.contract import Contract
from nla_sdk.evaluation.schema import EVALUATION
from nla_sdk.halves.half import OTHER, Half
from nla_sdk.io.files import sha256_of

from ..runs.scan import Scanner
from ..runs.verdict import said_of
from . import copies
from .checks.check import Checked, check
from .checks.claims import calibration_of
from .checks.half import head_and_mean
from .errors import RefusedError
from .request import PublishRequest

MANIFEST = ".nla-files.json"  # the paths a publication put there: of them alone the next one removes any


@dataclass(frozen=True)
class Staged:
    """A repository's content as it should be.

    Attributes:
        repo_id: owner/name.
        kind: "model", "dataset" or "space".
        folder: holds every file at its place in the repository.
        part: patterns of the paths that are published of it; none: all. What is no part of it stays there as it is.
    """

    repo_id: str
    kind: str
    folder: Path
    part: tuple[str, ...] = ()

    def takes(self, name: str) -> bool:
        """Whether a path is of what is published."""
        return not self.part or any(fnmatch.fnmatchcase(name, pattern) for pattern in (*self.part, MANIFEST))

    def files(self) -> dict[str, Path]:
        """Path in the repository → file here."""
        files = (path for path in sorted(self.folder.rglob("*")) if path.is_file())
        named = ((path.relative_to(self.folder).as_posix(), path) for path in files)
        return {name: path for name, path in named if self.takes(name)}

    def write_manifest(self, there: Iterable[str] = ()) -> None:
        """Put the list of these files beside them.

        Args:
            there: of a part: what earlier publications put there.
        """
        card = {"README.md"} if self.takes("README.md") else set()
        names = sorted({*self.files(), *card, MANIFEST, *(name for name in there if not self.takes(name))})
        text = json.dumps(names, indent=1, ensure_ascii=False) + "\n"
        (self.folder / MANIFEST).write_text(text, encoding="utf-8", newline="\n")

    @property
    def digest(self) -> str:
        """A short name of the whole content."""
        lines = "".join(f"{name} {sha256_of(path)}\n" for name, path in self.files().items())
        return hashlib.sha256(lines.encode()).hexdigest()[:12]


def paths_in(manifest: bytes | str) -> list[str]:
    """The paths that a `MANIFEST` lists; none where it is no such list."""
    try:
        listed = json.loads(manifest)
    except ValueError:
        return []
    return [name for name in listed if isinstance(name, str)] if isinstance(listed, list) else []


@dataclass
class Repository:
    """One repository of a publication.

    Attributes:
        make_card: existing card (or None) → the new one's text.
        loads: the line that loads it.
        head: the commit that `push.look` compared with; None: there was no repository.
    """

    staged: Staged
    make_card: Callable[[str | None], str]
    loads: str
    head: str | None = None

    def write_card(self, existing: str | None) -> str:
        """Put README.md into the staged folder; returns its text."""
        text = self.make_card(existing)
        (self.staged.folder / "README.md").write_text(text, encoding="utf-8", newline="\n")
        return text


@dataclass(frozen=True)
class Publication:
    """Everything that would be published, checked and staged in a folder; `warnings` are for the author."""

    repositories: list[Repository]
    warnings: list[str]
    checked: Checked
    folder: Path

    def rename(self, names: Mapping[str, str]) -> None:
        """Stage it again under other names of repositories: its own, and those that its files and cards name.

        Args:
            names: old name → present one.
        Raises:
            RefusedError: two of its repositories would be one.
        """
        again = stage(self.checked.renamed(names), Path(tempfile.mkdtemp(dir=self.folder)))
        self.repositories[:] = again.repositories


@contextmanager
def prepared(request: PublishRequest) -> Iterator[Publication]:
    """Check and stage in a temporary folder that goes when the block ends.

    Raises:
        RefusedError: something does not hold, or must not be published; names all of it.
        InputError: the request itself makes no sense.
    """
    checked = check(request)
    with tempfile.TemporaryDirectory(prefix="nla-publish-") as folder:
        yield stage(checked, Path(folder))


def stage(checked: Checked, folder: Path) -> Publication:
    """Write every repository of a checked request into `folder`.

    Raises:
        RefusedError: it holds something that must not be published.
    """
    scanner = Scanner(checked.names.values())
    figures = folder / "figures"
    if checked.evaluation is not None:
        logs = {half.contract.role: log for half in checked.halves if (log := copies.log_of(half))}
        copies.draw_figures(checked.evaluation, checked.request.evaluation.parent, logs, figures)
    repositories = [_half(half, checked, figures, folder / half.contract.role) for half in checked.halves]
    if checked.request.tables:
        repositories.append(_dataset(checked, scanner, folder / "data"))
    if checked.steps:
        repositories.append(_trajectory(checked, folder / "trajectory"))
    for repository in repositories:
        repository.write_card(None)  # rendered before anything is sent; with kept sections it is rendered again
        repository.staged.write_manifest()
    secrets = [secret for repository in repositories for secret in scanner.folder(repository.staged.folder)]
    if secrets:
        raise RefusedError([f"{secret} must not be published" for secret in secrets])
    return Publication(repositories, [*checked.warnings, *scanner.seen_in_texts()], checked, folder)


def _half(half: Half, checked: Checked, figures: Path, folder: Path) -> Repository:
    request, role = checked.request, half.contract.role
    repo, other = checked.names[role], checked.names.get(OTHER[role])
    tables = request.evaluation.parent if request.evaluation is not None else half.folder
    calibration = calibration_of(half, checked.evaluation, tables)
    # Files whose SHA-256 an evaluation or a calibration holds stay as they are.
    present = checked.present if checked.evaluation is None and calibration is None else {}
    contract = copies.copy_half(half, folder, pair=other, present=present)
    if lost := list(head_and_mean(replace(half, folder=folder, contract=contract))):
        raise RefusedError([f"of {half.folder.name} not all would be published that its contract names: {lost[0]}"])
    copies.copy_claims(calibration, folder)
    source = None
    if checked.evaluation is not None:
        copies.copy_evaluation(checked.evaluation, tables, folder)
        shutil.copytree(figures, folder / "figures")
        source = f"https://huggingface.co/{repo}/blob/main/evaluation/{EVALUATION}"
        if checked.benchmark is not None:
            entries = hub_entries(checked.evaluation, role, dataset=checked.benchmark, source=source)
            copies.write_text(folder / ENTRIES, entries_file(entries))
    log = folder / copies.LOG
    trend = said_of(own) if (own := copies.log_of(half)) else None

    def card(existing: str | None) -> str:
        about = About(
            repo,
            pair=other,
            notes=checked.notes,
            existing=existing,
            figures=copies.figures_of(folder),
            files=_sizes(folder),
            datasets=[checked.names["data"]] if request.tables else [],
            licence=request.licence,
            is_adapter=half.is_adapter,
            trend=trend,
            evaluation_url=source,
            benchmark=checked.benchmark,
            in_part=bool(request.part),
        )
        return render(contract, checked.evaluation, log if log.is_file() else None, about=about).text

    arguments = f'"{repo}"' if role == "av" else f'None, "{repo}"'
    staged = Staged(repo, "model", folder, tuple(request.part))
    return Repository(staged, card, f"NLAPair.from_pretrained({arguments})")


def _sizes(folder: Path) -> Mapping[str, int]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name not in ("README.md", MANIFEST))
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}


def _dataset(checked: Checked, scanner: Scanner, folder: Path) -> Repository:
    request, repo = checked.request, checked.names["data"]
    tables = [copies.copy_table(table, folder, checked.bases[table], checked.present) for table in request.tables]
    contract = Contract.load(tables[0])
    facts = DatasetFacts.read(tables)
    examples = [copies.clean_example(table, read, scanner) for table, read in zip(tables, facts.tables, strict=True)]
    facts = replace(
        facts, tables=[replace(read, example=example) for read, example in zip(facts.tables, examples, strict=True)]
    )

    def card(existing: str | None) -> str:
        about = About(
            repo,
            pair=checked.names.get("av"),
            pair_ar=checked.names.get("ar"),
            notes=checked.notes,
            existing=existing,
            dataset=facts,
            licence=request.licence if not checked.halves else None,
        )
        return render(contract, kind="dataset", about=about).text

    config = f', "{facts.tables[0].name}"' if len(tables) > 1 else ""  # the viewer's configs are the tables
    return Repository(Staged(repo, "dataset", folder), card, f'load_dataset("{repo}"{config})')


def _trajectory(checked: Checked, folder: Path) -> Repository:
    from cards.figures.drawing import trajectory as draw_trajectory

    request = checked.request
    checkpoints = []
    for half, evaluation, tables in checked.steps:
        name = half.folder.name
        calibration = calibration_of(half, evaluation, tables)
        present = checked.present if evaluation is None and calibration is None else {}
        contract = copies.copy_half(half, folder / name, pair=request.pair, of_run=True, present=present)
        copies.copy_claims(calibration, folder / name)
        if evaluation is not None:
            copies.copy_evaluation(evaluation, tables, folder / name)
        checkpoints.append(Checkpoint(name, contract, evaluation))
    draw_trajectory([(step.name, step.evaluation) for step in checkpoints], folder / "figures")
    for vector in (folder / "figures").glob("*.svg"):
        vector.unlink()  # cards show the PNG

    def card(existing: str | None) -> str:
        about = About(
            request.repo,
            pair=request.pair,
            notes=checked.notes,
            existing=existing,
            figures=copies.figures_of(folder),
            checkpoints=checkpoints,
            licence=request.licence,
            is_adapter=checked.steps[-1][0].is_adapter,
        )
        return render(checkpoints[-1].contract, kind="trajectory", about=about).text

    loads = f'NLAPair.from_pretrained("{request.repo}/{checkpoints[-1].name}")'
    return Repository(Staged(request.repo, "model", folder), card, loads)
