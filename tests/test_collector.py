"""While modules are imported and files parsed, Python's garbage collector waits, and is then as it was before."""

from __future__ import annotations

import gc
import threading

import pytest

from nla_sdk.collector import uncollected


@pytest.fixture(autouse=True)
def as_it_was():
    was = gc.isenabled()
    gc.enable()
    yield
    gc.unfreeze()
    (gc.enable if was else gc.disable)()


class Knot:
    """An object that only the collector can free."""

    def __init__(self) -> None:
        self.me = self


def test_the_collector_waits_and_goes_on_afterwards():
    with uncollected():
        assert not gc.isenabled()
        with uncollected():
            assert not gc.isenabled()
        assert not gc.isenabled()
    assert gc.isenabled()


def test_it_goes_on_after_an_error():
    with pytest.raises(ValueError, match="no"), uncollected():
        raise ValueError("no")
    assert gc.isenabled()


def test_a_collector_that_was_off_stays_off():
    gc.disable()
    with uncollected():
        pass
    assert not gc.isenabled()


def test_threads_that_overlap_leave_it_on():
    inside, leave = threading.Event(), threading.Event()

    def load():
        with uncollected():
            inside.set()
            leave.wait(10)

    thread = threading.Thread(target=load)
    thread.start()
    inside.wait(10)
    with uncollected():
        pass
    assert not gc.isenabled()  # the other is still at it
    leave.set()
    thread.join()
    assert gc.isenabled()


def test_what_was_made_meanwhile_is_old_and_can_still_be_freed():
    with uncollected():
        kept, knot = [[] for _ in range(1000)], Knot()
    young = {id(one) for generation in (0, 1) for one in gc.get_objects(generation)}
    assert not young & set(map(id, kept))
    import weakref

    gone = weakref.ref(knot)
    del knot
    gc.collect()
    assert gone() is None


def test_what_somebody_has_frozen_stays_frozen():
    gc.freeze()
    before = gc.get_freeze_count()
    with uncollected():
        pass
    assert gc.get_freeze_count() >= before > 0
