"""Today's tree against an older one, and against plain transformers. `python benchmarks/speed.py --old TREE`

On the demo pair, with nothing but CPUs. TREE is a checkout of the commit to compare with:
`git clone -q . /tmp/old && git -C /tmp/old checkout -q ef212ef`. Each side is a process of its own that stays loaded
(`speed_side.py`); they are called in turn, the order reversed every round, so that what else the machine does hits all
alike. Medians of `--runs` rounds; ratios are what to quote.

  explain      32 rows and one row, with the bundled prompt and the seed's 94-token one: exactly 48 tokens, and as
               written (up to the end token): old, new, transformers' `generate`
  round_trip   a row's round trip against the script way of `inference.py`: 48 tokens, three models, one row at a time
  on_policy    rows a second of `training.fit.on_policy`, the pair loaded before
  reading      reconstruct and extract against a bare batched forward through the same blocks
  texts        all held-out rows: how many texts are those of float32 greedy decoding by a plain loop, and the time
  evaluate     `python -m training.evaluate --av demo` as a command; figures of the two files compared to 1e-6

Writes `speed.json` after every section and prints a table. A section that is not asked for stays as the file has it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from passage import TEXT
from speed_table import compared, over, same, table

HERE = Path(__file__).resolve().parent
NEW_TREE = HERE.parent
PROMPTS = ("bundled", "seed")


class Sizes:
    """How much is measured: all of it, or with `--quick` just enough to see that the script runs."""

    def __init__(self, quick: bool, runs: int | None) -> None:
        self.runs = runs or (1 if quick else 3)
        self.rows, self.tokens = (4, 6) if quick else (32, 48)
        self.held_out = 8 if quick else None  # rows of `texts`; None: all
        self.script_rows = 1 if quick else 2
        self.on_policy_rows = 8 if quick else 128
        self.evaluate = ["--limit", "12", "--controls", "2", "--signal", "2"] if quick else []


class Sides:
    """The processes, each started when it is first called."""

    def __init__(self, trees: Mapping[str, Path]) -> None:
        self.trees, self.running = trees, {}
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115 (open as long as the processes)

    def __call__(self, name: str, call: str, **given: Any) -> dict[str, Any]:
        if name not in self.running:
            tree = self.trees[name]
            self.running[name] = subprocess.Popen(
                [sys.executable, str(HERE / "speed_side.py"), name, str(tree)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self.log,
                text=True,
                env=environment(tree),
            )
        process = self.running[name]
        try:
            process.stdin.write(json.dumps({"call": call, **given}) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            process.wait()
            self.log.seek(0)
            raise SystemExit(f"{name}: {call} ended with code {process.returncode}:\n{self.log.read()[-3000:]}")
        return json.loads(line)

    def close(self, *names: str) -> None:
        for name in names or list(self.running):
            if process := self.running.pop(name, None):
                process.stdin.close()
                process.wait()


def environment(tree: Path) -> dict[str, str]:
    """Each tree with a cache of its own, which stays: the demo base has another layout in each."""
    if tree == NEW_TREE:
        cache = os.environ.get("NLA_CACHE", "")
    else:
        cache = str(Path(tempfile.gettempdir(), f"nla-speed-{commit(tree)[:12]}"))
    return {**os.environ, "PYTHONPATH": str(tree), "HF_HUB_OFFLINE": "1", "NLA_CACHE": cache}


def interleaved(calls: Mapping[str, Callable[[], dict]], runs: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Medians over `runs` rounds, all sides in turn; and what each side answered last."""
    answers: dict[str, list[dict]] = {name: [] for name in calls}
    for number in range(runs):
        for name in list(calls) if number % 2 == 0 else reversed(list(calls)):
            answers[name].append(calls[name]())
    medians = {
        what: {name: statistics.median(one[what] for one in given) for name, given in answers.items()}
        for what in ("seconds", "user_cpu_seconds")
    }
    return {"runs": runs, **medians}, {name: given[-1].get("value") for name, given in answers.items()}


