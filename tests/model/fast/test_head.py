"""An lm_head in whichever way is fastest gives the model's own logits and their argmax."""

from __future__ import annotations

import pytest
import torch

from nla_sdk.model.fast import head
from nla_sdk.model.fast.head import Head, read_head
from tests import tiny

from .backbones import add_lora, backbone, holding

SIZE = 700  # no multiple of 128
ROWS = [1, 2, 7, 33, 70]


def made_with(kind: str = "llama", lora: bool = False, bias: bool = False, **config):
    made = backbone(kind, vocab_size=SIZE, tie_word_embeddings=False, **config)
    if bias:
        made.head.bias = torch.nn.Parameter(tiny.random(SIZE, seed=9), requires_grad=False)
    if lora:
        add_lora(made, "av", 3, ["lm_head"])
    return made


def granite():
    from transformers import GraniteConfig

    sizes = {**tiny.SIZES, "vocab_size": SIZE, "logits_scaling": 8.0, "tie_word_embeddings": False}
    return holding(GraniteConfig(**sizes))


HEADS = {
    "plain": lambda: made_with(),
    "LoRA": lambda: made_with(lora=True),
    "bias": lambda: made_with(bias=True),
    "LoRA and bias": lambda: made_with(lora=True, bias=True),
    "a soft cap": lambda: made_with("gemma3", final_logit_softcapping=2.0),
    "tied": lambda: backbone("gemma3", vocab_size=SIZE, tie_word_embeddings=True),
    "Granite's scale": granite,
}


def states_of(made, rows: int) -> torch.Tensor:
    """Near to one token's row each, so that a shortlist is short."""
    likely = torch.arange(rows) * 11 % SIZE
    return made.head.weight.detach()[likely] * 2 + tiny.random(rows, tiny.D_MODEL, seed=rows, scale=0.1)


@pytest.fixture
def always(monkeypatch):
    """The way that is taken, in place of a measurement."""

    def take(way: str) -> None:
        monkeypatch.setattr(head, "SMALL", 1)
        monkeypatch.setattr(head, "int8_is_exact", lambda: True)
        monkeypatch.setattr(Head, "_way", lambda self, what, states: way)

    return take


@pytest.mark.parametrize("name", HEADS)
@torch.no_grad()
def test_logits_and_their_argmax_are_the_models_own(name, always):
    made = HEADS[name]()
    adapter = "av" if "LoRA" in name else None
    with made.using(adapter):
        for way in ("rows", "columns", "shortlist"):
            always(way)
            found = read_head(made, made.rounded_head(make=True), {})
            assert found.shortlist is not None
            for rows in ROWS:
                states = states_of(made, rows)
                own = made.cap(made.head(states))
                torch.testing.assert_close(found.logits(states), own, rtol=1e-5, atol=1e-5)
                tokens, values = found.greedy(states)
                assert torch.equal(tokens, own.argmax(dim=1))
                torch.testing.assert_close(values, own.amax(dim=1), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_the_shortlist_is_what_decides(always, monkeypatch):
    made = made_with(lora=True)
    with made.using("av"):
        always("shortlist")
        found, states = read_head(made, made.rounded_head(make=True), {}), states_of(made, 1)
        monkeypatch.setattr(Head, "logits", None)
        assert found.greedy(states)[0].tolist() == [0]


@torch.no_grad()
def test_a_way_is_measured_once_for_about_as_many_rows(monkeypatch):
    monkeypatch.setattr(head, "SMALL", 1)
    made, ways, measured = made_with(), {}, []
    own = Head._fastest

    def noted(self, what, states):
        measured.append((what, len(states)))
        return own(self, what, states)

    monkeypatch.setattr(Head, "_fastest", noted)
    for rows in (1, 1, 32, 33, 40, 1):
        found = read_head(made, made.rounded_head(make=True), ways)  # as every call of the AV makes it anew
        found.greedy(states_of(made, rows))
    greedy = [rows for what, rows in measured if what == "greedy"]
    assert greedy == [1, 32]
    assert set(ways.values()) <= {"rows", "columns", "shortlist"}


@torch.no_grad()
def test_states_that_are_no_numbers_give_none_in_every_way(always):
    made = made_with()
    states = states_of(made, 3)
    states[1] = torch.nan
    for way in ("rows", "columns", "shortlist"):
        always(way)
        _, values = read_head(made, made.rounded_head(make=True), {}).greedy(states)
        assert values.isfinite().tolist() == [True, False, True]
    found = read_head(made, made.rounded_head(make=True), {})
    found.greedy(torch.full((2, tiny.D_MODEL), torch.nan))


@torch.no_grad()
def test_without_exact_int8_products_or_in_a_small_vocabulary_there_is_no_shortlist(monkeypatch):
    made = made_with()
    rounded = made.rounded_head(make=True)
    assert read_head(made, rounded, {}).shortlist is None, "few tokens"
    monkeypatch.setattr(head, "SMALL", 1)
    monkeypatch.setattr(head, "int8_is_exact", lambda: False)
    assert read_head(made, rounded, {}).shortlist is None
    monkeypatch.setattr(head, "int8_is_exact", lambda: True)
    assert read_head(made, rounded, {}).shortlist is not None
    assert read_head(made, None, {}).shortlist is None
    assert read_head(made, rounded.part(slice(0, 600)), {}).shortlist is None, "of another vocabulary"


@torch.no_grad()
def test_a_weight_that_was_written_into_is_rounded_anew():
    made = made_with()
    before = made.rounded_head(make=True)
    assert made.rounded_head() is before
    made.head.weight.mul_(2)
    assert made.rounded_head() is None
    assert made.rounded_head(make=True).is_of(made.head.weight)


def watch(module) -> None:
    module.register_forward_hook(lambda *seen: None)


@pytest.mark.parametrize(
    "change",
    [
        lambda made: watch(made.head),
        lambda made: watch(made.model),
        lambda made: setattr(made.model, "forward", made.model.forward),
        lambda made: made.head.to(torch.bfloat16),
        lambda made: add_lora(made, "av", 3, ["q_proj"], modules_to_save=["lm_head"]),
        lambda made: add_lora(made, "av", 3, ["lm_head"], use_dora=True),
    ],
    ids=["hook", "hook on the model", "another forward", "bfloat16", "a copy trained", "DoRA"],
)
def test_a_head_that_only_its_own_call_knows_is_not_read(change):
    made = made_with()
    _ = made.cap
    change(made)
    with made.using("av" if "av" in made.reports or made._peft is not None else None):
        assert read_head(made, None, {}) is None
