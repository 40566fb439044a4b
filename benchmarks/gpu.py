"""What this package does on a CUDA card, in under 8 minutes. `python benchmarks/gpu.py`

Sections, each in a process of its own, so that a crash, a hang or a full card ends that section only:

  environment  card, driver, libraries; what a copy and a kernel launch cost
  tests        the tests marked `cuda`: a CUDA device against the CPU
  demo         the demo pair in float32 and bfloat16: its texts and vectors against the CPU's; rows a second of explain
               and round trip at 1, 32 and 256 rows; a decoding step's time, and the share in which the card is idle
  graphs       that step recorded as a CUDA graph: what it would take without launches
  geometry     a pair on a base of Gemma-4-E2B's geometry with random weights (nothing is downloaded), in NF4, the
               per-layer table in CPU RAM: memory against `training.fit.plan`, a round trip, a decoding step
  training     an optimizer step of sft_av and sft_ar, on that base by its recipe and on the demo base: seconds, and
               peak memory against `training.fit.plan`

`benchmarks/gpu.json` is written after every section: what each found, and where it got no further, why. No section
starts after `--budget-s`, and half a minute later the one that runs is ended. `--device cpu --small` rehearses all of
them on tiny sizes anywhere; what needs CUDA says so. It takes what nla_sdk needs and, where installed, pytest for
`tests`, bitsandbytes for NF4 (else bfloat16), the [demo] extra for the demo base (else random weights of its geometry);
`geometry` takes 11 GB of disk (set TMPDIR) and 9 GB of RAM.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # nothing need be installed but what nla_sdk needs

from gpu_sections.demo import demo, graphs
from gpu_sections.geometry import geometry
from gpu_sections.machine import environment, tests
from gpu_sections.run import Run, Skipped, said
from gpu_sections.training_steps import training

SECTIONS: dict[str, Callable[[Run], None]] = {
    section.__name__: section for section in (environment, tests, demo, graphs, geometry, training)
}
GRACE_S = 30


def in_its_process(name: str, run: Run) -> None:
    """A section from beginning to end; `run.file` says how it ended."""
    start = time.perf_counter()
    try:
        SECTIONS[name](run)
        status = f"failed in part: {', '.join(run.failed)}" if run.failed else "ok"
    except Skipped as error:
        status = str(error)
    except BaseException as error:
        traceback.print_exc()
        status = f"failed: {said(error)}"
    run.note(status=status, seconds=round(time.perf_counter() - start, 1))


def measured(name: str, run: Run) -> dict[str, Any]:
    """What a section found, in a process that is ended when its time is over."""
    start = time.time()
    process = multiprocessing.get_context("spawn").Process(target=in_its_process, args=(name, run))
    process.start()
    process.join(max(1.0, run.ends - time.time() + GRACE_S))
    late = process.is_alive()
    if late:
        process.kill()
        process.join()
    found = json.loads(run.file.read_text(encoding="utf-8")) if run.file.is_file() else {}
    if late or process.exitcode:
        why = "the time budget was spent" if late else f"its process ended with {process.exitcode}"
        found |= {"status": f"stopped: {why}", "seconds": round(time.time() - start, 1)}
    return {"status": found.pop("status"), "seconds": found.pop("seconds"), **found}


def line(name: str, found: dict[str, Any]) -> str:
    """How a section ended and its figures, of nested ones their names."""
    shown = []
    for key, value in found.items():
        if key not in ("status", "seconds"):
            plain = f"{value:.3g}" if isinstance(value, float) else "…" if isinstance(value, (dict, list)) else value
            shown.append(f"{key} {plain}")
    return f"{name:12}{found['seconds']:6.1f} s  {found['status']}; {', '.join(shown)}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--small", action="store_true", help="tiny sizes, for a rehearsal")
    parser.add_argument("--sections", default=",".join(SECTIONS), help="some of them, separated by commas")
    parser.add_argument("--budget-s", type=float, default=440.0, help="seconds after which no section starts")
    parser.add_argument("--out", type=Path, help="default: benchmarks/gpu.json; of a CPU gpu-rehearsal.json in TMPDIR")
    options = parser.parse_args()
    chosen = [name for name in options.sections.split(",") if name]
    if unknown := [name for name in chosen if name not in SECTIONS]:
        parser.error(f"--sections: there is no {', '.join(unknown)}; expected some of {', '.join(SECTIONS)}")
    if options.device == "cuda":
        import torch

        if not torch.cuda.is_available():
            parser.error("torch finds no CUDA card here; --device cpu --small rehearses on the CPU")
    from nla_sdk.io.files import write_json

    rehearsal = Path(tempfile.gettempdir()) / "gpu-rehearsal.json"
    out = options.out or (Path(__file__).with_suffix(".json") if options.device == "cuda" else rehearsal)
    start = time.time()
    result: dict[str, Any] = {"device": options.device, "small": options.small, "budget_seconds": options.budget_s}
    result["sections"] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in chosen:
            run = Run(
                options.device, options.small, Path(folder), Path(folder) / f"{name}.json", start + options.budget_s
            )
            if time.time() < run.ends:
                found = measured(name, run)
            else:
                found = {"status": f"not started: the budget of {options.budget_s:.0f} s was spent", "seconds": 0.0}
            result["sections"][name] = found
            result["seconds"] = round(time.time() - start, 1)
            write_json(out, result)
            print(line(name, found), flush=True)
    print(f"written to {out} after {time.time() - start:.0f} s")
    return 0 if all(found["status"] == "ok" for found in result["sections"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
