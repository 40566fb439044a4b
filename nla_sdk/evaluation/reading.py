"""Reading and writing the evaluation file: its hash, its version, and what is wrong with one that does not hold.

Example:
    >>> evaluation = load(Path("results/demo/evaluation.json"))  # doctest: +SKIP
    >>> evaluation.verdict.value, evaluation.round_trip.fve.value
    ('reads-content', 0.324)
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from pathlib import Path

from pydantic import ValidationError

from ..errors import MissingFileError, NLAError
from ..io.files import atomic
from ..io.parsing import parse_json
from .consistency import contradictions
from .schema import VERSIONS, Evaluation


class EvaluationError(NLAError):
    """An evaluation file is malformed, was changed by hand, contradicts itself, or is of other tables or weights."""

    remedy = "Keep evaluation.json with its tables and weights; if it was edited or these changed, measure again."


def canonical(evaluation: Evaluation) -> str:
    """The file's JSON without its own hash: sorted keys, no spaces, shortest floats, absent parts left out."""
    values = evaluation.model_dump(mode="json", exclude_none=True)
    return json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest(evaluation: Evaluation) -> str:
    """SHA-256 of the canonical JSON."""
    return hashlib.sha256(canonical(evaluation).encode()).hexdigest()


def dumps(evaluation: Evaluation) -> str:
    """The file's text: readable JSON, its hash last."""
    values = evaluation.model_dump(mode="json", exclude_none=True)
    return json.dumps({**values, "sha256": digest(evaluation)}, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def save(evaluation: Evaluation, path: Path) -> Path:
    """Write the file, atomically; returns its path."""
    path = Path(path)
    with atomic(path) as sibling:
        sibling.write_text(dumps(evaluation), encoding="utf-8", newline="\n")
    return path


def _no_numbers(value: object, where: str = "") -> Iterator[str]:
    """Where in a file's JSON NaN or infinity stands (Python's reader takes both, JSON has neither)."""
    if isinstance(value, float) and not math.isfinite(value):
        yield where
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in items:
        yield from _no_numbers(part, f"{where}.{key}" if where else str(key))


def load(path: Path) -> Evaluation:
    """Read an evaluation file and check what it says of itself.

    Raises:
        MissingFileError: there is no such file.
        EvaluationError: malformed; or a figure was changed: its hash, its verdict or its arithmetic does not hold.
    """
    path = Path(path)
    try:
        content = parse_json(path.read_bytes())
    except FileNotFoundError:
        raise MissingFileError(
            f"{path} does not exist; expected an evaluation file (training.evaluate makes one)."
        ) from None
    except (OSError, ValueError) as error:
        raise EvaluationError(f"{path} is no readable JSON: {error}.") from error
    if not isinstance(content, dict):
        raise EvaluationError(f"{path} holds a {type(content).__name__}; expected an evaluation.")
    if "schema_version" not in content:
        raise EvaluationError(f"{path} is no evaluation file: it has no schema_version. Measure the pair again.")
    version = content["schema_version"]
    if version not in VERSIONS:
        raise EvaluationError(
            f"{path} has schema version {version!r}; this nla-sdk reads {' and '.join(map(str, VERSIONS))}. Update one "
            "of them."
        )
    if (lost := next(_no_numbers(content), None)) is not None:
        raise EvaluationError(
            f"{path}: {lost} is NaN or infinite, which is no figure: whatever wrote it measured with a model that gave "
            "no numbers. Measure the pair again, in bfloat16 or float32."
        )
    stated = content.pop("sha256", None)  # the hash is of all the rest
    try:
        evaluation = Evaluation.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise EvaluationError(f"{path}: {where}: {first['msg']}.") from None
    if stated != digest(evaluation):
        raise EvaluationError(
            f"{path} was changed after it was written: its SHA-256 is {digest(evaluation)[:12]}…, it states "
            f"{str(stated)[:12]}…. Restore it, or measure the pair again."
        )
    if wrong := contradictions(evaluation):
        raise EvaluationError(f"{path} contradicts itself: {'; '.join(wrong)}.")
    return evaluation
