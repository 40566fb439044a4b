"""The first step of a publication: everything that was asked for is opened and checked, and nothing is written.

Every check collects what is wrong and where, so that one run tells all of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nla_sdk.contract import SIDECAR_NAME, Contract
from nla_sdk.errors import InputError, NLAError, first_line
from nla_sdk.evaluation.schema import EVALUATION, Evaluation
from nla_sdk.halves.half import Half
from nla_sdk.io.files import sha256_of
from nla_sdk.io.sidecars import read_sidecar

from ..errors import Findings, RefusedError
from ..request import PublishRequest, absolute
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
    """

    request: PublishRequest
    halves: Sequence[Half]
    names: Mapping[str, str]
    notes: str | None
    evaluation: Evaluation | None
    steps: Sequence[tuple[Half, Evaluation | None, Path]]
    bases: Mapping[Path, str | None]
    warnings: Sequence[str]


def check(request: PublishRequest) -> Checked:
    """Open and check everything that a request names.

    Raises:
        RefusedError: something does not hold; names all of it.
        InputError: the request itself makes no sense.
    """
    request.check()
    findings = Findings()
    halves = halves_in(request.checkpoint)
    trajectory = [_half(folder) for folder in request.trajectory]
    if len({half.contract.role for half in trajectory}) > 1:
        raise InputError("A trajectory is of one half: these folders hold AVs and ARs.")
    names = request.repositories(halves)
    notes = request.read_notes()
    for half in (*halves, *trajectory):
        check_half(half, findings)
    for table in request.tables:
        _check_table(table, findings)
    evaluation, steps, bases = None, [], {}
    # An evaluation is held against weights and tables: of damaged ones it could only say the same again.
    if request.evaluation is not None and not findings.problems:
        evaluation = check_evaluation(request.evaluation, halves, request.tables, findings)
    elif halves and request.evaluation is None:
        findings.warnings.append("no evaluation: the card will say that nobody has measured this")
    if not findings.problems:
        steps = [(half, *_evaluation_of(half, findings)) for half in trajectory]
    if not findings.problems:
        bases = {table: _public_base(table, halves, findings) for table in request.tables}
    if findings.problems:
        raise RefusedError(findings.problems)
    return Checked(request, halves, names, notes, evaluation, steps, bases, findings.warnings)


def halves_in(checkpoint: Path | None) -> list[Half]:
    """The halves of a checkpoint: the folder itself, or its `av` and `ar`."""
    if checkpoint is None:
        return []
    inside = [checkpoint / role for role in ("av", "ar") if (checkpoint / role).is_dir()]
    if inside and not (checkpoint / SIDECAR_NAME).is_file():
        return [_half(folder) for folder in inside]
    return [_half(checkpoint)]


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
    if file is None:
        return None, half.folder
    own = Findings()
    evaluation = check_evaluation(file, [half], (), own)
    findings.problems += [f"{half.folder.name}: {problem}" for problem in own.problems]
    findings.warnings += [f"{half.folder.name}: {warning}" for warning in own.warnings]
    return evaluation, file.parent


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
