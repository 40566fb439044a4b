"""Steps from weights give transformers' own states, of rows of any length, in whatever order they come and go."""

from __future__ import annotations

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nla_sdk.model.decoding.stepping import ModelSteps, steps_alike
from nla_sdk.model.fast.blocks import read_blocks
from nla_sdk.model.fast.steps import GROWTH, Steps

from .backbones import KINDS, add_lora, backbone, cache_of, ids_of, own_state

RELATIVE = 1e-5


def close(found: torch.Tensor, own: torch.Tensor) -> bool:
    return bool((found - own).norm() <= RELATIVE * own.norm())


class Followed:
    """Steps, and beside them the tokens of each row, which a whole forward of the model is made of."""

    def __init__(self, made) -> None:
        self.made, self.steps, self.rows = made, Steps(read_blocks(made)), []
        self.count = 0

    def join(self, length: int, rows: int) -> None:
        self.count += 1
        some = [ids_of(length, seed=1000 * self.count + at) for at in range(rows)]
        self.steps.join(cache_of(self.made, some))
        self.rows += some

    def keep(self, going: list[int]) -> None:
        order = self.steps.keep(going)
        assert sorted(order) == sorted(going)
        self.rows = [self.rows[at] for at in order]

    def step(self) -> None:
        self.count += 1
        tokens = ids_of(len(self.rows), seed=1000 * self.count)
        found = self.steps(torch.tensor(tokens))
        self.rows = [[*row, token] for row, token in zip(self.rows, tokens, strict=True)]
        assert self.steps.lengths == [len(row) for row in self.rows]
        for state, row in zip(found, self.rows, strict=True):
            assert close(state, own_state(self.made, row)), f"a row of {len(row)} tokens"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lora", [False, True], ids=["plain", "LoRA"])
@torch.no_grad()
def test_rows_of_different_lengths_that_come_and_go(kind, lora):
    made = backbone(kind, lora=lora)
    with made.using("av" if lora else None):
        rows = Followed(made)
        rows.join(5, 2)
        rows.step()
        rows.join(9, 1)
        rows.step()
        rows.keep([1, 2])
        rows.step()
        rows.join(2, 3)
        rows.step()
        rows.keep([4, 0])
        rows.step()
        rows.keep([])
        assert rows.steps.lengths == []
        rows.join(3, 2)
        rows.step()


@pytest.fixture(scope="module")
def small():
    return backbone("gemma3", num_hidden_layers=2, layer_types=["sliding_attention", "full_attention"])


WHAT = st.one_of(
    st.tuples(st.just("join"), st.integers(1, 12), st.integers(1, 3)),
    st.tuples(st.just("step"), st.integers(1, 2), st.just(0)),
    st.tuples(st.just("keep"), st.integers(0, 10_000), st.just(0)),
)


@settings(max_examples=25, deadline=None)
@given(st.lists(WHAT, min_size=3, max_size=10))
def test_any_order_of_coming_going_and_writing(small, events):
    rows = Followed(small)
    with torch.no_grad():
        for what, number, count in events:
            if what == "join":
                rows.join(number, count)
            elif what == "step":
                for _ in range(number if rows.rows else 0):
                    rows.step()
            elif rows.rows:
                going = [at for at in range(len(rows.rows)) if random.Random(number + at).random() < 0.6]
                rows.keep(going)


@torch.no_grad()
def test_rows_outgrow_their_places_together_and_apart():
    made = backbone("llama", num_hidden_layers=1)
    for lengths in ([3], [3, 8]):
        rows = Followed(made)
        for length in lengths:
            rows.join(length, 1)
        for _ in range(GROWTH + 6):
            rows.step()


@torch.no_grad()
def test_places_that_were_left_tell_nothing_to_who_comes_into_them():
    made = backbone("llama", num_hidden_layers=1)
    rows = Followed(made)
    rows.join(4, 3)
    for kept in (*rows.steps._keys, *rows.steps._values):
        kept[0] = 1e6  # a row that has gone mad, and is let go
    rows.keep([2, 1])
    rows.step()
    rows.join(9, 1)
    rows.step()


