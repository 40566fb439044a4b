"""Many clients of one pair at once. `python benchmarks/serving.py [--old TREE] [--url URL | --serve]`

On the demo pair and its held-out rows, with nothing but CPUs. Clients are threads; each asks for one row after another.

  throughput   --clients × --calls one-row calls against one `explain` over the same rows, in turn, round by round
  latency      with --old (a checkout of an older commit): one row and 32 rows by a single caller, each tree in a
               process of its own, in turn
  soak         --minutes of one-row calls, a third of them called off at a random moment: each text that comes back is
               held against the one that the row has alone, and the process's memory is looked at every second

With --url the clients speak HTTP to a server that runs there, with --serve to one that is started here: then a call
that is called off is a connection that is closed, and `latency` is one HTTP call against one direct call. Writes
`serving.json` after each section; ratios are what to quote.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import statistics
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import torch

HERE = Path(__file__).resolve().parent
NEW_TREE = HERE.parent
Ask = Callable[[int, "float | None"], "str | None"]
"""A row's number, and after how many seconds its call is called off → its text; None: it was called off."""


# --- clients --------------------------------------------------------------------------------------------------------
def in_process(pair, vectors: torch.Tensor, tokens: int | None) -> Ask:
    from nla_sdk.errors import CancelledCallError

    def ask(row: int, leave_after: float | None) -> str | None:
        cancel = threading.Event()
        timer = threading.Timer(leave_after, cancel.set) if leave_after is not None else None
        if timer is not None:
            timer.start()
        try:
            return str(pair.explain(vectors[row], cancel=cancel, max_new_tokens=tokens, force=True))
        except CancelledCallError:
            return None
        finally:
            if timer is not None:
                timer.cancel()

    return ask


def over_http(url: str, vectors: torch.Tensor, tokens: int | None) -> Ask:
    address = urlsplit(url)

    def ask(row: int, leave_after: float | None) -> str | None:
        body = json.dumps({"vectors": [vectors[row].tolist()], "max_new_tokens": tokens, "force": True})
        while True:
            connection = http.client.HTTPConnection(address.hostname, address.port, timeout=leave_after)
            try:
                connection.request("POST", "/v1/explain", body, {"Content-Type": "application/json"})
                answer = connection.getresponse()
                given = json.loads(answer.read())
            except TimeoutError:
                return None
            finally:
                connection.close()
            if answer.status == 429:
                time.sleep(float(answer.headers.get("Retry-After", 1)))
                continue
            if answer.status != 200:
                raise SystemExit(f"row {row}: {answer.status} {given}")
            return given["rows"][0]["api_explanation"]

    return ask


def many(ask: Ask, rows: Sequence[int], clients: int) -> tuple[float, dict[int, str | None]]:
    """Seconds that so many clients take for one-row calls, and the texts."""
    texts: dict[int, str | None] = {}
    failures: list[BaseException] = []
    queues = [list(rows[at::clients]) for at in range(clients)]

    def work(own: list[int]) -> None:
        try:
            for row in own:
                texts[row] = ask(row, None)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(own,)) for own in queues if own]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return time.perf_counter() - start, texts


# --- sections -------------------------------------------------------------------------------------------------------
def throughput(pair, vectors: torch.Tensor, ask: Ask, options: argparse.Namespace) -> dict[str, Any]:
    """Each round has its own rows; the sides take turns in being first."""
    each = options.clients * options.calls // options.rounds
    seconds: dict[str, list[float]] = {"one call": [], "clients": []}
    cpu = dict.fromkeys(seconds, 0.0)
    wrong, asked = 0, []
    for number in range(options.rounds):
        rows = [(number * each + at) % len(vectors) for at in range(each)]
        rows = list(dict.fromkeys(rows))  # each once, of as many as are held out
        asked.append(len(rows))
        texts: dict[str, dict[int, str | None]] = {}

        def one_call(rows: list[int] = rows) -> tuple[float, dict[int, str | None]]:
            start = time.perf_counter()
            written = pair.explain(vectors[rows], max_new_tokens=options.tokens, force=True)
            return time.perf_counter() - start, {row: str(text) for row, text in zip(rows, written, strict=True)}

        sides = {"one call": one_call, "clients": lambda rows=rows: many(ask, rows, options.clients)}
        for name in list(sides) if number % 2 == 0 else reversed(list(sides)):
            before = used(options.pid if name == "clients" else os.getpid())
            spent, texts[name] = sides[name]()
            cpu[name] += used(options.pid if name == "clients" else os.getpid()) - before
            seconds[name].append(spent)
        wrong += sum(texts["one call"][row] != texts["clients"][row] for row in rows)
        print(
            f"  round {number + 1}: {len(rows)} rows, {seconds['one call'][-1]:.1f} s, {seconds['clients'][-1]:.1f} s"
        )
    ratios = [one / all_of for one, all_of in zip(*seconds.values(), strict=True)]
    return {
        "rows of each round": asked,
        "clients": options.clients,
        "seconds": seconds,
        "throughput of one call": sum(seconds["one call"]) / sum(seconds["clients"]),
        "of each round": ratios,
        "by CPU seconds": cpu["one call"] / cpu["clients"],
        "wrong texts": wrong,
    }


