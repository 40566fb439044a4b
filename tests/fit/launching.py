"""A trainer in two processes: started by `accelerate launch`, or forked from one process that has the libraries loaded.

`python -m tests.fit.launching MACHINES PORT MODULE ARGUMENTS…` is the second.
"""

from __future__ import annotations

import os
import runpy
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]


def launch(command: Sequence[object]) -> None:
    """Run `python -m …` in two processes of one `accelerate launch`."""
    start = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    start += ["--num_machines", "1", "--machine_rank", "0", "--main_process_ip", "127.0.0.1"]
    _python([*start, "--main_process_port", "0", "--mixed_precision", "no", "--dynamo_backend", "no", "-m", *command])


def fork(command: Sequence[object], machines: int) -> None:
    """Run `python -m …` in two processes that are told what torchrun would tell them, on one machine or on two."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    _python(["-m", "tests.fit.launching", machines, port, *command])


def _python(command: Sequence[object]) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(
        [sys.executable, *map(str, command)], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300
    )
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]


def _worker(rank: int, machines: int, port: str, module: str) -> None:
    """One of the two; it never returns."""
    local, beside = (rank, 2) if machines == 1 else (0, 1)
    told = {"RANK": rank, "LOCAL_RANK": local, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": beside}
    told |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in told.items()})
    runpy.run_module(module, run_name="__main__")


def main(machines: str, port: str, module: str, *arguments: str) -> int:
    # What a trainer imports on its way, so that both have it.
    import accelerate  # noqa: F401
    import peft  # noqa: F401
    import transformers.models.llama.modeling_llama  # noqa: F401

    import training.fit.ar
    import training.fit.grpo  # noqa: F401
    from training.runs import curves

    curves.render = lambda log, png, role=None: None  # as in conftest.py
    sys.argv = [module, *arguments]
    running = []
    for rank in range(2):
        if not (child := os.fork()):
            _worker(rank, int(machines), port, module)
        running.append(child)
    return max(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0 for child in running)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
