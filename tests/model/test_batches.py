"""Rows of different lengths in batches: every row once, within the budget, longest first."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nla_sdk.model import batches
from nla_sdk.model.batches import by_length, pad_right

LENGTHS = st.lists(st.integers(1, 40), max_size=30)
BUDGET = st.integers(1, 120)


def plainly(lengths: list[int], budget: int) -> list[list[int]]:
    """The same, row by row: a row joins the batch before it if the batch, as wide as its first row, has room."""
    made: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lambda row: (-lengths[row], row)):
        if made and (len(made[-1]) + 1) * lengths[made[-1][0]] <= budget:
            made[-1].append(row)
        else:
            made.append([row])
    return made


@given(LENGTHS, BUDGET)
def test_batches_are_those_of_a_plain_computation(lengths, budget):
    assert list(by_length(lengths, budget)) == plainly(lengths, budget)


@given(LENGTHS, BUDGET)
def test_every_row_runs_once_longest_first_and_ties_in_order(lengths, budget):
    order = [row for batch in by_length(lengths, budget) for row in batch]
    assert order == sorted(range(len(lengths)), key=lambda row: (-lengths[row], row))


@given(LENGTHS, BUDGET)
def test_no_padded_batch_is_over_the_budget_unless_it_is_a_single_row(lengths, budget):
    for batch in by_length(lengths, budget):
        assert len(batch) == 1 or len(batch) * max(lengths[row] for row in batch) <= budget


def test_the_budget_is_tokens_per_batch_where_no_other_is_given(monkeypatch):
    monkeypatch.setattr(batches, "TOKENS_PER_BATCH", 10)
    assert list(by_length([5, 5, 5])) == [[0, 1], [2]]


@pytest.mark.parametrize("pad_id", [0, 7])
def test_rows_are_padded_on_the_right_and_their_last_tokens_known(pad_id):
    padded, last = pad_right([[1, 2, 3], [4]], pad_id)
    assert padded.tolist() == [[1, 2, 3], [4, pad_id, pad_id]] and padded.dtype == torch.int64
    assert last.tolist() == [2, 0]
