"""States from weights at any tokens of texts are the model's own (`run_to_block`)."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nla_sdk.model import batches
from nla_sdk.model.batches import fast_blocks, merged, read_states, shared_beginning
from nla_sdk.model.fast.blocks import read_blocks
from nla_sdk.model.fast.whole import run_beginning, states_at
from tests import tiny

from .backbones import KINDS, backbone, holding, ids_of
from .test_steps import BESIDE

RELATIVE = 1e-5


def plainly(made, rows, wanted, block):
    """Each row through the model alone."""
    return at(alone(made, rows, block), wanted)


def alone(made, rows, block):
    return [made.run_to_block(torch.tensor([list(ids)]), block)[0] for ids in rows]


def at(states, wanted):
    return [own[torch.tensor(list(positions), dtype=torch.long)] for own, positions in zip(states, wanted, strict=True)]


def check(found, own) -> None:
    assert len(found) == len(own)
    for one, other in zip(found, own, strict=True):
        assert one.shape == other.shape
        if len(one):
            assert tiny_distance(one, other) <= RELATIVE


def tiny_distance(a, b) -> float:
    return float(((a - b).norm(dim=-1) / b.norm(dim=-1)).max())


SHARED = ids_of(6, seed=50)
ROWS = {
    "one row": [ids_of(9, seed=1)],
    "a token": [[2]],
    "rows of several lengths": [ids_of(length, seed=length) for length in (9, 3, 14, 1, 5)],
    "a shared beginning": [[*SHARED, *ids_of(more, seed=more)] for more in (1, 5, 3)],
    "beginnings of others": [SHARED[:2], [*SHARED, 9, 8], SHARED, SHARED[:4], [*SHARED, 9]],
    "variants of a text": [[*SHARED[:cut], *ids_of(9 - cut, seed=cut)] for cut in (2, 3, 5, 5, 6)],
    "variants of two texts": [
        [*ids_of(7, seed=of)[:cut], *ids_of(7 - cut, seed=cut)] for of in (3, 4) for cut in (2, 4, 6)
    ],
    "equal rows": [SHARED, SHARED, ids_of(4, seed=3), SHARED],
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("lora", "block"), [(False, 0), (True, 3)], ids=["plain", "LoRA"])
@torch.no_grad()
def test_states_are_the_models_own(kind, lora, block):
    made = backbone(kind, lora=lora)
    with made.using("av" if lora else None):
        for rows in ROWS.values():
            own = alone(made, rows, block)
            for wanted in (
                [list(range(len(row))) for row in rows],
                [[len(row) - 1, 0, len(row) // 2, 0] for row in rows],
                [[] if at else [0] for at in range(len(rows))],
            ):
                check(read_states(made, rows, wanted, block), at(own, wanted))


@pytest.fixture(scope="module")
def small():
    return backbone("gemma3", num_hidden_layers=2, layer_types=["sliding_attention", "full_attention"])


@st.composite
def asked(draw):
    token = st.sampled_from([4, 5, 6])  # few, so that rows begin alike
    rows = draw(st.lists(st.lists(token, min_size=1, max_size=7), min_size=1, max_size=6))
    start = draw(st.lists(token, max_size=3))
    rows = [[*start, *row] for row in rows]
    return rows, [draw(st.lists(st.integers(0, len(row) - 1), max_size=4)) for row in rows]


@settings(max_examples=60, deadline=None)
@given(asked(), st.integers(0, 1), st.sampled_from([1, 12, 512]), st.booleans())
def test_any_rows_and_positions(small, question, block, tokens, fast):
    rows, wanted = question
    with torch.no_grad(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(batches, "FEWER_TOKENS", tokens)
        patch.setattr(batches, "TOKENS_PER_BATCH", tokens)
        check(read_states(small, rows, wanted, block, fast=fast), plainly(small, rows, wanted, block))


@settings(max_examples=100)
@given(st.lists(st.lists(st.integers(0, 2), max_size=5), max_size=8))
def test_rows_run_within_one_that_begins_with_them_and_as_few_as_can_be(rows):
    within = merged(rows)
    for row, run in zip(rows, within, strict=True):
        assert rows[run][: len(row)] == row
        assert within[run] == run
    maximal = {tuple(row) for row in rows if not any(len(o) > len(row) and o[: len(row)] == row for o in rows)}
    assert len(set(within)) == len(maximal)


@settings(max_examples=100)
@given(st.lists(st.lists(st.integers(0, 1), max_size=5), min_size=1, max_size=6))
def test_the_shared_beginning_is_the_longest(rows):
    common = list(shared_beginning(rows))
    assert all(row[: len(common)] == common for row in rows)
    assert any(len(row) == len(common) for row in rows) or len({row[len(common)] for row in rows}) > 1


@pytest.mark.parametrize("kind", ["llama", "gemma3", "qwen3"])
@torch.no_grad()
def test_states_behind_a_beginning(kind):
    made = backbone(kind)
    blocks, ids = read_blocks(made, 3), ids_of(11, seed=2)
    own = made.run_to_block(torch.tensor([ids]), 2)[0]
    for before in (1, 4, 10):
        beginning = run_beginning(blocks, ids[:before])
        wanted = list(range(before, 11))
        [found] = states_at(blocks, torch.tensor([ids[before:]]), [wanted], beginning)
        assert tiny_distance(found, own[before:]) <= RELATIVE
    assert run_beginning(blocks, []) is None


@torch.no_grad()
def test_each_text_is_run_once_and_no_further_than_it_is_read(monkeypatch):
    made, seen = backbone("llama"), []
    own = batches.states_at
    rows, wanted = [SHARED, [*SHARED, 9, 8, 7], SHARED[:3]], [[5], [6], [2]]
    read_states(made, rows, wanted, 1)

    def counted(blocks, ids, *rest):
        seen.append(tuple(ids.shape))
        return own(blocks, ids, *rest)

    monkeypatch.setattr(batches, "states_at", counted)
    read_states(made, rows, wanted, 1)
    assert seen == [(1, 7)]


# --- where the model itself is run --------------------------------------------------------------------------------
def runs_of(made, monkeypatch) -> list:
    seen, own = [], type(made).run_to_block

    def counted(self, ids, block):
        seen.append(tuple(ids.shape))
        return own(self, ids, block)

    monkeypatch.setattr(type(made), "run_to_block", counted)
    return seen


@pytest.mark.parametrize(
    ("made", "length"),
    [
        (lambda: backbone("gemma3", sliding_window=8), 12),
        (lambda: backbone("mistral", sliding_window=8), 12),
        (lambda: holding(tiny.gemma_config()), 12),
    ],
    ids=["gemma3", "mistral", "gemma4"],
)
@torch.no_grad()
def test_texts_longer_than_a_window_and_kinds_that_are_not_known_run_as_transformers_has_them(
    made, length, monkeypatch
):
    made = made()
    rows, wanted = [ids_of(length, seed=1), ids_of(4, seed=2)], [[length - 1, 3], [3]]
    assert fast_blocks(made, rows, 2) is None
    own = plainly(made, rows, wanted, 2)
    seen = runs_of(made, monkeypatch)
    check(read_states(made, rows, wanted, 2), own)
    assert seen == [(2, length)]


@torch.no_grad()
def test_texts_as_long_as_the_window_are_known():
    made = backbone("gemma3", sliding_window=8)
    rows, wanted = [ids_of(8, seed=1), ids_of(5, seed=2)], [[7, 2], [4]]
    assert fast_blocks(made, rows, 3) is not None
    check(read_states(made, rows, wanted, 3), plainly(made, rows, wanted, 3))


@torch.no_grad()
def test_the_models_own_way_is_to_be_had(monkeypatch):
    made = backbone("llama")
    rows, wanted = [ids_of(8, seed=1)], [[7]]
    seen = runs_of(made, monkeypatch)
    slow = read_states(made, rows, wanted, 1, fast=False)
    assert seen == [(1, 8)]
    check(read_states(made, rows, wanted, 1), slow)


def test_with_gradients_the_model_itself_runs_and_they_come_through():
    made = backbone("llama", lora=True)
    rows, wanted = [ids_of(8, seed=1), ids_of(5, seed=2)], [[7, 1], [4]]
    with made.using("av"):
        for parameter in made.adapter_parameters("av").values():
            parameter.requires_grad_(True)
        assert fast_blocks(made, rows, 2) is None
        torch.cat(read_states(made, rows, wanted, 2)).sum().backward()
        gradients = [one.grad for one in made.adapter_parameters("av").values() if one.grad is not None]
        assert gradients and all(one.abs().sum() > 0 for one in gradients)


@pytest.mark.parametrize("beside", [one for one in BESIDE if one.__name__ != "adopted"])
@torch.no_grad()
def test_what_is_done_beside_what_the_class_says_is_seen_even_if_a_text_of_one_token_came_first(beside, monkeypatch):
    made = backbone("llama")
    beside(monkeypatch)
    for rows in ([[2]], [[2], ids_of(9, seed=1)], [ids_of(9, seed=2)]):
        wanted = [[len(row) - 1] for row in rows]
        check(read_states(made, rows, wanted, 3), plainly(made, rows, wanted, 3))


@torch.no_grad()
def test_no_positions_at_all_give_no_states():
    made = backbone("llama")
    found = read_states(made, [SHARED, SHARED[:2]], [[], []], 1)
    assert [one.shape for one in found] == [(0, tiny.D_MODEL)] * 2
    assert read_states(made, [], [], 1) == []


@torch.no_grad()
def test_another_adapter_is_compared_anew_and_its_numbers_are_its_own():
    made = backbone("llama", lora=True)
    rows, wanted = [ids_of(8, seed=1)], [[7]]
    for name in ("av", None, "av"):
        with made.using(name):
            check(read_states(made, rows, wanted, 3), plainly(made, rows, wanted, 3))
