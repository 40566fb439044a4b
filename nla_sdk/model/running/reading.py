"""Texts that several threads have an AR read at once: in one batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from .together import Job, Together
from .watching import UNWATCHED, Watch

if TYPE_CHECKING:
    from ..reconstructor import Reconstructor

TOKENS = 2048  # of texts that are read together: a call of more fills a batch by itself


class Reading(Job):
    """One call's texts.

    Args:
        prompts: their token ids.
        layer: see `Reconstructor`.
    Attributes:
        outputs: the head's, float32 [n, d], once it is settled.
    """

    def __init__(
        self, ar: Reconstructor, prompts: Sequence[Sequence[int]], layer: int | None, watch: Watch = UNWATCHED
    ) -> None:
        super().__init__(watch)
        self.ar, self.prompts, self.layer = ar, prompts, layer
        self.tokens = sum(map(len, prompts))
        self.outputs = torch.empty(0)

    def read(self) -> None:
        """By itself. The caller holds the backbone, without gradients."""
        outputs = self.ar.forward(self.prompts, self.layer)
        self.ar.refuse_lost(outputs, self.prompts, self.layer)
        self.outputs = outputs
        self.settle()


class ReadTogether(Together[Reading]):
    """The texts of all calls that wait, read by the thread of one of them."""

    def read(self, job: Reading) -> torch.Tensor:
        """The head's outputs for a call's texts.

        Raises:
            NonFiniteOutputError: see `Reconstructor.refuse_lost`.
            CancelledCallError: it was called off before.
        """
        backbone = job.ar.backbone
        if job.tokens > TOKENS or backbone.lock.mine or torch.is_autocast_enabled(backbone.device.type):
            with torch.no_grad(), backbone.using(job.ar.adapter, job.watch.check):
                job.read()
        else:
            self.run(job)
        return job.outputs

    def lead(self, job: Reading) -> None:
        with torch.inference_mode(mode=False), torch.no_grad():
            while not job.settled:
                with job.ar.backbone.using(job.ar.adapter, job.watch.check):
                    self._read(self._group())

    def _group(self) -> list[Reading]:
        """The call that came first, and those after it that can be read beside it."""
        waiting = []
        for job in self.jobs:
            job.look()
            if not job.settled:
                waiting.append(job)
        group, tokens = [], 0
        for job in waiting:
            if not group or (job.layer == group[0].layer and tokens + job.tokens <= TOKENS):
                group.append(job)
                tokens += job.tokens
        return group

    def _read(self, group: list[Reading]) -> None:
        try:
            if len(group) > 1:
                ar, layer = group[0].ar, group[0].layer
                outputs = ar.forward([ids for job in group for ids in job.prompts], layer)
                for job, own in zip(group, outputs.split([len(job.prompts) for job in group]), strict=True):
                    self._settle(job, own)
                return
        except Exception:  # whose fault it is is seen of each by itself
            pass
        for job in group:
            if not job.settled:
                try:
                    job.read()
                except Exception as error:
                    job.settle(error)

    def _settle(self, job: Reading, outputs: torch.Tensor) -> None:
        try:
            job.ar.refuse_lost(outputs, job.prompts, job.layer)
        except Exception as error:
            job.settle(error)
        else:
            job.outputs = outputs.clone()  # of its own, not a part of what others have
            job.settle()
