"""The machine: card, driver, libraries, what a copy and a launch cost; and the tests that need a CUDA device."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from typing import Any
from xml.etree import ElementTree

from .run import GIB, NO_CUDA, ROOT, Run, Skipped, said


def environment(run: Run) -> None:
    """What the figures were taken on."""
    import psutil
    import torch

    from training.runs.machine import libraries

    run.note(
        python=platform.python_version(),
        libraries=libraries("accelerate", "bitsandbytes", "numpy", "pytest", "safetensors", "tokenizers"),
        torch_built_for_cuda=torch.version.cuda,
        processor=f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads",
        ram_gib=psutil.virtual_memory().total / GIB,
        disk_free_gib=shutil.disk_usage(run.folder).free / GIB,
        float32_matmul_precision=torch.get_float32_matmul_precision(),
    )
    if not run.cuda:
        run.note(card=NO_CUDA)
        return
    free, total = torch.cuda.mem_get_info()
    card = torch.cuda.get_device_properties(0)
    run.note(
        card=card.name,
        compute_capability=f"{card.major}.{card.minor}",
        multiprocessors=card.multi_processor_count,
        memory_gib=total / GIB,
        memory_free_gib=free / GIB,
        bfloat16=torch.cuda.is_bf16_supported(),
    )
    with suppress(OSError, subprocess.SubprocessError):  # a container need not have it
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        run.note(driver=subprocess.run(query, capture_output=True, text=True, timeout=30).stdout.split("\n")[0].strip())

    def copy() -> float:
        source = torch.ones(min(2**28, free // 64), device="cuda")
        target = torch.empty_like(source)
        return 20 * source.nbytes / run.median(lambda: [target.copy_(source) for _ in range(10)]) / 1e9

    def launch() -> float:
        number = torch.zeros(1, device="cuda")
        return run.median(lambda: [number.add_(1) for _ in range(1000)]) * 1e3

    run.attempt("copy_gb_per_second", copy)  # bytes read and bytes written
    run.attempt("microseconds_per_small_kernel", launch)


def tests(run: Run) -> None:
    """The tests marked `cuda`, by pytest in a process of its own."""
    if not run.cuda:
        raise Skipped(NO_CUDA)
    report = run.folder / "tests.xml"
    command = [sys.executable, "-m", "pytest", "tests/cuda", "-m", "cuda", "-q", "--tb=short", f"--junitxml={report}"]
    command += ["-o", "addopts=", "-p", "no:cacheprovider"]  # the usual options are for pytest-xdist
    limit = max(30.0, run.ends - time.time())
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=limit)
    print(done.stdout)
    if not report.is_file():
        raise RuntimeError(f"pytest ended with {done.returncode}: {(done.stdout + done.stderr)[-400:]}")
    outcomes: dict[str, dict[str, Any]] = {"passed": {}, "failed": {}, "skipped": {}}
    for case in ElementTree.parse(report).iter("testcase"):
        name = str(case.get("name"))
        bad = next((found for kind in ("failure", "error") if (found := case.find(kind)) is not None), None)
        if bad is not None:
            outcomes["failed"][name] = said(bad.get("message") or bad.text or "")
        elif (skipped := case.find("skipped")) is not None:
            outcomes["skipped"][name] = said(skipped.get("message") or "")
        else:
            outcomes["passed"][name] = float(case.get("time") or 0)
    run.note(**outcomes)
    if outcomes["failed"] or not outcomes["passed"]:
        raise RuntimeError(f"{len(outcomes['failed'])} tests failed, {len(outcomes['passed'])} passed")
