"""The shortlist's token is the float32 argmax, whatever the numbers are; each bound holds in float64."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import namedtuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nla_sdk.model.fast.parts import Part
from nla_sdk.model.fast.shortlist import GROUP, Rounded, Shortlist, likeliest
from tests import tiny

CAPS = {
    "none": lambda x: x,
    "soft": lambda x: torch.tanh(x / 30) * 30,
    "saturating": lambda x: torch.tanh(x / 0.01) * 0.01,  # most of all logits are one number
    "divided": lambda x: x / 8,
    "multiplied": lambda x: x * 0.0625,
}


LowRank = namedtuple("LowRank", "down up")


def adapted(weight, bias, low):
    """An lm_head with what adapters add."""
    return Part(weight, bias) if low is None else Part(weight, bias, low.down, low.up)


def exactly(weight, bias=None, low=None):
    """States → all logits in float64, before the cap, and how far any order of float32 sums may be from them."""

    def products(states):
        h, w = states.double(), weight.double()
        exact, size = h @ w.T, h.norm(dim=1)[:, None] * w.norm(dim=1)
        if bias is not None:
            exact, size = exact + bias.double(), size + bias.double().abs()
        if low is not None:
            a, b = low.down.double(), low.up.double()
            exact = exact + h @ a.T @ b.T
            size = size + h.norm(dim=1)[:, None] * a.norm() * b.norm(dim=1)
        return exact, size * (weight.shape[1] + 8) * 2.0**-24 * 2

    return products


def plainly(weight, bias, low, cap):
    """States → all logits in float32, as an lm_head gives them."""

    def logits(states):
        found = torch.nn.functional.linear(states, weight, bias)
        return cap(found if low is None else found + states @ low.down.T @ low.up.T)

    return logits


@st.composite
def cases(draw):
    seed, d = draw(st.integers(0, 10_000)), draw(st.sampled_from([8, 13, 64, 257, 640, 1500]))
    vocabulary, rows = draw(st.integers(1, 700)), draw(st.sampled_from([1, 2, 3, 16, 17, 33, 70]))
    weight, states = tiny.random(vocabulary, d, seed=seed), tiny.random(rows, d, seed=seed + 1)
    for what in draw(st.sets(st.sampled_from(["outlier dims", "outlier rows", "zeros", "equals", "near", "sizes"]))):
        if what == "outlier dims":
            weight[:, 0] *= 1e3
            states[:, d // 2] *= 1e3
        elif what == "outlier rows":
            weight[:: max(1, vocabulary // 5)] *= 1e3
            states[::3] *= 50
        elif what == "zeros":
            weight[::3] = 0
            states[1::4] = 0
        elif what == "equals":
            weight[vocabulary // 2 :] = weight[: vocabulary - vocabulary // 2].clone()
        elif what == "near":
            weight = weight[:1] + 1e-6 * weight
        else:
            weight *= tiny.random(vocabulary, 1, seed=seed + 2).exp()
    bias = tiny.random(vocabulary, seed=seed + 3, scale=5.0) if draw(st.booleans()) else None
    low = None
    if draw(st.booleans()):
        rank = draw(st.sampled_from([1, 4]))
        low = LowRank(tiny.random(rank, d, seed=seed + 4), tiny.random(vocabulary, rank, seed=seed + 5, scale=0.5))
    return weight, states, bias, low, draw(st.sampled_from(sorted(CAPS)))


@settings(max_examples=150, deadline=None)
@given(cases())
def test_the_token_is_the_argmax_but_for_what_float32_itself_cannot_tell(case):
    weight, states, bias, low, name = case
    cap = CAPS[name]
    shortlist = Shortlist(adapted(weight, bias, low), Rounded.of(weight))
    logits = plainly(weight, bias, low, cap)
    tokens, values = likeliest(states, shortlist, cap, logits, most=1.0)
    exact, slack = exactly(weight, bias, low)(states)
    own, at = cap(exact), torch.arange(len(states))
    # In float64 no token is better by more than float32 rounds on both sides, and the cap's own rounding.
    reach = cap(exact + slack) - own + own.abs() * 1e-6
    assert (own[at, tokens] + reach[at, tokens] >= (own - reach).amax(dim=1)).all()
    near = (reach[at, tokens] + values.double().abs() * 1e-6 + 1e-30) * 4
    assert ((values - own[at, tokens]).abs() <= near).all()


@settings(max_examples=100, deadline=None)
@given(cases())
def test_the_true_maximum_is_among_the_candidates_and_all_others_are_below_what_is_known(case):
    weight, states, bias, low, _ = case
    found, known = Shortlist(adapted(weight, bias, low), Rounded.of(weight)).candidates(states)
    exact, _ = exactly(weight, bias, low)(states)
    best = exact.amax(dim=1)
    assert found.tolist() == sorted(set(found.tolist()))
    assert (exact[:, found].amax(dim=1) == best).all()
    others = torch.ones(len(weight), dtype=torch.bool)
    others[found] = False
    assert (exact[:, others] < known[:, None].double()).all()
    assert (known <= best).all()


@settings(max_examples=100, deadline=None)
@given(cases())
def test_the_bound_holds_for_every_token(case):
    weight, states, bias, low, _ = case
    rounded, shortlist = Rounded.of(weight), Shortlist(adapted(weight, bias, low), Rounded.of(weight))
    scale = states.abs().amax(dim=1).clamp(min=1e-30) / 127
    whole = (states / scale[:, None]).round()
    inside = whole * scale[:, None]
    lowered = None if low is None else low.down @ states.T
    products, _ = shortlist._approximate(whole.to(torch.int8).T.contiguous(), scale, lowered)
    approximate = products.flatten(0, 1)[: len(weight)].T.double() * scale[:, None].double()
    exact, slack = exactly(weight, bias, low)(states)
    h, w = states.double(), weight.double()
    kept = (rounded.weight.double() * rounded.scale.double()[:, None], inside.double())
    bound = kept[1].norm(dim=1)[:, None] * (w - kept[0]).norm(dim=1) + (h - kept[1]).norm(dim=1)[:, None] * w.norm(
        dim=1
    )
    assert ((exact - approximate).abs() <= bound * (1 + 1e-6) + slack).all()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 500), st.sampled_from([1, 2, 5, 33]), st.sampled_from(sorted(CAPS)))
def test_of_exact_ties_the_first_is_taken(seed, vocabulary, rows, cap):
    # Small whole numbers: every order of float32 sums gives the same, so that ties are ties.
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randint(-1, 2, (vocabulary, 8), generator=generator).float()
    states = torch.randint(-2, 3, (rows, 8), generator=generator).float()
    shortlist = Shortlist(Part(weight), Rounded.of(weight))
    logits = plainly(weight, None, None, CAPS[cap])
    tokens, values = likeliest(states, shortlist, CAPS[cap], logits, most=1.0)
    expected = logits(states)
    assert torch.equal(tokens, expected.argmax(dim=1)) and torch.equal(values, expected.amax(dim=1))


def refused(states):
    raise AssertionError("the shortlist decides")


def clear(vocabulary: int, d: int, rows: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights and states of which each is near to one token's row, so that few candidates are left."""
    weight = tiny.random(vocabulary, d, seed=seed)
    return weight, weight[torch.arange(rows) * 7 % vocabulary] + tiny.random(rows, d, seed=seed + 1, scale=0.1)


