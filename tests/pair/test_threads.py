"""Two threads that use one pair get what they would have got one after the other."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import torch

from nla_sdk import NLAPair
from nla_sdk.halves import fetch
from tests import reference, tiny

TEXTS = ["The cat sat on the mat.", "Go", "An old sailor tells of his ships."]


def jobs(pair) -> list:
    """Every role, with and without sampling, on inputs of several lengths."""
    rows = tiny.random(6, tiny.D_MODEL, seed=15, scale=3.0)
    work = []
    for at in range(3):
        work += [
            lambda at=at: pair.extract(TEXTS[at], "all").vectors,
            lambda at=at: pair.reconstruct(TEXTS[at]),
            lambda at=at: pair.explain(rows[at : at + 3], max_new_tokens=4),
            lambda at=at: pair.explain(rows[at], max_new_tokens=3, temperature=1.0, seed=at),
            lambda at=at: pair.reconstruct(TEXTS[: at + 1]),
            lambda at=at: pair.round_trip(TEXTS[at], max_new_tokens=2).cosine,
        ]
    return work


def same(one, two) -> bool:
    if isinstance(one, torch.Tensor):
        return reference.distance(one, two) < 1e-5
    return abs(one - two) < 1e-6 if isinstance(one, float) else one == two


def test_threads_get_what_they_would_have_got_one_after_the_other(lora_pair):
    pair = lora_pair("norms")
    work = jobs(pair)
    expected = [job() for job in work]
    start = threading.Barrier(4)

    def at_once(offset: int) -> list[bool]:
        start.wait()
        order = [(at + offset * 5) % len(work) for at in range(len(work))]
        return [same(work[at](), expected[at]) for at in order]

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(at_once, range(4)))
    assert all(all(matches) for matches in results)


def test_an_adapter_is_never_switched_under_a_running_forward(lora_pair):
    pair = lora_pair("shared")  # whose adapters leave the base with it, and may have other names beside another pair's
    backbone, av, ar = pair.source, pair.verbalizer.adapter, pair.reconstructor.adapter
    inside, seen = threading.Event(), []

    def other():
        inside.wait()
        with backbone.using(ar):
            seen.append("ar")

    thread = threading.Thread(target=other)
    thread.start()
    with backbone.using(av):
        inside.set()
        thread.join(0.2)
        seen.append("av")
        assert backbone._active == av
    thread.join()
    assert seen == ["av", "ar"]


def test_the_source_of_a_full_pair_is_loaded_once_however_many_ask(full_folder, monkeypatch):
    pair = NLAPair.from_pretrained(full_folder)
    loads, fetch_base = [], fetch.fetch_base
    monkeypatch.setattr(fetch, "fetch_base", lambda *ref, **where: loads.append(1) or fetch_base(*ref, **where))
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda text: pair.extract(text).vectors, TEXTS * 2))
    assert loads == [1]
    assert all(torch.equal(one, two) for one, two in zip(found[:3], found[3:], strict=True))


def test_what_was_computed_under_autocast_is_kept_for_nobody_else(full_folder):
    rows = tiny.random(12, tiny.D_MODEL, seed=3)

    def done(pair: NLAPair) -> tuple:
        trips = pair.round_trip(rows, max_new_tokens=12, force=True)
        return [str(trip.explanation) for trip in trips], [(trip.cosine, trip.gain) for trip in trips]

    expected = done(NLAPair.from_pretrained(full_folder))
    pair = NLAPair.from_pretrained(full_folder)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert done(pair) != expected
        assert pair.reconstruct("a cat").dtype == torch.float32
    assert done(pair) == expected
