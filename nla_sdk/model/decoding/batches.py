"""Rows to write, put into batches: each of one prompt, so that nothing is ever padded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TypeAlias

import torch

from ...contract.prompts.prompt import Prompt
from ...errors import InputError

Inputs: TypeAlias = "torch.Tensor | Sequence[torch.Tensor]"
"""[rows, d_model], [rows, markers, d_model], or one [markers, d_model] a row where rows have different numbers."""
Fields: TypeAlias = "Mapping[str, str] | Sequence[Mapping[str, str]] | None"
"""Texts of a template's fields: the same for all rows, or of each row."""


def batches(
    inputs: Inputs, prompts: Sequence[Prompt], size: int
) -> Iterator[tuple[Sequence[int], Prompt, torch.Tensor]]:
    """Numbers of the rows, their prompt and their inputs [n, d_model] or [n, markers, d_model], at most `size` a time.

    Args:
        prompts: of each row.
    """
    rows_of: dict[Prompt, list[int]] = {}
    for row, prompt in enumerate(prompts):
        rows_of.setdefault(prompt, []).append(row)
    for prompt, rows in rows_of.items():
        for first in range(0, len(rows), size):
            part = rows[first : first + size]
            if isinstance(inputs, torch.Tensor):
                whole = part[-1] - part[0] + 1 == len(part)
                yield part, prompt, inputs[part[0] : part[-1] + 1] if whole else inputs[part]
            else:
                yield part, prompt, torch.stack([inputs[row] for row in part])


def numbers_of_vectors(inputs: Inputs) -> list[int]:
    """How many vectors each row has."""
    if isinstance(inputs, torch.Tensor):
        return [1 if inputs.ndim == 2 else inputs.shape[1]] * len(inputs)
    return [len(vectors) for vectors in inputs]


def of_each_row(fields: Fields, rows: int) -> list[Mapping[str, str]]:
    """A mapping for each row.

    Raises:
        InputError: as many were given as there are not.
    """
    if fields is None or isinstance(fields, Mapping):
        return [fields or {}] * rows
    if len(fields) != rows:
        raise InputError(f"{len(fields)} mappings of fields for {rows} rows; expected one for all or one for each.")
    return list(fields)
