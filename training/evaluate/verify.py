"""Hold an evaluation file against what it says it was made from. `python -m training.evaluate verify FILE`

Of a measured file: its own hash, the hashes of its tables, every figure its rows determine (recomputed; 1e-6), the
verdict, and the SHA-256 of contracts, weights and data as far as they are at hand. Figures that rows do not determine
(retrieval by source texts that were not kept or by an embedder, cost) rest on the file's own hash. Of a published file:
its hash and its arithmetic. Needs no torch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cards.evaluation import ROWS, VARIANTS, Content, Evaluation, EvaluationError, load
from nla_sdk.contract import Contract

from ..files import sha256_of
from . import inputs

TOLERANCE = 1e-6


@dataclass(frozen=True)
class Checked:
    """What was verified, and what could not be for want of files."""

    evaluation: Evaluation
    checked: list[str]
    not_at_hand: list[str]


def verify(path: Path, *, av: Path | None = None, ar: Path | None = None, data: Path | None = None) -> Checked:
    """Verify an evaluation file.

    Args:
        av, ar: the folders of the halves; default: `av` and `ar` beside the file, where there are such folders.
        data: the held-out parquet; default: the file of its name beside the evaluation.
    Raises:
        EvaluationError: something does not hold; names every figure or file that doesn't.
        MissingFileError: there is no such file.
    """
    evaluation = load(path)
    here = Path(path).parent
    if evaluation.origin == "published":
        return Checked(
            evaluation, ["the file's SHA-256", "its arithmetic", "the verdict"], ["rows (published figures)"]
        )
    tables = {}
    for name, digest in evaluation.files.items():
        if Path(name).name != name or not (here / name).is_file():
            raise EvaluationError(f"{path} names the table {name}, which is not beside it. Keep them together.")
        if sha256_of(here / name) != digest:
            raise EvaluationError(f"{here / name} is not the table that {path} was computed from: its SHA-256 differs.")
        tables[name] = here / name
    if wrong := list(_recompute(evaluation, tables)):
        more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise EvaluationError(f"{path} is not what its rows give: {'; '.join(wrong[:5])}{more}.")
    checked = ["the file's SHA-256", "its arithmetic", "the verdict", "every figure its rows determine"]
    missing = []
    for role, folder in (("av", av), ("ar", ar)):
        folder = folder or here / role
        if not folder.is_dir():
            missing.append(f"the {role.upper()} (pass --{role} FOLDER)")
            continue
        if wrong := inputs.differences(evaluation, role, folder, Contract.load(folder)):
            raise EvaluationError(f"{path} was not measured from {folder}: {'; '.join(wrong)}.")
        checked.append(f"the {role.upper()}'s contract and weights")
    data = data or here / evaluation.data.name
    if not data.is_file():
        missing.append(f"the data {evaluation.data.name} (pass --data FILE)")
    elif sha256_of(data) != evaluation.data.sha256:
        raise EvaluationError(f"{path} was not measured on {data}: its SHA-256 differs.")
    else:
        checked.append("the data")
    return Checked(evaluation, checked, missing)


def _recompute(evaluation: Evaluation, tables: dict[str, Path]) -> Iterator[str]:
    """Every figure that the tables contradict."""
    import pyarrow.parquet as pq

    from . import compute

    rows = pq.read_table(tables[ROWS])
    variants = pq.read_table(tables[VARIANTS]) if VARIANTS in tables else None
    found = compute.parts(compute.Tables(rows, variants, evaluation.settings))
    shuffled = compute.shuffled_column(compute.Tables(rows, None, evaluation.settings))
    if len(shuffled) and not _same_numbers(shuffled.to_pylist(), rows["cosine_shuffled"].to_pylist()):
        yield "rows.parquet: cosine_shuffled does not follow from its vectors"
    yield from _cosines(rows)
    for name, part in found.items():
        stated = getattr(evaluation, name)
        if name == "content":
            stated = _determined(stated, part)
        yield from differences(_plain(stated), _plain(part), name)
    for name in ("identity", "true_labels", "true_labels_identity", "content", "collapse", "ablation", "signal"):
        if name not in found and getattr(evaluation, name) is not None:
            yield f"{name} is stated, but the rows give none"


def _cosines(rows) -> Iterator[str]:
    """The rows' cosines against the rows' vectors."""
    import numpy as np

    from nla_sdk import metrics

    from ..files import read_vectors

    for cosine, vectors in (("cosine_real", "reconstruction"), ("cosine_label", "label_reconstruction")):
        if cosine not in rows.column_names:
            continue
        there = rows.filter(rows[cosine].is_valid())
        if not there.num_rows:
            continue
        follows = metrics.cosine(read_vectors(there, vectors), read_vectors(there))
        if np.abs(np.atleast_1d(follows) - there[cosine].to_numpy()).max() > TOLERANCE:
            yield f"rows.parquet: {cosine} does not follow from its vectors"


def _same_numbers(a: list, b: list) -> bool:
    return all(
        (x is None and y is None) or (x is not None and y is not None and abs(x - y) <= TOLERANCE)
        for x, y in zip(a, b, strict=True)
    )


def _determined(stated: Content | None, found: Content) -> Content | None:
    """Of the stated retrievals those that the tables determine: their texts or features are in the rows."""
    if stated is None:
        return None
    kinds = {(one.query, one.candidates, one.features) for one in found.retrieval}
    kept = [one for one in stated.retrieval if (one.query, one.candidates, one.features) in kinds]
    return stated.model_copy(update={"retrieval": kept})


def _plain(part: Any) -> Any:
    if isinstance(part, list):
        return [_plain(one) for one in part]
    return part.model_dump(mode="json") if hasattr(part, "model_dump") else part


def differences(stated: Any, found: Any, where: str) -> Iterator[str]:
    """Paths at which two JSON values differ: numbers by more than 1e-6."""
    if isinstance(stated, dict) and isinstance(found, dict):
        for key in sorted(stated.keys() | found.keys()):
            yield from differences(stated.get(key), found.get(key), f"{where}.{key}")
    elif isinstance(stated, list) and isinstance(found, list) and len(stated) == len(found):
        for at, (one, other) in enumerate(zip(stated, found, strict=True)):
            yield from differences(one, other, f"{where}.{at}")
    elif isinstance(stated, int | float) and isinstance(found, int | float) and not isinstance(stated, bool):
        if not math.isclose(stated, found, rel_tol=0, abs_tol=TOLERANCE):
            yield f"{where} is {stated:.6g}, the rows give {found:.6g}"
    elif stated != found:
        yield f"{where} is {stated!r:.60}, the rows give {found!r:.60}"
