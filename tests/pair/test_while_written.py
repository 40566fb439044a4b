"""What a call tells while it writes, and how it is called off; the source going on; others in between."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from nla_sdk.errors import CancelledCallError, EmptyBatchError, InputError, TextError
from nla_sdk.model import batches
from tests import reference, tiny

PROMPT = "The cat sat on the mat."
LIMIT = 6


def vectors(count: int = 3) -> torch.Tensor:
    return tiny.random(count, tiny.D_MODEL, seed=15, scale=3.0)


def told_by(call):
    """What a call gives, and the texts it has told of each number."""
    told: dict[int, list[str]] = {}
    return call(lambda number, text: told.setdefault(number, []).append(text)), told


def check(told, results) -> None:
    """Of each result's number the texts grow, and the last is the result."""
    for number, result in enumerate(results):
        texts = told.pop(number, [""])
        assert texts[-1] == str(result)
        assert all(later.startswith(text) and later != text for text, later in zip(texts, texts[1:-1], strict=False))
    assert not told


# --- texts as they grow -------------------------------------------------------------------------------------------
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_explanations_are_numbered_as_they_come_back(pair, temperature):
    found, told = told_by(
        lambda on_text: pair.explain(
            vectors(), n=2, temperature=temperature, max_new_tokens=LIMIT, on_text=on_text, force=True
        )
    )
    assert any(len(texts) > 2 for texts in told.values())
    check(told, [text for samples in found for text in samples])


def test_signs_and_samples_are_counted_through(lora_pair):
    pair = lora_pair("centred")
    given = {"kind": "direction", "signs": "±", "n": 2, "temperature": 1.0, "max_new_tokens": LIMIT}
    found, told = told_by(lambda on_text: pair.explain(vectors(2), on_text=on_text, **given))
    check(told, [text for each in found for text in each])


def test_of_the_best_of_several_the_chosen_one_is_told(pair):
    found, told = told_by(
        lambda on_text: pair.round_trip(vectors(), best_of=3, max_new_tokens=LIMIT, on_text=on_text, force=True)
    )
    assert told == {number: [str(trip.explanation)] for number, trip in enumerate(found)}


def test_a_comparisons_words_are_numbered_by_a_then_b_then_differences(lora_pair):
    pair = lora_pair("centred")
    a, b = vectors(4).split(2)
    found, told = told_by(
        lambda on_text: pair.compare(a, b, signs="±", max_new_tokens=LIMIT, on_text=on_text, force=True)
    )
    each = [one.a for one in found] + [one.b for one in found]
    check(told, each + [text for one in found for text in (one.difference, one.reverse)])


# --- called off -----------------------------------------------------------------------------------------------------
def calls(pair):
    return {
        "explain": lambda **how: pair.explain(vectors(), max_new_tokens=LIMIT, force=True, **how),
        "best_of": lambda **how: pair.explain(vectors(), best_of=2, max_new_tokens=LIMIT, force=True, **how),
        "round_trip": lambda **how: pair.round_trip(PROMPT, max_new_tokens=LIMIT, **how),
        "compare": lambda **how: pair.compare(PROMPT, "Go", max_new_tokens=LIMIT, **how),
        "complete": lambda **how: pair.complete(PROMPT, LIMIT, **how),
    }


@pytest.mark.parametrize("name", ["explain", "best_of", "round_trip", "compare", "complete"])
def test_a_call_that_is_called_off_says_so(lora_pair, name):
    call, cancel = calls(lora_pair("centred"))[name], threading.Event()
    call(cancel=cancel)
    cancel.set()
    with pytest.raises(CancelledCallError, match="was cancelled"):
        call(cancel=cancel)


def test_a_round_trip_is_called_off_before_its_words_are_read(pair, monkeypatch):
    cancel, read = threading.Event(), []
    monkeypatch.setattr(pair.reconstructor, "forward", lambda *given: read.append(given))
    with pytest.raises(CancelledCallError):
        pair.round_trip(vectors(1), max_new_tokens=2, cancel=cancel, progress=lambda done: cancel.set(), force=True)
    assert not read


@pytest.mark.parametrize("name", ["on_text", "cancel", "progress"])
def test_what_cannot_be_called_or_set_is_refused(pair, name):
    with pytest.raises(InputError, match=f"{name} is a str; expected a "):
        pair.explain(vectors(), **{name: "yes"})
    with pytest.raises(InputError, match="on_token is a str"):
        pair.complete(PROMPT, on_token="yes")


