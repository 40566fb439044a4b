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
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from ..errors import MissingFileError, NLAError
from ..io.files import atomic
from ..io.parsing import parse_json
from .consistency import contradictions
from .parts import Part
from .schema import VERSIONS, Evaluation

File = TypeVar("File", bound=Part)


class EvaluationError(NLAError):
    """An evaluation file is malformed, was changed by hand, contradicts itself, or is of other tables or weights."""

    remedy = "Keep evaluation.json with its tables and weights; if it was edited or these changed, measure again."


def canonical(file: Part) -> str:
    """The file's JSON without its own hash: sorted keys, no spaces, shortest floats, absent parts left out."""
    values = file.model_dump(mode="json", exclude_none=True)
    return json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest(file: Part) -> str:
    """SHA-256 of the canonical JSON."""
    return hashlib.sha256(canonical(file).encode()).hexdigest()


def dumps(file: Part) -> str:
    """The file's text: readable JSON, its hash last."""
    values = file.model_dump(mode="json", exclude_none=True)
    return json.dumps({**values, "sha256": digest(file)}, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def save(file: Part, path: Path) -> Path:
    """Write the file, atomically; returns its path."""
    path = Path(path)
    with atomic(path) as sibling:
        sibling.write_text(dumps(file), encoding="utf-8", newline="\n")
    return path


def _no_numbers(value: object, where: str = "") -> Iterator[str]:
    """Where in a file's JSON NaN or infinity stands (Python's reader takes both, JSON has neither)."""
    if isinstance(value, float) and not math.isfinite(value):
        yield where
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in items:
        yield from _no_numbers(part, f"{where}.{key}" if where else str(key))


def read_json(path: Path, expected: str, what: str) -> dict[str, Any]:
    """The JSON object in a file.

    Args:
        expected: and what: the file in words, for messages: where there is none, and where it holds something else.
    Raises:
        MissingFileError: there is no such file.
        EvaluationError: it is no JSON, or no object.
    """
    try:
        content = parse_json(path.read_bytes())
    except FileNotFoundError:
        raise MissingFileError(f"{path} does not exist; expected {expected}.") from None
    except (OSError, ValueError) as error:
        raise EvaluationError(f"{path} is no readable JSON: {error}.") from error
    if not isinstance(content, dict):
        raise EvaluationError(f"{path} holds a {type(content).__name__}; expected {what}.")
    return content


def _listed(versions: Sequence[int]) -> str:
    *others, last = map(str, versions)
    return f"{', '.join(others)} and {last}" if others else last


def sealed(path: Path, content: dict[str, Any], kind: type[File], versions: Sequence[int], again: str) -> File:
    """A file's content as what it is, held against the hash that it states.

    Args:
        again: how it is made anew, for messages.
    Raises:
        EvaluationError: of another version, malformed, not all numbers, or changed after it was written.
    """
    if (version := content.get("schema_version")) not in versions:
        raise EvaluationError(
            f"{path} has schema version {version!r}; this nla-sdk reads {_listed(versions)}. Update one of them."
        )
    if (lost := next(_no_numbers(content), None)) is not None:
        raise EvaluationError(
            f"{path}: {lost} is NaN or infinite, which is no figure: whatever wrote it measured with a model that gave "
            "no numbers. Measure the pair again, in bfloat16 or float32."
        )
    stated = content.pop("sha256", None)  # the hash is of all the rest
    try:
        found = kind.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        raise EvaluationError(f"{path}: {'.'.join(map(str, first['loc'])) or 'the file'}: {first['msg']}.") from None
    if stated != digest(found):
        raise EvaluationError(
            f"{path} was changed after it was written: its SHA-256 is {digest(found)[:12]}…, it states "
            f"{str(stated)[:12]}…. Restore it, or {again}."
        )
    return found


def load(path: Path) -> Evaluation:
    """Read an evaluation file and check what it says of itself.

    Raises:
        MissingFileError: there is no such file.
        EvaluationError: malformed; or a figure was changed: its hash, its verdict or its arithmetic does not hold.
    """
    path = Path(path)
    content = read_json(path, "an evaluation file (training.evaluate makes one)", "an evaluation")
    if "schema_version" not in content:
        raise EvaluationError(f"{path} is no evaluation file: it has no schema_version. Measure the pair again.")
    evaluation = sealed(path, content, Evaluation, VERSIONS, "measure the pair again")
    if wrong := contradictions(evaluation):
        raise EvaluationError(f"{path} contradicts itself: {'; '.join(wrong)}.")
    return evaluation
