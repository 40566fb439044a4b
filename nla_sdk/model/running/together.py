"""Calls of several threads done together: one of the threads does the work of all until its own is done.

No thread is started for it: whoever finds nobody at work leads, the others wait, and who leaves the lead hands it to
one of them.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from typing import Generic, TypeVar

from ...errors import CancelledCallError
from .watching import UNWATCHED, Watch

LOOKING = 0.1  # seconds between two looks of one who waits at what may call its own call off


class Job:
    """A call among others.

    Attributes:
        settled: whether it is done, or its error known, or its caller gone.
        error: which; None: none.
    """

    def __init__(self, watch: Watch = UNWATCHED) -> None:
        self.watch = watch
        self.settled = False
        self.error: BaseException | None = None
        self.awake = threading.Event()  # settled, or to lead

    def settle(self, error: BaseException | None = None) -> None:
        """It is over; its caller goes on. Of several times the first counts."""
        if not self.settled:
            self.error, self.settled = error, True
            self.awake.set()

    def look(self) -> None:
        """Settle it where it was called off."""
        try:
            self.watch.check()
        except CancelledCallError as error:
            self.settle(error)


AnyJob = TypeVar("AnyJob", bound=Job)


class Together(ABC, Generic[AnyJob]):
    """The jobs there are, and who leads."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self.jobs: list[AnyJob] = []  # in the order in which they came
        self._leader: AnyJob | None = None

    @abstractmethod
    def lead(self, job: AnyJob) -> None:
        """Work for all jobs until this one is settled. Called by one thread at a time; whatever it raises ends the lead
        and this job alone."""

    def idle(self) -> None:
        """Nobody is left."""

    def run(self, job: AnyJob) -> None:
        """Returns once the job is done.

        Raises:
            CancelledCallError: it was called off; and its error.
        """
        try:
            with self._guard:
                self.jobs.append(job)
                if self._leader is None:
                    self._leader = job
            while not job.settled and self._leader is not job:
                job.awake.wait(None if job.watch.cancel is None else LOOKING)
                job.look()
            if not job.settled:
                self.lead(job)
        except BaseException as error:
            job.settle(error)
            raise
        finally:
            self._leave(job)
        if job.error is not None:
            raise job.error

    def _leave(self, job: AnyJob) -> None:
        with self._guard:
            job.settle()
            self.jobs = [other for other in self.jobs if other is not job]
            if self._leader is not job:
                return
            # Who came last has most to do, and leads longest.
            self._leader = next((other for other in reversed(self.jobs) if not other.settled), None)
            if self._leader is not None:
                self._leader.awake.set()
            else:
                self.idle()
