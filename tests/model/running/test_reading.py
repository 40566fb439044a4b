"""Texts of several threads that wait for the AR are read in one batch, each as it is alone."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from nla_sdk.errors import CancelledCallError, NonFiniteOutputError
from nla_sdk.model.running import reading
from nla_sdk.model.running.watching import Watch
from tests import reference

TEXTS = ["The cat sat on the mat.", "Go", "An old sailor tells of his ships.", "", "Rain in spring, and a cold wind."]


@pytest.fixture
def ar(pair):
    yield pair.reconstructor
    assert not pair.reconstructor.together.jobs and not pair.source.lock.depth


@pytest.fixture
def forwards(ar, monkeypatch):
    """How many texts each run of the AR read."""
    counts, own = [], ar.forward

    def noted(prompts, layer=None):
        counts.append(len(prompts))
        return own(prompts, layer)

    monkeypatch.setattr(ar, "forward", noted)
    return counts


def at_once(ar, calls) -> list:
    """What threads get that have all asked before the first is served; errors in place of results."""

    def ask(call):
        try:
            return call()
        except Exception as error:
            return error

    with ThreadPoolExecutor(len(calls)) as pool:
        futures = []
        with ar.backbone.using(None):
            for call in calls:
                futures.append(pool.submit(ask, call))
                while len(ar.together.jobs) < len(futures):
                    threading.Event().wait(0.002)
        return [future.result(30) for future in futures]


def same(found, expected) -> bool:
    return all(
        isinstance(one, torch.Tensor) and reference.distance(one, other) < 1e-5
        for one, other in zip(found, expected, strict=True)
    )


def test_texts_of_waiting_calls_are_read_in_one_run_and_each_gets_its_own(ar, forwards):
    asked = [TEXTS[:1], TEXTS[1:3], TEXTS[3:], TEXTS[:3]]
    alone = [ar(texts) for texts in asked]
    del forwards[:]
    found = at_once(ar, [lambda texts=texts: ar(texts) for texts in asked])
    assert same(found, alone) and forwards == [8]
    assert all(one.untyped_storage().nbytes() == one.nbytes for one in found), "nobody holds what others asked for"


def test_so_many_texts_are_read_together_and_the_others_next(ar, forwards, monkeypatch):
    alone = [ar([text]) for text in TEXTS]
    lengths = [len(ids) for ids, _ in ar.prompts(TEXTS)]
    monkeypatch.setattr(reading, "TOKENS", max(lengths) * 2)
    del forwards[:]
    assert same(at_once(ar, [lambda text=text: ar([text]) for text in TEXTS]), alone)
    assert sum(forwards) == 5 and 2 <= max(forwards) < 5


def test_a_call_of_more_texts_than_a_batch_holds_goes_by_itself(ar, forwards, monkeypatch):
    monkeypatch.setattr(reading, "TOKENS", 40)
    alone = ar(TEXTS)
    with ThreadPoolExecutor(1) as pool, ar.backbone.using(None):
        call = pool.submit(ar, TEXTS)
        while not ar.backbone.lock.wanted:
            threading.Event().wait(0.002)
        assert not ar.together.jobs
    assert same([call.result(10)], [alone])


def test_a_call_without_numbers_names_its_own_rows_and_spares_the_others(ar, monkeypatch):
    asked = [TEXTS[:2], TEXTS[2:4], TEXTS[4:]]
    alone = [ar(texts) for texts in asked]
    lost, own = ar.prompts(TEXTS[3:4])[0][0], ar.forward

    def spoiled(prompts, layer=None):
        outputs = own(prompts, layer).clone()
        outputs[[at for at, ids in enumerate(prompts) if list(ids) == list(lost)]] = torch.nan
        return outputs

    monkeypatch.setattr(ar, "forward", spoiled)
    found = at_once(ar, [lambda texts=texts: ar(texts) for texts in asked])
    assert same([found[0], found[2]], [alone[0], alone[2]])
    assert isinstance(found[1], NonFiniteOutputError) and found[1].rows == (1,)


def test_a_run_that_fails_is_made_again_for_each_call(ar, monkeypatch):
    alone, own = [ar([text]) for text in TEXTS[:3]], ar.forward

    def fails(prompts, layer=None):
        if len(prompts) > 2 or list(prompts[0]) == list(ar.prompts(TEXTS[1:2])[0][0]):
            raise MemoryError("no room")
        return own(prompts, layer)

    monkeypatch.setattr(ar, "forward", fails)
    found = at_once(ar, [lambda text=text: ar([text]) for text in TEXTS[:3]])
    assert same([found[0], found[2]], [alone[0], alone[2]]) and isinstance(found[1], MemoryError)


def test_calls_that_are_called_off_while_they_wait_are_not_read(ar, forwards):
    cancels = [threading.Event() for _ in range(3)]
    with ThreadPoolExecutor(3) as pool:
        with ar.backbone.using(None):
            calls = [pool.submit(ar, TEXTS[:1], watch=Watch(cancel=cancel)) for cancel in cancels]
            while len(ar.together.jobs) < 3:
                threading.Event().wait(0.002)
            for cancel, call in list(zip(cancels, calls, strict=True))[:2]:
                cancel.set()
                with pytest.raises(CancelledCallError):
                    call.result(10)
        assert calls[2].result(10).shape[0] == 1
    assert forwards == [1]
