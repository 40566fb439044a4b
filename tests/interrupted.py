"""Run the pipeline, killing it at random moments: `python -m tests.interrupted CALM ROUGH KILLS SEED` prints JSON.

Moments are counted in writes that matter (a rename or an fsync, just before or just after), so that a kill falls into
every kind of gap, and are spread over the whole run as an undisturbed one (of the config `CALM`) counts them. Each
attempt is a fork of one process that has the libraries loaded: SIGKILL leaves nothing behind but what is on disk.
"""

from __future__ import annotations

import importlib
import json
import mmap
import os
import random
import signal
import struct
import sys
from contextlib import suppress
from pathlib import Path

os.environ["TOKENIZERS_PARALLELISM"] = "false"

import torch

from training import pipeline
from training.configs.config import Config


def attempt(config: Path, die_at: int | None, counter: mmap.mmap) -> int:
    """One run in a fork, killed at its `die_at`-th moment; returns its exit status as `os.waitpid` gives it."""
    counter[:8] = struct.pack("q", 0)
    told, tell = os.pipe()
    child = os.fork()
    if child:
        os.close(tell)
        with open(told) as names:
            load(names.read().split())
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
        with open(tell, "w") as names:
            names.write(" ".join(sys.modules))
        os._exit(0)
    except BaseException as error:
        print(repr(error), file=sys.stderr, flush=True)
        os._exit(1)


def load(names: list[str]) -> None:
    """Import what a whole run imported on its way, so that the next ones need not."""
    for name in names:
        if name not in sys.modules:
            with suppress(Exception):  # some are not there by their name
                importlib.import_module(name)


def main(calm: Path, rough: Path, kills: int, seed: int) -> list[int]:
    """The exit statuses of all attempts, first that of the undisturbed one."""
    counter = mmap.mmap(-1, 8)
    rng = random.Random(seed)
    statuses = [attempt(calm, None, counter)]
    points = sorted(rng.sample(range(1, struct.unpack("q", counter[:8])[0]), kills))
    for before, point in zip([0, *points], points, strict=False):
        statuses.append(attempt(rough, point - before, counter))
    return [*statuses, attempt(rough, None, counter)]


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), Path(sys.argv[2]), *map(int, sys.argv[3:5]))))
