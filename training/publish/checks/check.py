"""The first step of a publication: everything that was asked for is opened and checked, and nothing is written.

Every check collects what is wrong and where, so that one run tells all of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from nla_sdk.contract import SIDECAR_NAME, Contract
from nla_sdk.errors import ContractError, InputError, NLAError, first_line
from nla_sdk.evaluation.schema import EVALUATION, Evaluation
from nla_sdk.halves.half import OTHER, Half
from nla_sdk.halves.hub.listing import listed
from nla_sdk.halves.hub.renames import named_now
from nla_sdk.io.files import sha256_of
from nla_sdk.io.sidecars import read_sidecar

from ..errors import Findings, RefusedError
from ..request import PublishRequest, absolute
from .claims import check_claims
from .evaluation import check_evaluation
from .half import check_half, is_public


@dataclass(frozen=True)
class Checked:
    """A request whose parts all hold.

    Attributes:
        halves: of the checkpoint; none, one or both.
        names: repository by role ("av", "ar", "data").
        notes: the author's free text.
        evaluation: of the checkpoint.
        steps: of a trajectory: each checkpoint, its evaluation, and the folder of that evaluation's tables.
        bases: table → the Hub id of the base its sidecar names by a folder; None: it names none by a folder.
        warnings: for the author.
        present: old name → present one, of renamed repositories that are named in what is published.
    """

    request: PublishRequest
    halves: Sequence[Half]
    names: Mapping[str, str]
    notes: str | None
    evaluation: Evaluation | None
    steps: Sequence[tuple[Half, Evaluation | None, Path]]
    bases: Mapping[Path, str | None]
    warnings: Sequence[str]
    present: Mapping[str, str] = field(default_factory=dict)

    @property
    def benchmark(self) -> str | None:
        """The dataset that holds the evaluation's held-out table, by its bytes; None: none is known to."""
        if self.evaluation is None or self.request.benchmark is not None:
            return self.request.benchmark
        same = (sha256_of(table) == self.evaluation.data.sha256 for table in self.request.tables)
        return self.names["data"] if any(same) else None

    def named(self) -> dict[str, str]:
        """Every repository that is published to, or that a contract or a card names, with its kind."""
        contracts = [half.contract for half in (*self.halves, *(half for half, _, _ in self.steps))]
        contracts += [Contract.load(table) for table in self.request.tables]
        found: dict[str, str] = {}
        for contract in contracts:
            found |= dict.fromkeys(_repositories(contract.provenance), "dataset")
            found |= dict.fromkeys(filter(is_public, (contract.base_model, repository_of(contract.pair))), "model")
        models = [name for role, name in self.names.items() if role != "data"] + [self.request.pair]
        found |= dict.fromkeys(filter(None, map(repository_of, models)), "model")
        if self.request.trajectory:
            found[self.request.repo] = "model"
        if self.request.tables:
            found[self.names["data"]] = "dataset"
        if self.request.benchmark:
            found[self.request.benchmark] = "dataset"
        return found

    def renamed(self, names: Mapping[str, str]) -> Checked:
        """The same with other names of repositories.

        Args:
            names: old name → present one.
        Raises:
            RefusedError: two of them would be one.
        """
        own = {role: named_now(name, names) for role, name in self.names.items()}
        twice = [name for name, count in Counter(map(str.lower, own.values())).items() if count > 1]
        if twice:
            raise RefusedError([f"{' and '.join(self.names.values())} are one repository now, {twice[0]}"])

        def half_of(half: Half) -> Half:
            values = half.contract.to_dict()
            contract = Contract.from_dict(named_now(values, names), source=half.contract.source)
            return half if contract == half.contract else replace(half, contract=contract)

        def evaluation_of(evaluation: Evaluation | None) -> Evaluation | None:
            if evaluation is None:
                return None
            subject = evaluation.subject.model_copy(update=named_now(evaluation.subject.model_dump(), names))
            return evaluation.model_copy(update={"subject": subject})

        also = {name: named_now(getattr(self.request, name), names) for name in ("pair", "benchmark")}
        request = replace(self.request, repo=named_now(self.request.repo, names), **also)
        return replace(
            self,
            request=request,
            halves=[half_of(half) for half in self.halves],
            names=own,
            evaluation=evaluation_of(self.evaluation),
            steps=[(half_of(half), evaluation_of(evaluation), folder) for half, evaluation, folder in self.steps],
            bases={table: named_now(base, names) for table, base in self.bases.items()},
            present=names,
        )


def repository_of(name: str | None) -> str | None:
    """`owner/name` of a reference that may go on into a folder; None for what is no reference to a repository."""
    repo = "/".join((name or "").split("/")[:2])
    return repo if is_public(repo) else None


def _repositories(value: object, key: str = "") -> Iterator[str]:
    """The datasets that provenance names."""
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from _repositories(item, str(name))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _repositories(item, key)
    elif isinstance(value, str) and "dataset" in key.lower() and is_public(value):
        yield value


