"""Rows written together, as many at a time as there are places, are what each is alone."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from nla_sdk import NLAPair
from nla_sdk.errors import NonFiniteOutputError
from nla_sdk.model import verbalizer
from nla_sdk.model.decoding import writing
from nla_sdk.model.decoding.drawing import row_generator
from nla_sdk.model.decoding.stepping import ModelSteps
from nla_sdk.model.fast import head
from nla_sdk.model.fast.steps import Steps
from nla_sdk.model.running.watching import Watch
from nla_sdk.sampling import Sampling
from tests import reference, tiny

ROWS, LIMIT = 20, 9


@pytest.fixture(scope="module")
def folder(tmp_path_factory, base):
    """An AV with LoRA on every linear layer of a tiny Llama."""
    return tiny.lora_av(tmp_path_factory.mktemp("writing") / "av", base, tiny.plain_model(base), layer=1)


@pytest.fixture(scope="module")
def loaded(folder):
    return NLAPair.from_pretrained(folder).verbalizer


@pytest.fixture
def av(loaded):
    """A token in ten ends its texts. What a test does to it is undone."""
    loaded.end_ids = frozenset(range(1, tiny.VOCABULARY, 10))
    loaded.fast = True
    yield loaded
    loaded.restrict(None)
    loaded.backbone.alike.clear()
    for module in loaded.backbone.model.modules():
        module._forward_hooks.clear()


def rows_of(av, count: int = ROWS):
    """Vectors and prompts of three lengths, in turn."""
    more = [av.default, longer(av.default, [5]), longer(av.default, [9, 8, 7])]
    inputs = av.prepare(tiny.random(count, tiny.D_MODEL, seed=40, scale=3.0))
    return inputs, [more[at * 7 % 3] for at in range(count)]


def longer(prompt, ids):
    return dataclasses.replace(prompt, ids=(*prompt.ids, *ids))


def written(av, inputs, prompts, *, temperature=0.0, limit=LIMIT, ignore_end=False, **options):
    sampling = Sampling(limit, temperature=temperature, ignore_end=ignore_end)
    generators = [row_generator(row, 3, 0) for row in inputs] if temperature else None
    return av.tokens(inputs, sampling, prompts=prompts, generators=generators, **options)


def alone(av, inputs, prompts, **options):
    return [written(av, inputs[at : at + 1], [prompt], **options)[0] for at, prompt in enumerate(prompts)]


@pytest.fixture
def ways(monkeypatch):
    """The ways that steps were made in."""
    seen = []
    own = writing.Writing._stepping

    def noted(self, call):
        way = own(self, call)
        seen.append(type(way))
        return way

    monkeypatch.setattr(writing.Writing, "_stepping", noted)
    return seen


def places(monkeypatch, count: int) -> None:
    monkeypatch.setattr(verbalizer, "ROWS_PER_BATCH", count)


@pytest.mark.parametrize("temperature", [0.0, 1.0], ids=["greedy", "sampled"])
def test_each_text_is_that_of_its_row_alone(av, ways, monkeypatch, temperature):
    inputs, prompts = rows_of(av)
    av.fast = False
    expected = alone(av, inputs, prompts, temperature=temperature)
    assert set(ways) == {ModelSteps}
    lengths = {len(tokens) for tokens, _ in expected}
    assert len(lengths) > 4 and {finished for _, finished in expected} == {True, False}
    for count in (1, 3, 7, 64):
        places(monkeypatch, count)
        av.fast = True
        assert written(av, inputs, prompts, temperature=temperature) == expected
        assert ways[-1] is Steps
        if count == 3:
            av.fast = False
            assert written(av, inputs, prompts, temperature=temperature) == expected
            assert ways[-1] is ModelSteps


def test_texts_are_those_of_whole_forwards_without_a_cache(av, base, folder, monkeypatch):
    places(monkeypatch, 3)
    av.end_ids = frozenset([1])
    model = reference.load(base, folder)
    inputs = av.prepare(tiny.random(5, tiny.D_MODEL, seed=40, scale=3.0))
    found = written(av, inputs, [av.default] * 5, limit=8)
    ids, marker = list(av.default.ids), av.default.ids[av.default.marker]
    assert [tokens for tokens, _ in found] == [reference.write(model, ids, marker, row, 8) for row in inputs]


@pytest.mark.parametrize("count", [1, 3, 4])
def test_rows_that_all_end_at_once_make_room_for_those_that_wait(av, ways, monkeypatch, count):
    inputs, prompts = rows_of(av, 10)
    expected = alone(av, inputs, prompts, limit=5, ignore_end=True)
    places(monkeypatch, count)
    assert written(av, inputs, prompts, limit=5, ignore_end=True) == expected
    assert ways[-1] is Steps and {len(tokens) for tokens, _ in expected} == {5}


def test_rows_that_end_at_their_first_token_leave_the_others(av, monkeypatch):
    inputs, prompts = rows_of(av)
    first = [tokens[0] for tokens, _ in alone(av, inputs, prompts, limit=1, ignore_end=True)]
    av.end_ids = frozenset(first[::2])
    expected = alone(av, inputs, prompts)
    assert 2 < sum(tokens == [] for tokens, _ in expected) < ROWS
    places(monkeypatch, 3)
    assert written(av, inputs, prompts) == expected
    av.end_ids = frozenset(first)
    assert written(av, inputs, prompts) == [([], True)] * ROWS


def test_a_limit_of_one_token_runs_prompts_only(av, monkeypatch):
    inputs, prompts = rows_of(av)
    expected = alone(av, inputs, prompts, limit=1, ignore_end=True)
    places(monkeypatch, 3)
    assert written(av, inputs, prompts, limit=1, ignore_end=True) == expected


@pytest.mark.parametrize("fast", [True, False])
def test_progress_adds_up_and_tells_of_every_row_as_it_ends(av, monkeypatch, fast):
    inputs, prompts = rows_of(av)
    av.fast = fast
    places(monkeypatch, 3)
    done = []
    written(av, inputs, prompts, watch=Watch(done.append))
    assert sum(done) == ROWS and max(done) <= 3


def test_never_more_rows_than_places_and_few_of_them_are_empty(av, monkeypatch):
    inputs, prompts = rows_of(av)
    places(monkeypatch, 3)
    sizes, own = [], Steps.__call__

    def counted(self, tokens):
        sizes.append(len(tokens))
        assert len(self.lengths) == len(tokens)
        return own(self, tokens)

    monkeypatch.setattr(Steps, "__call__", counted)
    prompts = [prompts[0]] * ROWS
    written(av, inputs[:1], prompts[:1])  # compares both ways
    sizes.clear()
    found = written(av, inputs, prompts)
    assert max(sizes) == 3
    work = sum(len(tokens) + finished - 1 for tokens, finished in found)
    assert sum(sizes) == work, "no row is run once it has ended"
    longest = max(len(tokens) for tokens, _ in found)
    assert len(sizes) <= work / 3 + longest + 2


# --- what is no number --------------------------------------------------------------------------------------------
def spoil(av, monkeypatch, which: set[int], at_step: int):
    """NaN in place of the states of rows, by their number, from a step on."""
    own = writing.Writing._take

    def spoiled(self, given, rows):
        given = given.clone()
        for place, row in enumerate(rows):
            if row.number in which and len(row.written) >= at_step:
                given[place] = torch.nan
        return own(self, given, rows)

    monkeypatch.setattr(writing.Writing, "_take", spoiled)


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("temperature", [0.0, 1.0], ids=["greedy", "sampled"])
@pytest.mark.parametrize("at_step", [0, 4])
def test_rows_without_numbers_are_named(av, monkeypatch, fast, temperature, at_step):
    inputs, prompts = rows_of(av)
    places(monkeypatch, 3)
    av.fast, av.end_ids = fast, frozenset()
    spoil(av, monkeypatch, {13}, at_step)
    with pytest.raises(NonFiniteOutputError, match="first token" if at_step == 0 else "5. token") as caught:
        written(av, inputs, prompts, temperature=temperature)
    assert caught.value.rows == (13,)


def test_several_rows_without_numbers_are_named_in_their_order(av, monkeypatch):
    inputs, prompts = rows_of(av)
    whole = [tokens for tokens, _ in alone(av, inputs, prompts, limit=4, ignore_end=True)]
    av.end_ids = frozenset(whole[row][1] for row in (0, 1, 4))  # their places are given to the last ones
    lost = [row for row in range(ROWS) if not av.end_ids & set(whole[row])]
    assert 3 < len(lost) < ROWS - 2
    spoil(av, monkeypatch, set(lost), 3)
    with pytest.raises(NonFiniteOutputError) as caught:
        written(av, inputs, prompts)
    assert caught.value.rows == tuple(lost)


# --- where only the model's own call knows ------------------------------------------------------------------------
def test_an_lm_head_that_somebody_watches_is_called(av, ways):
    inputs, prompts = rows_of(av, 4)
    av.backbone.head.register_forward_hook(lambda module, given, output: output.roll(3, dims=-1))
    found = written(av, inputs, prompts)
    assert set(ways) == {ModelSteps}
    av.fast = False
    assert found == written(av, inputs, prompts)


def test_a_model_that_somebody_watches_is_called(av, ways):
    inputs, prompts = rows_of(av, 4)
    calls = []

    def rolled(module, given, output):
        calls.append(1)
        output.logits = output.logits.roll(3, dims=-1)
        return output

    plain = written(av, inputs, prompts)
    av.backbone.model.register_forward_hook(rolled)
    found = written(av, inputs, prompts)
    assert calls and ways[-1] is ModelSteps and found != plain
    av.fast = False
    assert found == written(av, inputs, prompts)


def test_a_hook_on_a_block_that_changes_it_is_obeyed(av, ways):
    inputs, prompts = rows_of(av, 4)
    plain = written(av, inputs, prompts)
    handle = av.backbone.blocks[2].register_forward_hook(lambda module, given, output: output * 1.5)
    changed = written(av, inputs, prompts)
    assert ways[0] is Steps and {*ways[1:]} == {ModelSteps} and changed != plain
    handle.remove()
    assert written(av, inputs, prompts) == plain and ways[-1] is Steps


def test_under_autocast_the_model_itself_runs(av, ways):
    inputs, prompts = rows_of(av, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = written(av, inputs, prompts)
        assert set(ways) == {ModelSteps}
        av.fast = False
        assert found == written(av, inputs, prompts)


def test_a_restricted_vocabulary_gives_the_same_either_way(av, ways, monkeypatch):
    inputs, prompts = rows_of(av)
    av.restrict(range(4, 200))
    places(monkeypatch, 3)
    found = written(av, inputs, prompts)
    assert ways[-1] is Steps and all(token < 200 for tokens, _ in found for token in tokens)
    av.fast = False
    assert found == written(av, inputs, prompts)


def test_another_computation_than_the_class_says_is_seen(av, ways, monkeypatch):
    from tests.model.fast.test_steps import scaled_scores

    inputs, prompts = rows_of(av, 6)
    scaled_scores(monkeypatch)
    found = written(av, inputs, prompts)
    assert set(ways) == {ModelSteps}
    av.fast = False
    assert found == written(av, inputs, prompts)


def test_through_a_shortlist_texts_are_the_same(av, monkeypatch):
    inputs, prompts = rows_of(av)
    expected = written(av, inputs, prompts)
    monkeypatch.setattr(head, "SMALL", 1)
    monkeypatch.setattr(head.Head, "_way", lambda self, what, states: "shortlist" if what == "greedy" else "columns")
    asked, own = [], head.likeliest

    def noted(*given):
        asked.append(1)
        return own(*given, most=1.0)

    monkeypatch.setattr(head, "likeliest", noted)
    av.backbone.rounded_head(make=True)
    places(monkeypatch, 3)
    assert written(av, inputs, prompts) == expected
    assert asked or not head.int8_is_exact()