def latency_against(old: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Both trees by a single caller, in turn."""
    found: dict[str, Any] = {}
    trees = {"old": old, "new": NEW_TREE}
    sides = {}
    for name, tree in trees.items():
        environment = {**os.environ, "PYTHONPATH": str(tree), "HF_HUB_OFFLINE": "1"}
        command = [sys.executable, str(HERE / "serving.py"), "--side"]
        sides[name] = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, cwd=tree
        )

    def call(name: str, first: int, count: int) -> dict[str, Any]:
        process = sides[name]
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(json.dumps({"first": first, "count": count, "tokens": options.tokens}) + "\n")
        process.stdin.flush()
        return json.loads(process.stdout.readline())

    for count, runs in ((1, options.runs * 3), (32, options.runs)):
        seconds: dict[str, list[float]] = {name: [] for name in trees}
        cpu: dict[str, list[float]] = {name: [] for name in trees}
        texts: dict[str, list[str]] = {}
        same = True
        for number in range(-1, runs):
            for name in list(trees) if number % 2 == 0 else reversed(list(trees)):
                answer = call(name, max(0, number) * count, count)
                texts[name] = answer["texts"]
                if number >= 0:  # the first is a warm-up
                    seconds[name].append(answer["seconds"])
                    cpu[name].append(answer["cpu"])
            same = same and texts["old"] == texts["new"]
        found[f"{count} rows"] = {
            "seconds": {name: statistics.median(each) for name, each in seconds.items()},
            "old / new": statistics.median(
                old_one / new_one for old_one, new_one in zip(seconds["old"], seconds["new"], strict=True)
            ),
            "old / new, CPU seconds": sum(cpu["old"]) / sum(cpu["new"]),
            "runs": runs,
            "texts the same": same,
        }
        print(f"  {count} rows: {found[f'{count} rows']}")
    for process in sides.values():
        assert process.stdin is not None
        process.stdin.close()
        process.wait()
    return found


def side() -> None:
    """A tree's own process: reads what to explain, says how long it took."""
    from nla_sdk import NLAPair

    pair = NLAPair.from_pretrained("demo")
    vectors = held_out()
    for line in sys.stdin:
        asked = json.loads(line)
        part = vectors[[(asked["first"] + at) % len(vectors) for at in range(asked["count"])]]
        cpu, start = time.process_time(), time.perf_counter()
        written = pair.explain(part, max_new_tokens=asked["tokens"], force=True)
        took = time.perf_counter() - start, time.process_time() - cpu
        print(json.dumps({"seconds": took[0], "cpu": took[1], "texts": [str(text) for text in written]}), flush=True)


def latency_of_http(pair, vectors: torch.Tensor, ask: Ask, options: argparse.Namespace) -> dict[str, Any]:
    """A single client, direct and over HTTP, in turn."""
    direct = in_process(pair, vectors, options.tokens)
    seconds: dict[str, list[float]] = {"direct": [], "HTTP": []}
    for number in range(options.runs * 3):
        sides = {"direct": direct, "HTTP": ask}
        for name in list(sides) if number % 2 == 0 else reversed(list(sides)):
            start = time.perf_counter()
            sides[name](number % len(vectors), None)
            seconds[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(each) for name, each in seconds.items()}
    return {"seconds": medians, "HTTP / direct": medians["HTTP"] / medians["direct"]}


def soak(pair, vectors: torch.Tensor, ask: Ask, options: argparse.Namespace) -> dict[str, Any]:
    """Memory is that of the process the pair is in: this one, or with --url --pid another."""
    rows = list(range(min(len(vectors), options.soak_rows)))
    alone = [str(pair.explain(vectors[row], max_new_tokens=options.tokens, force=True)) for row in rows]
    counts = {"calls": 0, "called off": 0, "wrong": 0}
    lasted = deque([_timed(lambda: ask(0, None)) * 8], maxlen=64)  # calls that came to their ends, of late
    guard, stop, memory = threading.Lock(), time.monotonic() + options.minutes * 60, []
    failures: list[BaseException] = []

    def work(client: int) -> None:
        draw = random.Random(client)
        try:
            while time.monotonic() < stop:
                row = draw.choice(rows)
                leave = draw.random() < 1 / 3
                with guard:
                    usual = statistics.median(lasted)
                start = time.perf_counter()
                text = ask(row, draw.uniform(0, usual) if leave else None)
                with guard:
                    if not leave:
                        lasted.append(time.perf_counter() - start)
                    counts["calls"] += 1
                    counts["called off"] += text is None
                    counts["wrong"] += text is not None and text != alone[row]
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(client,)) for client in range(options.clients)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        memory.append(resident(options.pid))
        time.sleep(1)
    if failures:
        raise failures[0]
    tenth = max(1, len(memory) // 10)
    first, last = (statistics.median(part) for part in (memory[tenth : 2 * tenth], memory[-tenth:]))
    return {
        **counts,
        "minutes": options.minutes,
        "clients": options.clients,
        "memory, MB: second tenth, last tenth": [round(first), round(last)],
        "growth": last / first - 1,
        "calls left": len(pair.verbalizer.sharing.jobs) if options.pid == os.getpid() else None,
    }


def _timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def used(pid: int) -> float:
    """CPU seconds that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident(pid: int) -> float:
    """Megabytes of memory that a process has."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


def held_out() -> torch.Tensor:
    """The package's held-out activations, spread over their corpora: float32 [n, d_model]."""
    import pyarrow.parquet as pq

    table = pq.read_table(NEW_TREE / "nla_sdk" / "demo" / "rows.parquet", columns=["activation_vector"])
    flat = table["activation_vector"].combine_chunks().values.to_numpy()
    vectors = torch.from_numpy(flat.astype(np.float32)).reshape(len(table), -1)
    return vectors[torch.from_numpy(np.random.default_rng(0).permutation(len(vectors)))]


# --- the whole ------------------------------------------------------------------------------------------------------
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sections", default="throughput,latency,soak")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--calls", type=int, default=20, help="of each client, in all rounds together")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--runs", type=int, default=5, help="of 32 rows in `latency`; three times as many of one row")
    parser.add_argument("--tokens", type=int, default=None, help="most of each text (default: the contract's)")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--soak-rows", type=int, default=128)
    parser.add_argument("--old", type=Path, help="a checkout of an older commit")
    parser.add_argument("--url", help="of a server that serves the demo pair")
    parser.add_argument("--pid", type=int, default=os.getpid(), help="of that server's process, for its memory")
    parser.add_argument("--serve", action="store_true", help="start a server in this process and speak HTTP to it")
    parser.add_argument("--side", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("-o", "--output", type=Path, default=HERE / "serving.json")
    options = parser.parse_args()
    if options.side:
        side()
        return
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from nla_sdk import NLAPair

    pair, vectors = NLAPair.from_pretrained("demo"), held_out()
    report = json.loads(options.output.read_text(encoding="utf-8")) if options.output.is_file() else {}
    with ExitStack() as stack:
        url = options.url
        if options.serve:
            from nla_sdk.serve.running import serving

            url = stack.enter_context(serving(pair))
        ask = in_process(pair, vectors, options.tokens) if url is None else over_http(url, vectors, options.tokens)
        how = "in process" if url is None else "HTTP"
        for name in options.sections.split(","):
            print(f"{name}, {how}")
            if name == "throughput":
                found = throughput(pair, vectors, ask, options)
            elif name == "soak":
                found = soak(pair, vectors, ask, options)
            elif url is not None:
                found = latency_of_http(pair, vectors, ask, options)
            elif options.old is not None:
                found = latency_against(options.old.resolve(), options)
            else:
                continue
            report.setdefault(how, {})[name] = found
            options.output.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
            print(json.dumps({key: value for key, value in found.items() if key != "seconds"}, indent=2))


if __name__ == "__main__":
    main()
