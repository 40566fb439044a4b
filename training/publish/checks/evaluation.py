"""An evaluation is of these weights and these tables, and was measured."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nla_sdk.errors import NLAError
from nla_sdk.evaluation.schema import Evaluation
from nla_sdk.halves.half import ADAPTER_FILES, Half
from nla_sdk.io.files import sha256_of
from nla_sdk.io.parsing import parse_json

from ..errors import Findings
from .half import is_public, named_by_folder


def check_evaluation(
    file: Path, halves: Sequence[Half], tables: Sequence[Path], findings: Findings
) -> Evaluation | None:
    """It verifies, was measured, and is of these weights and these tables. Returns it, or None with a problem."""
    from ...evaluate.verify import verify

    folders = {half.contract.role: half.folder for half in halves}
    data = _measured_on(file, tables)
    try:
        checked = verify(file, av=folders.get("av"), ar=folders.get("ar"), data=data)
    except NLAError as error:
        findings.problems.append(str(error))
        return None
    evaluation = checked.evaluation
    if evaluation.origin != "measured":
        findings.problems.append(f"{file.name} holds published figures; only a measured evaluation can be published")
        return None
    stated = evaluation.subject
    for half in halves:
        if named_by_folder(base_of_adapter(half.folder)):
            findings.problems.append(
                f"{half.folder.name}/{ADAPTER_FILES[0]} names the base by a folder of this machine, and {file.name} "
                f"holds its SHA-256: put {half.contract.base_model} there and evaluate again"
            )
        for name in ("layer", "d_model"):
            if getattr(stated, name) != getattr(half.contract, name):
                findings.problems.append(
                    f"{file.name} was measured at {name} {getattr(stated, name)}, {half.folder.name} has "
                    f"{getattr(half.contract, name)}"
                )
    if not is_public(stated.base_model):
        findings.warnings.append(
            f"{file.name} was measured on a base in a folder: that it is {halves[0].contract.base_model} is your word"
        )
    if tables and data is None:
        findings.warnings.append(f"none of the tables is the one that {file.name} was measured on")
    for role in sorted({"av", "ar"} - set(folders)):
        findings.warnings.append(f"the {role.upper()} that {file.name} was measured with is not at hand: not checked")
    if stated.matched is False:
        findings.warnings.append("the two halves do not name each other; the card says so")
    return evaluation


def base_of_adapter(folder: Path) -> str | None:
    """What the adapter's config calls the base; None: there is no adapter, or it does not say."""
    file = folder / ADAPTER_FILES[0]
    return parse_json(file.read_bytes()).get("base_model_name_or_path") if file.is_file() else None


def _measured_on(evaluation: Path, tables: Sequence[Path]) -> Path | None:
    """Of tables to publish the one an evaluation was measured on: by SHA-256, else by its name, to be refused."""
    try:
        data = parse_json(evaluation.read_bytes())["data"]
        name, digest = data["name"], data["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        return None  # which `verify` says better
    same = (table for table in tables if sha256_of(table) == digest)
    return next(same, None) or next((table for table in tables if table.name == name), None)
