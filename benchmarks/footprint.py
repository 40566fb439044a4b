"""What a pair costs to start and to hold. `python benchmarks/footprint.py`

Every figure is of a fresh process: peak resident memory of the demo pair with its source (one extract, explain and
reconstruct done) against the base model and tokenizer loaded alone with one forward; seconds of a warm
`from_pretrained("demo")`, of `import nla_sdk` over a bare interpreter, of `nla --help`. Medians of `--runs`.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

RSS = "import resource; print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
BASE = f"""
import warnings; warnings.simplefilter("ignore")
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from nla_sdk.halves.demo_base import demo_base
path = demo_base()
model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
tokenizer = AutoTokenizer.from_pretrained(path)
with torch.no_grad():
    model(**tokenizer("The cat sat on the mat.", return_tensors="pt"))
{RSS}
"""
PAIR = f"""
from nla_sdk import NLAPair
pair = NLAPair.from_pretrained("demo")
pair.round_trip("The cat sat on the mat.")
{RSS}
"""
LOAD = """
import time
start = time.perf_counter()
from nla_sdk import NLAPair
NLAPair.from_pretrained("demo")
print(time.perf_counter() - start)
"""


def last_number(code: str) -> float:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def seconds(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, capture_output=True, check=True)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    options = parser.parse_args()
    nla = shutil.which("nla", path=str(Path(sys.executable).parent)) or "nla"
    sides = {
        "base_peak_kib": lambda: last_number(BASE),
        "pair_peak_kib": lambda: last_number(PAIR),
        "from_pretrained_seconds": lambda: last_number(LOAD),
        "bare_interpreter_seconds": lambda: seconds([sys.executable, "-c", "pass"]),
        "import_seconds": lambda: seconds([sys.executable, "-c", "import nla_sdk"]),
        "help_seconds": lambda: seconds([nla, "--help"]),
    }
    for call in sides.values():
        call()
    taken: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(options.runs):
        for name, call in sides.items():
            taken[name].append(call())
    result = {name: statistics.median(values) for name, values in taken.items()}
    result["pair_over_base_memory"] = result["pair_peak_kib"] / result["base_peak_kib"]
    result["import_over_bare_seconds"] = result["import_seconds"] - result["bare_interpreter_seconds"]
    options.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    for name, value in result.items():
        print(f"{name:28}{value:14.3f}")


if __name__ == "__main__":
    main()
