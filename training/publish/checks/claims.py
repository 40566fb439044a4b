"""The calibration that goes with an AV: its `claims.json` is of these halves, and of this evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nla_sdk.claims.calibration import CLAIMS, load_calibration
from nla_sdk.errors import NLAError
from nla_sdk.evaluation.schema import Evaluation
from nla_sdk.halves.beside.claims import differences, found_beside
from nla_sdk.halves.half import ADAPTER_FILES, Half
from nla_sdk.io.files import sha256_of

from ..errors import Findings
from .evaluation import base_of_adapter
from .half import named_by_folder


def calibration_of(half: Half, evaluation: Evaluation | None, tables: Path) -> Path | None:
    """The calibration that is published with a half: the evaluation's; without an evaluation the one beside it.

    Args:
        tables: the folder of the evaluation's tables.
    Returns:
        None: there is none, or the half is an AR.
    """
    if half.contract.role != "av":
        return None
    if evaluation is not None:
        return tables / CLAIMS if CLAIMS in evaluation.files else None
    return found_beside(half.folder)


def check_claims(
    halves: Sequence[Half], evaluation: Evaluation | None, tables: Path, findings: Findings, *, beside: bool = True
) -> None:
    """What is published as the AV's calibration holds, and is of the halves and the evaluation that go with it.

    Args:
        halves: at hand; of a half that is not, nothing can be said.
        evaluation: that was checked; None: there is none.
        beside: whether a calibration beside the AV must be the evaluation's; False: that takes its place.
    """
    av = next((half for half in halves if half.contract.role == "av"), None)
    if av is None:
        return
    if (
        beside
        and evaluation is not None
        and (own := found_beside(av.folder)) is not None
        and not _is_of(own, evaluation)
    ):
        findings.problems.append(
            f"{av.folder.name}'s {CLAIMS} ({own.parent.name}/{CLAIMS}) is not the one of the evaluation, which "
            + ("is another" if CLAIMS in evaluation.files else "has none")
            + ": remove it, or pass the evaluation that it was made with"
        )
        return
    if (file := calibration_of(av, evaluation, tables)) is None:
        return
    try:
        made_from = load_calibration(file).made_from
    except NLAError as error:
        findings.problems.append(str(error))
        return
    for half in halves:
        name = f"{half.contract.role}/{ADAPTER_FILES[0]}"
        if name in made_from and named_by_folder(base_of_adapter(half.folder)):
            findings.problems.append(
                f"{half.folder.name}/{ADAPTER_FILES[0]} names the base by a folder of this machine, and {CLAIMS} holds "
                f"its SHA-256: put {half.contract.base_model} there and evaluate again"
            )
    if wrong := [one for half in halves for one in differences(made_from, half)]:
        findings.problems.append(f"{CLAIMS} is of other halves: {'; '.join(wrong)}. Evaluate these, or remove it")
    elif evaluation is not None:
        other = [name for name, digest in made_from.items() if evaluation.inputs.get(name, digest) != digest]
        if other:
            findings.problems.append(f"{CLAIMS} is of another evaluation: {other[0]} is not the one of its inputs")
    roles = {half.contract.role for half in halves}
    for role in sorted({"av", "ar"} - roles):
        findings.warnings.append(f"the {role.upper()} that {CLAIMS} was made with is not at hand: not checked")


def _is_of(file: Path, evaluation: Evaluation) -> bool:
    return evaluation.files.get(CLAIMS) == sha256_of(file)