def test_where_the_shortlist_decides_nothing_else_is_computed():
    weight, states = clear(3000, 64, 16, seed=1)
    tokens, _ = likeliest(states, Shortlist(Part(weight), Rounded.of(weight)), CAPS["none"], refused)
    assert tokens.tolist() == [row * 7 for row in range(16)]


def test_a_row_beside_one_fifty_times_larger_gets_the_same():
    weight, states = clear(3000, 64, 16, seed=2)
    shortlist = Shortlist(Part(weight), Rounded.of(weight))
    alone = [likeliest(row[None], shortlist, CAPS["none"], refused) for row in states]
    beside = torch.cat([states, 50 * states.flip(0)])
    tokens, values = likeliest(beside, shortlist, CAPS["none"], refused)
    assert tokens[:16].tolist() == [one.item() for one, _ in alone]
    torch.testing.assert_close(values[:16], torch.cat([value for _, value in alone]), rtol=1e-5, atol=0)
    _, known = shortlist.candidates(beside)
    torch.testing.assert_close(known[:16], torch.cat([shortlist.candidates(row[None])[1] for row in states]))


@pytest.mark.parametrize("number", [torch.nan, torch.inf, -torch.inf])
def test_a_state_that_is_no_number_gives_none_and_leaves_the_others(number):
    weight, states = clear(1000, 64, 3, seed=3)
    states[1, 5] = number
    weight[:, 4] = 0
    states[1, 4] = number  # times 0, which is no number either
    logits = plainly(weight, None, None, CAPS["soft"])
    tokens, values = likeliest(states, Shortlist(Part(weight), Rounded.of(weight)), CAPS["soft"], logits)
    assert values.isfinite().tolist() == [True, False, True]
    assert tokens[[0, 2]].tolist() == [0, 14]


