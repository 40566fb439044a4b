"""What becomes of an adapter's tensors, in words; the accounts themselves are tested by `nla info`."""

import pytest

from nla_sdk.halves.tensors import group_reasons, number_ranges


def test_reasons_that_differ_in_the_block_only_are_one():
    reasons = {f"t{n}": f"block {n % 3 + 18} never runs (the AR stops after block 17)" for n in range(9)}
    reasons |= {"s": "block 20 takes its keys and values from an earlier block", "v": "belongs to a tower"}
    assert group_reasons(reasons) == {
        "blocks 18–20 never run (the AR stops after block 17)": 9,
        "block 20 takes its keys and values from an earlier block": 1,
        "belongs to a tower": 1,
    }


@pytest.mark.parametrize(
    ("numbers", "shown"), [([3], "3"), ([18, 20, 19, 34], "18–20, 34"), ([1, 1, 2], "1–2"), ([0, 2, 4], "0, 2, 4")]
)
def test_number_ranges(numbers, shown):
    assert number_ranges(numbers) == shown
