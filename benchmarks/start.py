"""What it takes to start, against an older commit. `python benchmarks/start.py --old ../old`

`--old` is a checkout of the commit to compare with (git worktree add ../old ef212ef). Every figure is of a fresh
process, the two sides take turns, each with a cache of its own that is thrown away in the end:

    first_run        examples/round_trip_example.py as after installation, the demo base not made yet
    from_pretrained  NLAPair.from_pretrained("demo"), imports included
    round_trip       nla round-trip TEXT, from the shell's prompt to the next
    peak_kib         resident memory of the pair with its source after a round trip; base_kib: of the base alone

Medians of `--runs`. On a machine that does other things set OMP_NUM_THREADS=1 (torch's threads wait for each other by
turning round, which on a busy core takes ten times as long as the work) and compare CPU seconds, which are there too.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

from footprint import BASE, LOAD, PAIR

ROOT = Path(__file__).resolve().parents[1]
TEXT = "The lighthouse keeper climbed the stairs one last time and lit the lamp."
WARM = {
    "from_pretrained": ["-c", LOAD],
    "round_trip": ["-m", "nla_sdk.cli", "round-trip", TEXT],
    "peak_kib": ["-c", PAIR],
}
OF_THEIR_OUTPUT = ("from_pretrained", "peak_kib", "base_kib")
"""What is read from the last word of the output and not from the clock."""


class Side:
    """One checkout, run with a cache of its own.

    Args:
        tree: the checkout.
        cache: an empty folder.
    """

    def __init__(self, tree: Path, cache: Path) -> None:
        self.tree = tree
        self.environment = {**os.environ, "PYTHONPATH": str(tree), "NLA_CACHE": str(cache), "HF_HUB_OFFLINE": "1"}
        where = Path(self.run("-c", "import nla_sdk; print(nla_sdk.__file__)")[2].strip()).resolve()
        if not where.is_relative_to(tree.resolve()):
            sys.exit(f"{tree} was to be measured, and {where} is what Python imports.")

    def run(self, *arguments: str) -> tuple[float, float, str]:
        """Seconds, CPU seconds and output of a Python process."""
        before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        command = [sys.executable, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, cwd=self.tree, env=self.environment)
        seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
        if done.returncode:
            sys.exit(f"{self.tree}: {' '.join(arguments)[:80]} ended with {done.returncode}:\n{done.stderr}")
        return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done.stdout

    def first_run(self) -> tuple[float, float, str]:
        """The example with an empty cache, which is empty again afterwards."""
        with tempfile.TemporaryDirectory() as cache:
            kept = self.environment["NLA_CACHE"]
            self.environment["NLA_CACHE"] = cache
            try:
                return self.run("examples/round_trip_example.py", TEXT)
            finally:
                self.environment["NLA_CACHE"] = kept


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--old", type=Path, required=True, help="a checkout of the older commit")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    options = parser.parse_args()
    taken: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    with tempfile.TemporaryDirectory() as caches:
        sides = {name: Side(tree.resolve(), Path(caches, name)) for name, tree in (("old", options.old), ("new", ROOT))}
        for side in sides.values():
            side.run("-c", PAIR)  # makes the base, and has Python compile what it imports

        def take(figure: str, name: str, run: tuple[float, float, str]) -> None:
            seconds, cpu, output = run
            taken[figure][name].append(float(output.split()[-1]) if figure in OF_THEIR_OUTPUT else seconds)
            taken[f"{figure} (CPU)"][name].append(cpu)

        for _ in range(options.runs):
            for name, side in sides.items():
                take("first_run", name, side.first_run())
            for figure, arguments in WARM.items():
                for name, side in sides.items():
                    take(figure, name, side.run(*arguments))
            take("base_kib", "new", sides["new"].run("-c", BASE))
    median = {figure: {name: statistics.median(v) for name, v in by.items()} for figure, by in taken.items()}
    commits = {name: commit(side.tree) for name, side in sides.items()}
    threads = os.environ.get("OMP_NUM_THREADS")
    result: dict[str, object] = {"runs": options.runs, "commits": commits, "cpus": os.cpu_count(), "threads": threads}
    result |= {
        figure: {**by, **({"new_over_old": by["new"] / by["old"]} if "old" in by else {})}
        for figure, by in median.items()
        if not figure.endswith("_kib (CPU)")
    }
    result["pair_over_base_memory"] = {name: median["peak_kib"][name] / median["base_kib"]["new"] for name in sides}
    options.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(f"{'':24}{'old':>14}{'new':>14}{'new/old':>10}")
    for figure, by in result.items():
        if isinstance(by, dict) and "new" in by and figure != "commits":
            print(f"{figure:24}" + "".join(f"{by.get(name, float('nan')):14.3f}" for name in ("old", "new")), end="")
            print(f"{by['new_over_old']:10.3f}" if "new_over_old" in by else "")


def commit(tree: Path) -> str:
    """The commit that a checkout is at, with + where something is changed."""
    ask = ["git", "-C", str(tree), "describe", "--always", "--dirty=+", "--exclude=*"]
    return subprocess.run(ask, capture_output=True, text=True).stdout.strip()


if __name__ == "__main__":
    main()
