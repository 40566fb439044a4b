"""A run's log, `log.jsonl`: one JSON object a line, with the whole number `step`; the reader that everything shares."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import InputError
from .parsing import parse_json


def log_lines(path: Path, *, strict: bool = True) -> Iterator[tuple[str, dict[str, Any]]]:
    """The lines of a training log as they are, and what each of them says.

    A last line that is cut off is left out: the run was killed while it wrote, or is writing now.

    Args:
        strict: a line that is no record of a step is an error. False, for logs that others wrote: every JSON object
            counts, with a step or without, and what is none is passed over.
    Raises:
        InputError: the log cannot be read, or a line is not a JSON object with a whole number `step`; names the line.
    """
    try:
        lines = Path(path).read_bytes().split(b"\n")
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            text = line.decode("utf-8")
            record = parse_json(text)
        except ValueError as error:  # of the decoding too
            if not strict:
                continue
            if number == len(lines):  # whole lines end in a newline, so this one is not whole
                return
            raise InputError(f"{path}, line {number}: not JSON ({error}); expected one object per step.") from error
        step = record.get("step") if isinstance(record, dict) else None
        if strict and (not isinstance(step, int) or isinstance(step, bool)):
            raise InputError(f'{path}, line {number}: expected an object with a whole number "step".')
        if isinstance(record, dict):
            yield text, record


def read_log(path: Path) -> list[dict[str, Any]]:
    """The records of a training log, one per step, steps ascending.

    Where the log goes back to an earlier step, a run was resumed from a checkpoint: what was logged from that step on
    belongs to steps that were taken again, and only the later account of them counts. Two records of the same step that
    follow each other are one.

    Raises:
        InputError: as `log_lines`.
    """
    records: list[dict[str, Any]] = []
    for _, record in log_lines(path):
        while records and records[-1]["step"] > record["step"]:
            records.pop()
        if records and records[-1]["step"] == record["step"]:
            records[-1] = records[-1] | record
        else:
            records.append(record)
    return records


def read_losses(path: Path) -> dict[int, float]:
    """step → loss of a training log (`log.jsonl`), for `trend`. Records without a loss (step 0) are left out.

    Raises:
        InputError: the log cannot be read or is malformed; names the line, or the step whose loss is not a number.
    """
    losses = {}
    for record in read_log(path):
        if "loss" not in record:
            continue
        loss = record["loss"]
        if not isinstance(loss, int | float) or isinstance(loss, bool):
            raise InputError(f"{path}, step {record['step']}: the loss is {loss!r}; expected a number.")
        losses[record["step"]] = float(loss)
    return losses
