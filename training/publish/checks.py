"""What must hold before anything is sent: contracts, weights, heads, the evaluation, the tables.

Every check collects what is wrong and where, so that one run tells all of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cards.evaluation import Evaluation
from nla_sdk.contract import Contract
from nla_sdk.errors import NLAError, first_line
from nla_sdk.half import ADAPTER_FILES, Half

from ..files import read_sidecar, sha256_of

MOST_BYTES = 50 * 10**9  # of one file: the Hub's limit
LARGE_BYTES = 5 * 10**9


@dataclass
class Findings:
    """What is wrong (nothing is published), and what the author should know."""

    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def check_half(half: Half, findings: Findings) -> None:
    """Its contract is whole, its files are readable, its adapter fits the base.

    The base's config is enough (and its tokenizer, for the marker): no weights are fetched. A base that cannot be
    reached is a warning.
    """
    from safetensors import SafetensorError, safe_open

    name = half.folder.name
    for file in sorted(half.folder.glob("*.safetensors")):
        try:
            with safe_open(file, framework="numpy") as tensors:
                if not list(tensors.keys()):
                    findings.problems.append(f"{name}/{file.name} holds no tensors")
        except (SafetensorError, OSError) as error:
            findings.problems.append(f"{name}/{file.name} is not a readable safetensors file ({first_line(error)})")
    for file in half.folder.iterdir():
        size = file.stat().st_size
        if file.is_file() and size > MOST_BYTES:
            findings.problems.append(f"{name}/{file.name} has {size:,} bytes, the Hub takes {MOST_BYTES:,}")
        elif file.is_file() and size > LARGE_BYTES:
            findings.warnings.append(f"{name}/{file.name} has {size / 1e9:.1f} GB")
    if findings.problems:
        return
    findings.problems += [f"{name}: {one}" for one in _head_and_mean(half)]
    if half.is_adapter:
        _adapter(half, findings)
    for needed in ("layer", "base_model", "d_model"):
        if getattr(half.contract, needed) is None:
            findings.problems.append(f"{name}/nla_meta.yaml has no {needed}")
    if half.contract.provenance == {}:
        findings.warnings.append(f"{name}/nla_meta.yaml has no provenance: the card cannot say what it was made from")


def _head_and_mean(half: Half) -> Iterator[str]:
    """The AR's head and a centred pair's mean are there and of the right shape."""
    from nla_sdk.pair import load_mean
    from nla_sdk.reconstructor import load_head

    contract = half.contract
    try:
        if contract.role == "ar":
            load_head(half.folder, contract.d_model, bias=contract.head_bias)
        load_mean(half.folder, contract)
    except NLAError as error:
        yield str(error).replace(f"{half.folder}/", "")


def _adapter(half: Half, findings: Findings) -> None:
    """Every adapter tensor has its place in the base, built on the meta device; the marker is in its tokenizer."""
    from nla_sdk.info import account

    name = half.folder.name
    missing = [file for file in ADAPTER_FILES if not (half.folder / file).is_file()]
    if missing:
        findings.problems.append(f"{name} lacks {', '.join(missing)}")
        return
    found = account(half)
    if "unchecked" in found:
        findings.warnings.append(f"{name}: adapter tensors not checked against the base ({found['unchecked']})")
    elif found["misfits"]:
        first, why = next(iter(found["misfits"].items()))
        findings.problems.append(
            f"{name}/{ADAPTER_FILES[1]}: {len(found['misfits'])} of {found['total']} tensors do not fit "
            f"{found['base']}, the first is {first}: {why}"
        )
    elif not found["loaded"]:
        findings.problems.append(f"{name}/{ADAPTER_FILES[1]}: none of its {found['total']} tensors would be loaded")


def check_evaluation(
    file: Path, halves: Sequence[Half], tables: Sequence[Path], findings: Findings
) -> Evaluation | None:
    """It verifies, was measured, and is of these weights and these tables. Returns it, or None with a problem."""
    from ..evaluate.verify import verify

    folders = {half.contract.role: half.folder for half in halves}
    data = next((table for table in tables if _named(file, table)), None)
    try:
        checked = verify(file, av=folders.get("av"), ar=folders.get("ar"), data=data)
    except NLAError as error:
        findings.problems.append(str(error))
        return None
    found = checked.evaluation
    if found.origin != "measured":
        findings.problems.append(f"{file.name} holds published figures; only a measured evaluation can be published")
        return None
    for half in halves:
        stated = found.subject
        for name in ("layer", "d_model"):
            if getattr(stated, name) != getattr(half.contract, name):
                findings.problems.append(
                    f"{file.name} was measured at {name} {getattr(stated, name)}, {half.folder.name} has "
                    f"{getattr(half.contract, name)}"
                )
    for role in {"av", "ar"} - set(folders):
        findings.warnings.append(f"the {role.upper()} that {file.name} was measured with is not at hand: not checked")
    if found.subject.matched is False:
        findings.warnings.append("the two halves do not name each other; the card says so")
    return found


def _named(evaluation: Path, table: Path) -> bool:
    """Whether a table to publish is the one the evaluation names."""
    import json

    try:
        return json.loads(evaluation.read_text(encoding="utf-8"))["data"]["name"] == table.name
    except (OSError, ValueError, KeyError, TypeError):
        return False


def check_table(table: Path, findings: Findings) -> None:
    """A parquet file with its sidecar, of which the SHA-256 and the row count hold."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        rows = pq.read_metadata(table).num_rows
    except (pa.ArrowInvalid, OSError) as error:
        findings.problems.append(f"{table.name} is not readable parquet ({first_line(error)})")
        return
    about = read_sidecar(table)
    if not about:
        findings.problems.append(f"{table.name} has no sidecar: {table.name}.nla_meta.yaml says what it was made from")
        return
    try:
        Contract.load(table)
    except NLAError as error:
        findings.problems.append(str(error))
    if about.get("sha256") != sha256_of(table):
        findings.problems.append(f"{table.name} is not the table its sidecar describes: its SHA-256 differs")
    if about.get("rows") not in (None, rows):
        findings.problems.append(f"{table.name} has {rows} rows, its sidecar says {about['rows']}")


def evaluated_otherwise(evaluation: Evaluation, half: Half) -> list[str]:
    """What of a half is not what an evaluation measured."""
    from ..evaluate.inputs import differences

    wrong = differences(evaluation, half.contract.role, half.folder, half.contract)
    return [f"the evaluation in {half.folder.name} is of other files: {one}" for one in wrong]
