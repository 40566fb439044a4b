"""`--record`: put where a number came from into the checkpoint itself. After the seed's eval-provenance convention.

One file opened, `nla_meta.yaml`, then answers which code, which held-out parquet and which evaluation file the headline
figures came from.
"""

from __future__ import annotations

from pathlib import Path

from nla_sdk.contract import Contract
from nla_sdk.evaluation.parts import Figure
from nla_sdk.evaluation.reading import EvaluationError
from nla_sdk.evaluation.schema import Evaluation
from nla_sdk.io.files import sha256_of

from . import inputs

KEY = "eval_provenance"


def provenance(evaluation: Evaluation, file: Path) -> dict:
    """What is written under `eval_provenance`."""
    trip = evaluation.round_trip

    def rounded(figure: Figure | None) -> float | None:
        return None if figure is None else round(figure.value, 6)

    headline = {
        "n_attempted": trip.attempted,
        "n_evaluated": trip.evaluated,
        "n_empty": trip.empty,
        "fve": rounded(trip.fve),
        "gain_over_empty": rounded(evaluation.gain),
        "cosine_mean": rounded(trip.cosine.mean if trip.cosine else None),
        "mse_mean": rounded(trip.mse),
    }
    return {
        "evaluation_file": file.name,
        "evaluation_sha256": sha256_of(file),
        "data_file": evaluation.data.name,
        "data_sha256": evaluation.data.sha256,
        "code_version": evaluation.versions.get("code"),
        "partner_matched": evaluation.subject.matched,
        "headline": {name: value for name, value in headline.items() if value is not None},
        "verdict": evaluation.verdict.value,
        "verdict_reason": evaluation.verdict.reason,
        "created": evaluation.created,
    }


def record(evaluation: Evaluation, file: Path, folders: dict[str, Path]) -> list[Path]:
    """Write the provenance of `evaluation` (read from `file`) into each half's contract; returns the files written.

    Raises:
        EvaluationError: a half is not the one that was measured.
    """
    written = []
    for role, folder in folders.items():
        contract = Contract.load(folder)
        if wrong := inputs.differences(evaluation, role, folder, contract):
            raise EvaluationError(f"{folder} is not the {role.upper()} that {file} measured: {'; '.join(wrong)}.")
    for folder in folders.values():
        contract = Contract.load(folder)
        written.append(contract.replace(**{KEY: provenance(evaluation, file)}).save(folder))
    return written