@torch.no_grad()
def test_the_models_own_steps_give_the_same_states_and_none_joins_them():
    made = backbone("llama")

    def forward(tokens, cache):
        return made.model.model(input_ids=tokens, past_key_values=cache, use_cache=True).last_hidden_state[:, -1]

    steps, rows = ModelSteps(forward, made.device), [ids_of(5, seed=at) for at in range(3)]
    assert not steps.joins and Steps.joins
    steps.join(cache_of(made, rows))
    assert steps.keep([2, 0]) == [2, 0]
    for state, row in zip(steps(torch.tensor([7, 8])), ([*rows[2], 7], [*rows[0], 8]), strict=True):
        assert close(state, own_state(made, row))
    assert steps.keep([]) == []
    steps.join(cache_of(made, rows[:1]))
    assert close(steps(torch.tensor([9]))[0], own_state(made, [*rows[0], 9]))


# --- a model that does something else than its class says --------------------------------------------------------
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lora", [False, True], ids=["plain", "LoRA"])
@torch.no_grad()
def test_steps_are_alike_where_nothing_is_done_beside(kind, lora):
    made = backbone(kind, lora=lora)
    with made.using("av" if lora else None):
        assert steps_alike(made, read_blocks(made), ids_of(12, seed=1))


@torch.no_grad()
def test_a_prompt_too_short_to_tell_is_not_alike():
    made = backbone("llama")
    assert not steps_alike(made, read_blocks(made), [5, 6])


def scaled_scores(patch) -> None:
    from transformers.models.llama.modeling_llama import LlamaAttention

    own = LlamaAttention.forward

    def forward(self, *given, **named):
        self.scaling *= 1.1
        try:
            return own(self, *given, **named)
        finally:
            self.scaling /= 1.1

    patch.setattr(LlamaAttention, "forward", forward)


def more_of_a_block(patch) -> None:
    from transformers.models.llama.modeling_llama import LlamaDecoderLayer

    own = LlamaDecoderLayer.forward
    patch.setattr(LlamaDecoderLayer, "forward", lambda self, *given, **named: own(self, *given, **named) * 1.01)


def another_attention(patch) -> None:
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    own = ALL_ATTENTION_FUNCTIONS["sdpa"]

    def capped(module, query, *given, **named):
        return own(module, torch.tanh(query), *given, **named)

    patch.setitem(ALL_ATTENTION_FUNCTIONS._global_mapping, "sdpa", capped)


def another_turn(patch) -> None:
    from transformers.models.llama import modeling_llama

    own = modeling_llama.apply_rotary_pos_emb
    patch.setattr(modeling_llama, "apply_rotary_pos_emb", lambda q, k, cos, sin: own(q, k, cos, -sin * 0.9))


def adopted(patch) -> None:
    from transformers.models.llama.modeling_llama import LlamaModel

    own = LlamaModel.forward

    def forward(self, *given, **named):
        output = own(self, *given, **named)
        output.last_hidden_state = output.last_hidden_state * 1.05
        return output

    patch.setattr(LlamaModel, "forward", forward)


BESIDE = [scaled_scores, more_of_a_block, another_attention, another_turn, adopted]


@pytest.mark.parametrize("beside", BESIDE)
@torch.no_grad()
def test_what_is_done_beside_what_the_class_says_is_seen(beside, monkeypatch):
    made = backbone("llama")
    beside(monkeypatch)
    blocks = read_blocks(made)
    assert blocks is not None, "nothing on the modules tells of it"
    assert not steps_alike(made, blocks, ids_of(12, seed=1))


@torch.no_grad()
def test_the_first_tokens_size_hides_nothing_of_the_others(monkeypatch):
    made = backbone("llama", tie_word_embeddings=False)
    ids = ids_of(12, seed=1)
    made.embedding.weight[ids[0]] *= 1e4
    made.final_norm.weight[:] = 1.0
    scaled_scores(monkeypatch)
    assert not steps_alike(made, read_blocks(made), ids)


@torch.no_grad()
def test_several_adapters_at_once():
    made = backbone("llama", lora=True)
    add_lora(made, "other", 30, ["q_proj", "down_proj"])
    made._members["both"] = ["av", "other"]
    with made.using("both"):
        rows = Followed(made)
        rows.join(5, 2)
        rows.step()
    for name in ("av", "other", None):
        with made.using(name):
            rows = Followed(made)
            rows.join(5, 2)
            rows.step()