# --- the source goes on -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_source_writes_on_what_it_writes_unsteered(pair, temperature):
    told = []
    found = pair.complete(PROMPT, 12, temperature, 3, on_token=lambda text, token: told.append((text, token)))
    steered = pair.steer(
        PROMPT, vectors()[0], 0.0, kind="difference", max_new_tokens=12, temperature=temperature, seed=3
    )
    assert found.text == steered.plain
    assert told == list(zip(found.tokens, found.ids, strict=True)) and "".join(found.tokens) == found.text
    assert found.to_row() == {
        "prompt": PROMPT,
        "text": found.text,
        "tokens": list(found.tokens),
        "ids": list(found.ids),
        "finished": found.finished,
    }
    assert found.finished == (len(found.ids) < 12)


def test_greedy_tokens_are_the_likeliest_of_whole_forwards(pair, gemma_base):
    model, ids = tiny.plain_model(gemma_base), pair.source.tokenizer(PROMPT).input_ids
    written = []
    for _ in range(5):
        with torch.no_grad():
            written.append(int(model(input_ids=torch.tensor([[*ids, *written]])).logits[0, -1].argmax()))
    assert list(pair.complete(PROMPT, 5).ids) == written


def test_an_end_token_ends_it_and_is_no_part_of_it(pair, monkeypatch):
    from nla_sdk.model.decoding import steering

    whole = pair.complete(PROMPT, 8)
    end = next(at for at in range(1, 8) if whole.ids[at] not in whole.ids[:at])
    monkeypatch.setattr(steering, "end_token_ids", lambda backbone: frozenset([whole.ids[end]]))
    cut = pair.complete(PROMPT, 8)
    assert cut.ids == whole.ids[:end] and cut.finished and not whole.finished


def test_it_is_called_off_between_two_tokens_and_ends_where_its_reader_fails(pair):
    cancel, told = threading.Event(), []

    def on_token(text, token):
        told.append(token)
        if len(told) == 3:
            cancel.set()

    with pytest.raises(CancelledCallError):
        pair.complete(PROMPT, 12, on_token=on_token, cancel=cancel)
    assert len(told) == 3
    with pytest.raises(ZeroDivisionError):
        pair.complete(PROMPT, 12, on_token=lambda text, token: 1 / 0)
    assert not pair.source.lock.depth


@pytest.mark.parametrize(
    ("prompt", "error"), [("", EmptyBatchError), ([PROMPT, "Go"], InputError), ("a\x00b", TextError), (3, InputError)]
)
def test_a_prompt_that_is_none_is_refused(pair, prompt, error):
    with pytest.raises(error):
        pair.complete(prompt)


# --- others in between ----------------------------------------------------------------------------------------------
def test_what_is_added_to_the_stream_is_off_while_others_have_their_turn(pair):
    texts = [PROMPT, "Go", "An old sailor tells of his ships."]
    alone = [pair.extract(text, "all").vectors for text in texts]
    how = {"kind": "difference", "max_new_tokens": 60, "strength": 3.0}
    expected = pair.steer(PROMPT, vectors()[0], **how)
    found = []
    with ThreadPoolExecutor(1) as pool:
        steering = pool.submit(pair.steer, PROMPT, vectors()[0], **how)
        while not steering.done():
            found.append(pair.extract(texts[len(found) % 3], "all").vectors)
        assert steering.result() == expected
    assert len(found) > 5
    assert all(reference.distance(one, alone[at % 3]) < 1e-5 for at, one in enumerate(found))


@pytest.mark.parametrize("fast", [True, False])
def test_a_long_extraction_gives_way_between_two_batches(full_pair, monkeypatch, fast):
    texts = [f"The {number}. cat sat on the mat" + " and slept" * (number % 3) + "." for number in range(60)]
    whole = full_pair.extract(texts)
    for name in ("FEWER_TOKENS", "TOKENS_PER_BATCH"):
        monkeypatch.setattr(batches, name, 40)
    monkeypatch.setattr(full_pair, "fast", fast)
    backbone = full_pair.source
    with ThreadPoolExecutor(1) as pool:
        with backbone.using(None):
            reading = pool.submit(full_pair.extract, texts)
            while not backbone.lock.wanted:
                threading.Event().wait(0.001)
        turns = 0
        while not reading.done():
            with backbone.using(None):
                turns += not reading.done()
    assert turns > 3
    assert reference.distance(reading.result().vectors, whole.vectors) < 1e-5
