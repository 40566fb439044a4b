"""The one policy for trying again: what may succeed later is tried again, after pauses that grow and are partly random.

Random, because whatever failed many callers at once would be met by all of them together again. A pause that the other
side asks for (Retry-After) is taken as it is asked: sooner is refused again, later wastes time.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")


def patiently(
    work: Callable[[], Result],
    *,
    again: Callable[[BaseException], bool],
    attempts: int,
    pause: float,
    longest: float,
    asked: Callable[[BaseException], float | None] = lambda error: None,
    sleep: Callable[[float], None] | None = None,
) -> Result:
    """Do `work`, and again after errors that may pass.

    Args:
        again: whether an error may pass; any other is raised at once.
        attempts: at most so many, the first one included.
        pause: seconds before the second attempt; doubled with each further one, plus up to `pause` at random.
        longest: seconds that the growing part stops at.
        asked: seconds that the other side asked for with an error; None: it did not say.
        sleep: waits so many seconds, by default as `time.sleep` does; may raise to end the attempts.
    Returns:
        What `work` returns.
    Raises:
        The last error, when `attempts` are used up.
    """
    from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_exponential, wait_random

    growing = wait_exponential(multiplier=pause, max=longest) + wait_random(0, pause)

    def wait(state) -> float:
        stated = asked(state.outcome.exception())
        return growing(state) if stated is None else stated

    retrying = Retrying(
        stop=stop_after_attempt(attempts),
        wait=wait,
        retry=retry_if_exception(again),
        sleep=sleep or time.sleep,
        reraise=True,
    )
    return retrying(work)