def picked(sides: Sides, rows: int | None) -> list[int]:
    """Row numbers of the held-out table, evenly spaced: it lies in its corpora's order."""
    of = sides("new", "about")["value"]["rows"]
    count = min(rows or of, of)
    return [number * of // count for number in range(count)]


# --- sections -----------------------------------------------------------------------------------------------------
def explain(sides: Sides, sizes: Sizes) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for prompt in PROMPTS:
        lengths = {name: sides(name, "prompt_tokens", prompt=prompt)["value"] for name in ("old", "new")}
        if len(set(lengths.values())) > 1:
            raise SystemExit(f"the {prompt} prompt has {lengths} tokens: the sides do not write from the same one.")
        found[prompt] = {"prompt_tokens": lengths["new"]}
        for kind, rows, exactly in (("many", sizes.rows, True), ("as_written", sizes.rows, False), ("one", 1, True)):
            given = {"prompt": prompt, "rows": picked(sides, rows), "exactly": exactly}

            def calls(tokens: int, given: dict = given) -> dict[str, Callable[[], dict]]:
                work = {"old": "explain", "new": "explain", "generate": "generate"}
                return {
                    side: lambda side=side, call=call: sides(
                        "old" if side == "old" else "new", call, tokens=tokens, **given
                    )
                    for side, call in work.items()
                }

            for warm in calls(2).values():
                warm()
            # What is written to its end is fewer of the same steps: once tells how many fewer.
            medians, texts = interleaved(calls(sizes.tokens), 1 if kind == "as_written" else sizes.runs)
            found[prompt][kind] = {
                "rows": rows,
                "most_tokens": sizes.tokens,
                **medians,
                "old_over_new": over(medians, "old", "new"),
                "generate_over_new": over(medians, "generate", "new"),
                "texts_same_as_old": same(texts["new"], texts["old"]),
            }
    return found


def round_trip(sides: Sides, sizes: Sizes) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for prompt in PROMPTS:
        given = {"prompt": prompt, "tokens": sizes.tokens}
        rows = {"script": sizes.script_rows, "old": sizes.rows, "new": sizes.rows}
        calls = {
            name: lambda name=name, count=count, given=given: sides(
                "old" if name == "old" else "new",
                "script" if name == "script" else "round_trip",
                rows=picked(sides, count),
                **given,
            )
            for name, count in rows.items()
        }
        for name in ("old", "new"):
            sides(name, "round_trip", prompt=prompt, tokens=2, rows=picked(sides, sizes.rows))
        sides("new", "script", prompt=prompt, tokens=2, rows=[0])
        medians, _ = interleaved(calls, sizes.runs)
        per_row = {name: medians["seconds"][name] / count for name, count in rows.items()}
        found[prompt] = {
            "rows": rows,
            "new_tokens": sizes.tokens,
            **medians,
            "seconds_per_row": per_row,
            "script_over_new": per_row["script"] / per_row["new"],
            "script_over_old": per_row["script"] / per_row["old"],
        }
    sides("new", "forget_script")
    return found


def on_policy(sides: Sides, sizes: Sizes) -> dict[str, Any]:
    calls = {name: lambda name=name: sides(name, "on_policy", rows=sizes.on_policy_rows) for name in ("old", "new")}
    medians, texts = interleaved(calls, sizes.runs)
    rows = sizes.on_policy_rows
    return {
        "rows": rows,
        **medians,
        "rows_per_second": {name: rows / seconds for name, seconds in medians["seconds"].items()},
        "new_over_old": over(medians, "new", "old"),
        "texts_same_as_old": same(texts["new"], texts["old"]),
    }


def reading(sides: Sides, sizes: Sizes) -> dict[str, Any]:
    said = sides("new", "explain", prompt="bundled", rows=picked(sides, sizes.rows))["value"]
    found: dict[str, Any] = {}
    texts = {
        "reconstruct": [text.replace("</explanation>", "") for text in said],
        "extract": [(2 * TEXT)[at : at + 300] for at in range(sizes.rows)],
    }
    for call, given in texts.items():
        calls = {
            "old": lambda call=call, given=given: sides("old", call, texts=given),
            "new": lambda call=call, given=given: sides("new", call, texts=given),
            "bare": lambda call=call, given=given: sides("new", f"bare_{call}", texts=given),
        }
        for warm in calls.values():
            warm()
        medians, _ = interleaved(calls, 3 * sizes.runs)
        ratios = {f"{name}_over_bare": over(medians, name, "bare") for name in ("new", "old")}
        found[call] = {"rows": len(given), **medians, **ratios}
    return found


def texts(sides: Sides, sizes: Sizes) -> dict[str, Any]:
    rows = picked(sides, sizes.held_out)
    for name in ("old", "new"):
        sides(name, "explain", prompt="bundled", rows=rows[:32], tokens=2)
    calls = {
        "new": lambda: sides("new", "explain", prompt="bundled", rows=rows),
        "old": lambda: sides("old", "explain", prompt="bundled", rows=rows),
        "plain": lambda: sides("plain", "texts", rows=rows),
    }
    medians, wrote = interleaved(calls, 1)
    sides.close("plain")
    plain = [text for text, _ in wrote["plain"]]
    different = [
        {"row": row, "new": mine, "plain": text, "smallest_gap_of_two_logits": gap}
        for row, mine, (text, gap) in zip(rows, wrote["new"], wrote["plain"], strict=True)
        if mine != text
    ]
    return {
        "rows": len(rows),
        **medians,
        "old_over_new": over(medians, "old", "new"),
        "equal_to_plain_float32_greedy": same(wrote["new"], plain),
        "old_equal_to_plain_float32_greedy": same(wrote["old"], plain),
        "different": different,
    }


def evaluate(sides: Sides, sizes: Sizes) -> dict[str, Any]:
    sides.close()  # the command has the machine to itself
    with tempfile.TemporaryDirectory() as folder:
        outs = {name: Path(folder) / name for name in ("old", "new")}
        calls = {name: lambda name=name: command(sides.trees[name], outs[name], sizes) for name in outs}
        medians, _ = interleaved(calls, 1)
        files = {name: json.loads((out / "evaluation.json").read_text("utf-8")) for name, out in outs.items()}
    return {
        "command": " ".join(["python -m training.evaluate --av demo", *sizes.evaluate]),
        "rows": files["new"]["round_trip"]["attempted"],
        **medians,
        "new_over_old": over(medians, "new", "old"),
        "user_cpu_new_over_old": medians["user_cpu_seconds"]["new"] / medians["user_cpu_seconds"]["old"],
        "file": compared(files["old"], files["new"]),
    }


def command(tree: Path, out: Path, sizes: Sizes) -> dict[str, float]:
    """Seconds of the evaluation as a whole, and the CPU time of its process, imports included."""
    arguments = ["-m", "training.evaluate", "--av", "demo", "--out", str(out), *sizes.evaluate]
    with tempfile.TemporaryFile("w+") as log:
        start = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, *arguments], cwd=tree, env=environment(tree), stdout=log, stderr=subprocess.STDOUT
        )
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            log.seek(0)
            raise SystemExit(f"{tree}: training.evaluate ended with {process.returncode}:\n{log.read()[-3000:]}")
    return {"seconds": seconds, "user_cpu_seconds": usage.ru_utime}


