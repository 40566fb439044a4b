"""Calls of several threads to one AV, whose rows share its batch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ..running.together import Together
from .writing import Call, Writing

if TYPE_CHECKING:
    from ..verbalizer import Verbalizer


def write_alone(av: Verbalizer, call: Call) -> None:
    """Write one call's rows beside no others. Raises its error, see `Call`."""
    with torch.no_grad(), av.backbone.using(av.adapter, call.watch.check):
        writing, pace = Writing(av), av.backbone.pace(call.watch.check)
        writing.come([call])
        while not call.settled:
            writing.turn()
            if not call.settled:
                pace.step()
    if call.error is not None:
        raise call.error


class Sharing(Together[Call]):
    """The rows of all calls, written by the thread of one of them.

    It keeps no AV while nobody writes: who leads brings it.
    """

    def __init__(self) -> None:
        super().__init__()
        self._writing: Writing | None = None

    def write(self, av: Verbalizer, call: Call) -> None:
        """Write a call's rows, together with those of others that are there.

        A thread that holds the model already, or computes under autocast, writes its own by itself: nobody else could
        go on meanwhile, or would compute the same.

        Raises:
            Exception: the call's own error, see `Call`.
        """
        if av.backbone.lock.mine or torch.is_autocast_enabled(av.backbone.device.type):
            write_alone(av, call)
        else:
            self.run(call)

    def lead(self, job: Call) -> None:
        av = job.av
        # What is kept from one leader to the next is changed by both.
        with torch.inference_mode(mode=False), torch.no_grad(), av.backbone.using(av.adapter, job.watch.check):
            if self._writing is None:
                self._writing = Writing(av)
            pace = av.backbone.pace(job.watch.check)
            while not job.settled:
                self._writing.come(self.jobs)
                self._writing.turn()
                if not job.settled:
                    pace.step()

    def idle(self) -> None:
        self._writing = None