@pytest.mark.parametrize("number", [torch.nan, torch.inf])
def test_a_weight_that_is_no_number_gives_what_the_exact_product_gives(number):
    weight, states = clear(1000, 64, 3, seed=4)
    weight[500, 3] = number
    shortlist, logits = Shortlist(Part(weight), Rounded.of(weight)), plainly(weight, None, None, CAPS["none"])
    for some in (states, states[:1]):
        _, values = likeliest(some, shortlist, CAPS["none"], logits)
        expected = logits(some).amax(dim=1)
        torch.testing.assert_close(values, expected, equal_nan=True)


@pytest.mark.parametrize("size", [1e-38, 1e-20, 1e14, 1e16, 1e25])
def test_states_of_any_size_give_the_argmax(size):
    weight, states = clear(1000, 64, 5, seed=5)
    weight, states = weight.abs(), -states.abs() * size
    weight[::2] = 0  # whose bounds are 0: times infinity they would be no number
    logits = plainly(weight, None, None, CAPS["none"])
    tokens, _ = likeliest(states, Shortlist(Part(weight), Rounded.of(weight)), CAPS["none"], logits, most=1.0)
    assert tokens.tolist() == [0] * 5


def test_the_maximum_is_found_where_all_roundings_of_weights_go_the_worst_way():
    # The likeliest loses 0.49 at every number, another one wins as much at most and is a little less.
    d = 640
    states = tiny.random(d, seed=18).sign()[None]  # whole numbers but for their scale
    likely, other = torch.full((d,), 20.49), torch.full((d,), 20.51)
    other[:10] = 19.0
    weight = torch.stack([other, likely]) * states.sign()
    weight[:, 0] = 127.0  # the scale is 1
    found, _ = Shortlist(Part(weight), Rounded.of(weight)).candidates(states)
    exact = states.double() @ weight.double().T
    assert 1 in found and 0 < exact[0, 1] - exact[0, 0] < 5