def check(request: PublishRequest) -> Checked:
    """Open and check everything that a request names.

    Raises:
        RefusedError: something does not hold; names all of it.
        InputError: the request itself makes no sense.
    """
    request.check()
    findings = Findings()
    halves = halves_in(request.checkpoint)
    if taken := _taken(request.checkpoint, halves):
        findings.warnings.append(f"{request.checkpoint} is a training run: of it {listed(taken)} is published")
    trajectory = [_half(folder) for folder in request.trajectory]
    if len({half.contract.role for half in trajectory}) > 1:
        raise InputError("A trajectory is of one half: these folders hold AVs and ARs.")
    names = request.repositories(halves)
    notes = request.read_notes()
    for half in (*halves, *trajectory):
        check_half(half, findings, request.token)
    for table in request.tables:
        _check_table(table, findings)
    evaluation, steps, bases = None, [], {}
    # An evaluation is held against weights and tables: of damaged ones it could only say the same again.
    if request.evaluation is not None and not findings.problems:
        evaluation = check_evaluation(request.evaluation, halves, request.tables, findings)
    elif halves and request.evaluation is None:
        findings.warnings.append("no evaluation: the card will say that nobody has measured this")
    if not findings.problems:
        tables = request.evaluation.parent if request.evaluation is not None else Path()
        check_claims(halves, evaluation, tables, findings)
    if not findings.problems:
        steps = [(half, *_evaluation_of(half, findings)) for half in trajectory]
    if not findings.problems:
        bases = {table: _public_base(table, halves, findings) for table in request.tables}
    if findings.problems:
        raise RefusedError(findings.problems)
    return Checked(request, halves, names, notes, evaluation, steps, bases, findings.warnings)


def halves_in(checkpoint: Path | None) -> list[Half]:
    """The halves of a checkpoint: the folder itself, or its `av` and `ar`, of a training run its finished ones.

    Raises:
        ContractError: there is no half; the message says where some are.
    """
    return [_half(folder) for folder in folders_in(checkpoint)] if checkpoint is not None else []


FINAL = "final"  # what a trainer leaves beside its log and its steps


def folders_in(checkpoint: Path) -> list[Path]:
    """The folders of a checkpoint's halves: of a folder that is no half its `av` and `ar`, of a run their `final`.

    Raises:
        ContractError: there is none; the message names folders below it that hold one.
    """

    def holds(folder: Path) -> bool:
        return (folder / SIDECAR_NAME).is_file()

    if holds(checkpoint):
        return [checkpoint]
    for place in (checkpoint, checkpoint / FINAL):  # expert and grpo leave final/av and final/ar
        inside = [place / role for role in ("av", "ar") if (place / role).is_dir()]
        found = [next((folder for folder in (half, half / FINAL) if holds(folder)), None) for half in inside]
        if inside and all(found):
            return [folder for folder in found if folder is not None]
    if holds(checkpoint / FINAL):
        return [checkpoint / FINAL]
    below = {file.parent for depth in ("*", "*/*", "*/*/*") for file in checkpoint.glob(f"{depth}/{SIDECAR_NAME}")}
    there = [folder.relative_to(checkpoint).as_posix() for folder in sorted(below)]
    roles = [half for half in (checkpoint / "av", checkpoint / "ar") if half.is_dir()]
    without = next((half for half in roles if not holds(half) and not holds(half / FINAL)), None)
    lacking = f"{without} holds no {SIDECAR_NAME}, nor does its {FINAL}" if without else f"it holds no {SIDECAR_NAME}"
    more = f" There are halves in {listed(there)}: pass one of these folders." if there else ""
    raise ContractError(f"--checkpoint {checkpoint} is no half, and no folder of av and ar: {lacking}.{more}")


def _taken(checkpoint: Path | None, halves: Sequence[Half]) -> list[str]:
    """The folders of halves that lie elsewhere than a pair's do, and so were chosen for the author."""
    if checkpoint is None:
        return []
    usual = {absolute(checkpoint), *(absolute(checkpoint / role) for role in OTHER)}
    return [str(half.folder) for half in halves if half.folder not in usual]


def _half(folder: Path) -> Half:
    """The half in a folder, whichever role it has."""
    folder = absolute(folder)
    contract = Contract.load(folder)
    if contract.role is None:
        raise InputError(f"{folder} holds a contract without a role; expected an AV or an AR.")
    return Half.find(str(folder), contract.role)


def _evaluation_of(half: Half, findings: Findings) -> tuple[Evaluation | None, Path]:
    """The evaluation in a checkpoint's own folder, held against it, and where it is."""
    places = (half.folder / EVALUATION, half.folder / "evaluation" / EVALUATION)
    file = next((place for place in places if place.is_file()), None)
    own = Findings()
    evaluation = check_evaluation(file, [half], (), own) if file is not None else None
    folder = file.parent if file is not None else half.folder
    if not own.problems:
        check_claims([half], evaluation, folder, own)
    findings.problems += [f"{half.folder.name}: {problem}" for problem in own.problems]
    findings.warnings += [f"{half.folder.name}: {warning}" for warning in own.warnings]
    return evaluation, folder


def _public_base(table: Path, halves: Sequence[Half], findings: Findings) -> str | None:
    """The Hub id of the base a table's sidecar names by a folder: what the halves beside it call it."""
    contract = Contract.load(table)
    if contract.base_model is None or is_public(contract.base_model):
        return None
    for half in halves:
        if (half.contract.d_model, half.contract.layer) == (contract.d_model, contract.layer):
            return half.contract.base_model
    findings.problems.append(
        f"the sidecar of {table.name} names the base {contract.base_model!r}, which is not a repository on the Hub: "
        "put its owner/name there"
    )
    return None


def _check_table(table: Path, findings: Findings) -> None:
    """A parquet file with its sidecar, of which the SHA-256 and the row count hold."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        rows = pq.read_metadata(table).num_rows
    except (pa.ArrowInvalid, OSError) as error:
        findings.problems.append(f"{table.name} is not readable parquet ({first_line(error)})")
        return
    try:
        Contract.load(table)
    except NLAError as error:
        findings.problems.append(str(error).replace(f"{table.parent}/", ""))
        return
    about = read_sidecar(table)
    if about.get("sha256") != sha256_of(table):
        findings.problems.append(f"{table.name} is not the table its sidecar describes: its SHA-256 differs")
    if about.get("rows") not in (None, rows):
        findings.problems.append(f"{table.name} has {rows} rows, its sidecar says {about['rows']}")