SECTIONS = {one.__name__: one for one in (explain, round_trip, on_policy, reading, texts, evaluate)}
"""In the order they are run in: `evaluate` ends the sides' processes."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--old", type=Path, required=True, help="a checkout of the commit to compare with")
    parser.add_argument("--runs", type=int, help="rounds (default 3; texts, evaluate and as_written: one)")
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument(
        "--quick", action="store_true", help="few rows and tokens: does it run? Its figures say nothing"
    )
    parser.add_argument("--out", type=Path, default=HERE / "speed.json")
    options = parser.parse_args()
    sizes = Sizes(options.quick, options.runs)
    old = options.old.resolve()
    sides = Sides({"old": old, "new": NEW_TREE, "plain": NEW_TREE})
    result = json.loads(options.out.read_text("utf-8")) if options.out.is_file() else {}
    for name, section in SECTIONS.items():
        if name not in options.sections:
            continue
        start = time.perf_counter()
        about = {"old": commit(old), "new": commit(NEW_TREE), "machine": machine(sides), "quick": options.quick}
        result[name] = {**about, **section(sides, sizes)}
        save(result, options.out)
        print(f"{name}: {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
    sides.close()
    print(table(result))


def machine(sides: Sides) -> dict[str, Any]:
    """What it ran on; no names of machines."""
    about = sides("new", "about")["value"]
    del about["rows"]
    info = Path("/proc/cpuinfo")
    names = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    return {"cpu": names[0], "cpus": os.cpu_count(), "python": platform.python_version(), **about}


def commit(tree: Path) -> str:
    """The commit of a checkout, "+" where files differ from it."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", "-C", str(tree), *arguments], capture_output=True, text=True, check=True).stdout

    changed = git("status", "--porcelain", "--", "nla_sdk", "training", "cards").strip()
    return git("rev-parse", "HEAD").strip() + ("+" if changed else "")


def save(result: Mapping[str, Any], path: Path) -> None:
    """Written beside and renamed: killed at any moment, the file is whole."""
    sibling = path.with_name(f".{path.name}.tmp")
    sibling.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    os.replace(sibling, path)


if __name__ == "__main__":
    main()
