"""A lock whose turns come in order, whatever threads do while they wait."""

from __future__ import annotations

import random
import threading
import time

import pytest

from nla_sdk.model.weights.adapters import turns
from nla_sdk.model.weights.adapters.turns import Pace, Turns


def until(holds) -> None:
    end = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.001)


def queue(lock: Turns, count: int, work) -> list[threading.Thread]:
    """Threads that wait for the lock, which is held, in the order of their numbers."""
    threads = []
    for number in range(count):
        threads.append(threading.Thread(target=work, args=(number,)))
        threads[-1].start()
        until(lambda number=number: len(lock._waiting) == number + 1)
    return threads


def test_turns_come_in_the_order_in_which_they_were_asked_for():
    lock, seen = Turns(), []

    def work(number):
        with lock:
            seen.append(number)

    with lock:
        threads = queue(lock, 6, work)
        with lock:  # twice over
            assert lock.depth == 2 and lock.mine
        assert lock.wanted and not seen
    for thread in threads:
        thread.join()
    assert seen == list(range(6)) and not lock.depth and not lock.wanted


@pytest.mark.parametrize("seed", range(3))
def test_whoever_gives_up_waiting_leaves_the_others_in_their_order(monkeypatch, seed):
    monkeypatch.setattr(turns, "LOOKING", 0.001)
    lock, seen, gone = Turns(), [], []
    leave = {number for number in range(8) if random.Random(seed * 100 + number).random() < 0.5}
    off = threading.Event()

    def check(number):
        if off.is_set() and number in leave:
            raise TimeoutError

    def work(number):
        try:
            lock.acquire(lambda: check(number))
        except TimeoutError:
            gone.append(number)
            return
        seen.append(number)
        lock.release()

    with lock:
        threads = queue(lock, 8, work)
        off.set()
        until(lambda: len(gone) == len(leave))
        assert not seen
    for thread in threads:
        thread.join()
    assert seen == [number for number in range(8) if number not in leave] and {*gone} == leave
    assert not lock.depth and not lock.wanted


def test_a_turn_that_comes_as_its_thread_gives_up_goes_to_the_next(monkeypatch):
    """The check fails after the turn has been given, and before the thread has seen it."""
    lock, seen = Turns(), []
    lock.acquire()

    def too_late():
        if lock.mine:
            return
        main_released.wait(10)
        raise TimeoutError

    main_released = threading.Event()

    def first():
        with pytest.raises(TimeoutError):
            lock.acquire(too_late)
        seen.append("gave up")

    monkeypatch.setattr(turns, "LOOKING", 0.001)
    threads = [threading.Thread(target=first)]
    threads[0].start()
    until(lambda: len(lock._waiting) == 1)
    threads.append(threading.Thread(target=lambda: (lock.acquire(), seen.append("next"), lock.release())))
    threads[1].start()
    until(lambda: len(lock._waiting) == 2)
    time.sleep(0.02)  # the first is in its check
    lock.release()
    main_released.set()
    for thread in threads:
        thread.join(10)
    assert sorted(seen) == ["gave up", "next"] and not lock.depth


def test_nobody_lets_go_of_what_another_thread_holds():
    lock = Turns()
    with lock:
        failed = []

        def steal():
            try:
                lock.release()
            except AssertionError as error:
                failed.append(error)

        thread = threading.Thread(target=steal)
        thread.start()
        thread.join()
        assert failed and lock.mine


def test_many_threads_never_hold_it_together():
    lock, inside, most, count = Turns(), [], [], [0]

    def work(seed):
        draw = random.Random(seed)
        for _ in range(50):
            with lock:
                inside.append(seed)
                most.append(len(inside))
                if draw.random() < 0.2:
                    time.sleep(0.0001)
                count[0] += 1
                inside.pop()

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(most) == 1 and count[0] == 400 and not lock.depth


def test_a_long_use_has_as_much_time_as_the_others_had(monkeypatch):
    """By a clock of the test's: a step costs 0.01 s, a turn of the others 0.045 s, and somebody always waits."""
    now, turns_at, steps = [100.0], [], [0]
    monkeypatch.setattr(turns.time, "perf_counter", lambda: now[0])

    def give_way():
        turns_at.append(steps[0])
        now[0] += 0.045

    pace = Pace(give_way, lambda: True)
    for _ in range(40):
        steps[0] += 1
        now[0] += 0.01
        pace.step()
    assert turns_at[0] == 1 and {b - a for a, b in zip(turns_at, turns_at[1:], strict=False)} == {5}
