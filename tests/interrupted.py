"""Run the pipeline, killing it at random moments: `python -m tests.interrupted CONFIG KILLS SEED TOTAL` prints JSON.

Moments are counted in writes that matter (a rename or an fsync, just before or just after), so that a kill falls into
every kind of gap, and are spread over the whole run as an undisturbed one (`KILLS` = 0) counts them. Each attempt is a
fork of one process that has the libraries loaded: SIGKILL leaves nothing behind but what is on disk.
"""

from __future__ import annotations

import json
import mmap
import os
import random
import signal
import struct
import sys
from pathlib import Path

os.environ["TOKENIZERS_PARALLELISM"] = "false"

import torch

from training import pipeline
from training.configs.config import Config


def attempt(config: Path, die_at: int | None, counter: mmap.mmap) -> int:
    """One run in a fork, killed at its `die_at`-th moment; returns its exit status as `os.waitpid` gives it."""
    counter[:8] = struct.pack("q", 0)
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1]

    def moment() -> None:
        count = struct.unpack("q", counter[:8])[0] + 1
        counter[:8] = struct.pack("q", count)
        if count == die_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def watched(real):
        def call(*arguments, **options):
            moment()
            result = real(*arguments, **options)
            moment()
            return result

        return call

    os.replace, os.fsync = watched(os.replace), watched(os.fsync)
    try:
        torch.set_num_threads(1)
        pipeline.run(Config.load(config))
        os._exit(0)
    except BaseException as error:
        print(repr(error), file=sys.stderr, flush=True)
        os._exit(1)


def main(config: Path, kills: int, seed: int, total: int) -> dict:
    counter = mmap.mmap(-1, 8)
    rng = random.Random(seed)
    points = sorted(rng.sample(range(1, max(total, kills + 1)), kills)) if kills else []
    statuses = []
    for before, point in zip([0, *points], points, strict=False):
        statuses.append(attempt(config, point - before, counter))
    statuses.append(attempt(config, None, counter))
    return {"statuses": statuses, "moments": struct.unpack("q", counter[:8])[0]}


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), *map(int, sys.argv[2:5]))))
