"""What a section is given: where to run, how long, how to time, and where to write what it finds."""

from __future__ import annotations

import gc
import importlib.util
import os
import re
import statistics
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
NO_CUDA = "skipped: needs CUDA"
GIB = 2**30


class Skipped(Exception):
    """A section cannot run here; the message says why."""


@dataclass
class Run:
    """One section's run.

    Attributes:
        device: "cuda" or "cpu".
        small: tiny sizes.
        folder: of all sections together, removed at the end.
        file: where this section's findings go.
        ends: `time.time()` after which nothing more is begun.
        found: the findings so far.
        failed: what of them failed.
    """

    device: str
    small: bool
    folder: Path
    file: Path
    ends: float
    found: dict[str, Any] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)

    @property
    def cuda(self) -> bool:
        """Whether this is no rehearsal."""
        return self.device == "cuda"

    def note(self, **figures: Any) -> None:
        """Keep figures, on the disk too: a section that is killed leaves what it had."""
        from nla_sdk.io.files import write_json

        self.found |= figures
        write_json(self.file, self.found)

    def attempt(self, name: str, measure: Callable[[], Any]) -> None:
        """Note what `measure` returns under `name`, or why it could not; the section goes on."""
        start = time.perf_counter()
        if time.time() > self.ends:
            self.failed.append(name)
            self.note(**{name: "not started: the time budget was spent"})
            return
        try:
            if (found := measure()) is not None:
                self.note(**{name: found})
        except Exception as error:
            traceback.print_exc()
            self.failed.append(name)
            self.note(**{name: {"error": said(error), "seconds": time.perf_counter() - start}})
        self.tidy()

    def tidy(self) -> None:
        """Give back what is no longer used, and begin a new peak."""
        import torch

        gc.collect()
        if self.cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def wait(self) -> None:
        """Until the card has done what it was told."""
        if self.cuda:
            import torch

            torch.cuda.synchronize()

    def timed(self, call: Callable[[], Any]) -> float:
        """Seconds of one call, the card's work included."""
        self.wait()
        start = time.perf_counter()
        call()
        self.wait()
        return time.perf_counter() - start

    def median(self, call: Callable[[], Any], runs: int = 3) -> float:
        """Median seconds, after one call that is not measured."""
        call()
        return statistics.median(self.timed(call) for _ in range(runs))

    def memory(self) -> dict[str, float] | str:
        """GiB by torch's allocator, now and since `tidy`; `card_used_gib` is the whole card's, the context included."""
        if not self.cuda:
            return NO_CUDA
        import torch

        free, total = torch.cuda.mem_get_info()
        return {
            "allocated_gib": torch.cuda.memory_allocated() / GIB,
            "peak_allocated_gib": torch.cuda.max_memory_allocated() / GIB,
            "peak_reserved_gib": torch.cuda.max_memory_reserved() / GIB,
            "card_used_gib": (total - free) / GIB,
        }


def said(error: BaseException | str) -> str:
    """An error's message without the folders of this machine, at most 600 characters."""
    text = error if isinstance(error, str) else f"{type(error).__name__}: {error}"
    text = text.replace(f"{ROOT}{os.sep}", "")
    return re.sub(r"(?<![\w:/.])/(?:[^\s/'\",:]+/)+", "…/", text).replace(str(Path.home()), "~")[:600]


def four_bits() -> str | None:
    """ "nf4" where bitsandbytes is installed."""
    return "nf4" if importlib.util.find_spec("bitsandbytes") else None
