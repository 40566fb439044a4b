"""A trainer in two processes, as `accelerate launch` starts them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def launch(command: list[str], machines: int, folder: Path) -> None:
    """Run a trainer in two processes: of one `accelerate launch`, or of one on each of two machines."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    start = [sys.executable, "-m", "accelerate.commands.launch"]
    start += ["--multi_gpu", "--num_processes", "2", "--num_machines", str(machines)]
    start += ["--main_process_ip", "127.0.0.1", "--main_process_port", str(port if machines > 1 else 0)]
    start += ["--mixed_precision", "no", "--dynamo_backend", "no"]
    said = [folder / f"machine-{rank}.log" for rank in range(machines)]
    running = []
    for rank, log in enumerate(said):
        with log.open("w", encoding="utf-8") as stream:
            running.append(
                subprocess.Popen(
                    [*start, "--machine_rank", str(rank), *command],
                    cwd=ROOT,
                    env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
                    stdout=stream,
                    stderr=stream,
                )
            )
    try:
        codes = [each.wait(timeout=300) for each in running]
    finally:
        for each in running:
            each.kill()
    assert codes == [0] * machines, "\n".join(log.read_text(encoding="utf-8")[-3000:] for log in said)
