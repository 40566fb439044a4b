"""Trying again: only what may pass, only so often, and no sooner than was asked."""

from __future__ import annotations

import pytest

from training.runs.patience import patiently


class Passing(Exception):
    """May pass; `seconds` is the pause it asks for."""

    def __init__(self, seconds: float | None = None) -> None:
        self.seconds = seconds


def attempts_of(*outcomes, attempts: int = 5) -> tuple[object, list[float]]:
    """What comes of work with these outcomes, and the pauses between its attempts."""
    left, pauses = list(outcomes), []

    def work():
        outcome = left.pop(0)
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    try:
        result = patiently(
            work,
            again=lambda error: isinstance(error, Passing),
            attempts=attempts,
            pause=1.0,
            longest=4.0,
            asked=lambda error: error.seconds,
            sleep=pauses.append,
        )
    except Exception as error:
        result = error
    assert not left
    return result, pauses


def test_pauses_grow_to_the_longest_with_up_to_one_pause_at_random():
    result, pauses = attempts_of(*(Passing() for _ in range(4)), "done")
    assert result == "done"
    assert all(least <= pause <= least + 1 for least, pause in zip((1, 2, 4, 4), pauses, strict=True))


def test_a_pause_that_is_asked_for_is_taken_as_it_is_asked():
    assert attempts_of(Passing(7.5), Passing(0.0), "done") == ("done", [7.5, 0.0])


def test_the_last_error_is_raised_as_it_is():
    last = Passing()
    result, pauses = attempts_of(Passing(), last, attempts=2)
    assert result is last and len(pauses) == 1


@pytest.mark.parametrize("error", [ValueError("no"), OSError("no")])
def test_what_will_not_pass_is_raised_at_once(error):
    assert attempts_of(error) == (error, [])