def test_the_maximum_is_found_where_all_roundings_of_states_go_the_worst_way():
    d = 640
    states = torch.full((1, d), 20.49)
    states[:, d // 2 :] = 20.51
    states[:, 0] = 127.0
    weight = torch.zeros(2, d)
    weight[1, 1 : d // 2] = 1.0
    weight[0, d // 2 : -2] = 1.0
    found, _ = Shortlist(Part(weight), Rounded.of(weight)).candidates(states)
    exact = states.double() @ weight.double().T
    assert 1 in found and 0 < exact[0, 1] - exact[0, 0] < 20


@pytest.mark.parametrize("bias", [None, -1e9])
def test_a_state_of_zeros_gives_the_largest_bias_or_the_first_token(bias):
    weight, _ = clear(1000, 64, 1, seed=6)
    numbers = None if bias is None else torch.full((1000,), bias)
    if numbers is not None:
        numbers[77] = bias / 2
    shortlist, logits = (
        Shortlist(Part(weight, numbers), Rounded.of(weight)),
        plainly(weight, numbers, None, CAPS["none"]),
    )
    tokens, values = likeliest(torch.zeros(2, 64), shortlist, CAPS["none"], logits)
    assert tokens.tolist() == ([0, 0] if bias is None else [77, 77])
    assert values.tolist() == ([0, 0] if bias is None else [bias / 2] * 2)


def test_low_rank_parts_that_cancel_stay_within_the_bound():
    # A·h is what float32 leaves of a sum of large numbers that cancel; B makes it large again.
    d, vocabulary = 640, 512
    weight, down = tiny.random(vocabulary, d, seed=7, scale=1e-3), tiny.random(4, d, seed=8, scale=100.0)
    states = tiny.random(8, d, seed=9)
    states -= states @ torch.linalg.pinv(down).mT.mT @ down
    low = LowRank(down, tiny.random(vocabulary, 4, seed=10, scale=1e4))
    found, known = Shortlist(adapted(weight, None, low), Rounded.of(weight)).candidates(states)
    exact, _ = exactly(weight, None, low)(states)
    others = torch.ones(vocabulary, dtype=torch.bool)
    others[found] = False
    assert (exact.argmax(dim=1)[:, None] == found).any(dim=1).all()
    assert (exact[:, others] < known[:, None].double()).all()


def test_a_shortlist_that_is_too_long_is_not_scored_and_the_exact_way_is_taken():
    weight = tiny.random(1, 64, seed=11) + 1e-6 * tiny.random(1000, 64, seed=12)
    states, asked = tiny.random(3, 64, seed=13), []

    def exact(some):
        asked.append(len(some))
        return some @ weight.T

    tokens, _ = likeliest(states, Shortlist(Part(weight), Rounded.of(weight)), CAPS["none"], exact)
    assert asked == [3] and torch.equal(tokens, (states @ weight.T).argmax(dim=1))


def test_only_rows_that_a_cap_makes_equal_take_the_exact_way():
    weight, states = clear(1000, 64, 4, seed=14)
    states[2] *= 1e3
    asked = []

    def exact(some):
        asked.append(some)
        return plainly(weight, None, None, CAPS["soft"])(some)

    states[[0, 1, 3]] *= 0.05
    tokens, _ = likeliest(states, Shortlist(Part(weight), Rounded.of(weight)), CAPS["soft"], exact)
    assert len(asked) == 1 and torch.equal(asked[0], states[2:3])
    assert torch.equal(tokens, plainly(weight, None, None, CAPS["soft"])(states).argmax(dim=1))


def test_products_are_kept_apart_from_one_call_to_the_next():
    weight, states = clear(GROUP * 3 + 5, 64, 40, seed=15)
    shortlist = Shortlist(Part(weight), Rounded.of(weight))
    whole = likeliest(states, shortlist, CAPS["none"], refused, most=1.0)[0]
    for rows in (1, 40, 7):
        assert torch.equal(likeliest(states[:rows], shortlist, CAPS["none"], refused, most=1.0)[0], whole[:rows])


def test_rounded_rows_are_told_from_those_of_another_weight():
    weight = tiny.random(1000, 64, seed=16)
    rounded = Rounded.of(weight, rows=300)
    assert rounded.is_of(weight)
    assert torch.equal(rounded.weight, Rounded.of(weight).weight)
    assert not rounded.is_of(tiny.random(1000, 64, seed=17))
    assert not rounded.is_of(weight[:999]) and not rounded.is_of(weight[:, :63])
    assert not rounded.is_of(weight * 1.01), "whose whole numbers are the same"
    assert not rounded.is_of(weight.flip(0))


EXACT = """
import torch
from nla_sdk.model.fast.shortlist import int8_is_exact
weight, columns = torch.full((8, 64), 127, dtype=torch.int8), torch.full((64, 1), 127, dtype=torch.int8)
weight[1::2] = -127
print(int8_is_exact(), torch.equal(torch._int_mm(weight, columns).long(), weight.long() @ columns.long()))
"""


def test_a_machine_whose_int8_sums_are_cut_off_is_known():
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2", "OMP_NUM_THREADS": "1"}  # no VNNI, where there is one
    ran = subprocess.run([sys.executable, "-c", EXACT], env=environment, capture_output=True, text=True, check=True)
    said, is_so = ran.stdout.split()
    assert said == is_so
