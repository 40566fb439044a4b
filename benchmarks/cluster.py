"""What the Ray path costs over the local one, and whether it survives. `python benchmarks/cluster.py`

    overhead   explain on the demo pair: one actor with all cores against this process, rows a second, sides in turn
    instant    a worker that does nothing, --files files: ms a row here and there, and the driver's memory on the way
    killed     a tiny pair over two nodes, the driver or a node killed at random --kills times: the same bytes?

Needs the extra [cluster]. `killed` builds its tiny pair with the tests' own builders: run it in a clone.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from nla_sdk.contract import Contract
from nla_sdk.io.chunks import MANIFEST
from nla_sdk.io.origins import Origin
from nla_sdk.io.rows.row_source import VECTORS
from nla_sdk.io.rows.sources import open_source
from nla_sdk.io.tables import vector_column
from nla_sdk.jobs.cluster.connection import ALONE, connected
from nla_sdk.jobs.cluster.pool import Pool
from nla_sdk.jobs.cluster.sizes import ActorSize
from nla_sdk.jobs.facts import About, Told
from nla_sdk.jobs.local import Target, run

ROOT = Path(__file__).parents[1]
CHUNK_ROWS = 64


class Here:
    """A pair of no files."""

    def identity(self) -> dict:
        return {}


@dataclass
class Instant:
    """A column of row numbers and no other work."""

    contract: Contract
    holds: str = VECTORS

    def prepare(self) -> None: ...

    def about(self) -> About:
        return About(self.contract, Origin(), ())

    def identity(self) -> dict:
        return {}

    def __call__(self, table: pa.Table, first: int) -> pa.Table:
        return table.append_column("row", pa.array(range(first, first + table.num_rows)))


def seconds_of(source, rows: int, unit, out: Path, contract: Contract, making=None) -> tuple[float, float]:
    """One job from its first row to OUT: seconds, and seconds that this process was on a core."""
    target, start, busy = Target(out, "parquet", overwrite=True), time.perf_counter(), time.process_time()
    run(source, rows, unit, target, making=making, chunk_rows=CHUNK_ROWS, made_from={}, about=contract)
    return time.perf_counter() - start, time.process_time() - busy


def overhead(folder: Path, rows: int, runs: int) -> dict[str, Any]:
    """Both sides explain the same rows, in turn, each with its pair loaded; starting the actor is timed by itself."""
    from nla_sdk.jobs.identity import Lying
    from nla_sdk.jobs.unit import Unit

    held = pq.read_table(Path(str(resources.files("nla_sdk") / "demo" / "heldout.parquet")))
    pq.write_table(pa.concat_tables([held] * -(-rows // held.num_rows)).slice(0, rows), folder / "in.parquet")
    source = open_source(str(folder / "in.parquet"), ("activation_vector",))
    told = {"av": "demo", "device": "cpu"}
    unit = Unit("explain", Told.of(source), told, {"max_new_tokens": 48})
    contract = unit.about().contract
    unit.prepare()
    cores = len(os.sched_getaffinity(0))
    taken: dict[str, list[float]] = {"local": [], "ray": []}
    with connected(None) as ray:
        start = time.perf_counter()
        with Pool(ray, unit, ActorSize(cpus=cores), 1, Lying.find(told)) as pool:
            _ = pool.about
            started = time.perf_counter() - start
            for _ in range(runs):
                taken["local"].append(seconds_of(source, rows, unit, folder / "local.parquet", contract)[0])
                taken["ray"].append(seconds_of(source, rows, unit, folder / "ray.parquet", contract, pool.making)[0])
    here, there = (statistics.median(taken[side]) for side in ("local", "ray"))
    return {
        "rows": rows,
        "cores": cores,
        "local_seconds": taken["local"],
        "ray_seconds": taken["ray"],
        "ray_over_local": there / here,
        "ray_over_local_by_run": [b / a for a, b in zip(taken["local"], taken["ray"], strict=True)],
        "start_seconds": started,
        "same_bytes": (folder / "local.parquet").read_bytes() == (folder / "ray.parquet").read_bytes(),
    }


def instant(folder: Path, rows: int, files: int, width: int) -> dict[str, Any]:
    """The same job here and there, on many files as one table; memory of this process at each tenth of the way."""
    contract = Contract.from_dict({"kind": "nla_dataset", "base_model": "owner/base", "d_model": width, "layer": 2})
    rng = np.random.default_rng(0)
    for number in range(files):
        vectors = rng.normal(size=(rows // files, width))
        pq.write_table(pa.table({"activation_vector": vector_column(vectors)}), folder / f"in-{number:06d}.parquet")
    source = open_source(str(folder / "in-*.parquet"), ("activation_vector",))
    start = time.perf_counter()
    rows = source.check()
    checked = time.perf_counter() - start
    unit, process, memory = Instant(contract), psutil.Process(), []
    here, here_busy = seconds_of(source, rows, unit, folder / "local.parquet", contract)
    with connected(None) as ray, Pool(ray, unit, ActorSize(), 1, Here()) as pool:
        _ = pool.about

        def making(chunk_rows: int):
            def watched(given):
                for at, made in enumerate(pool.making(chunk_rows)(given)):
                    if at % max(1, rows // chunk_rows // 10) == 0:
                        memory.append(round(process.memory_info().rss / 1e6))
                    yield made

            return watched

        there, there_busy = seconds_of(source, rows, unit, folder / "ray.parquet", contract, making)
    return {
        "rows": rows,
        "files": files,
        "d_model": width,
        "check_ms_a_row": 1000 * checked / rows,
        "local_ms_a_row": 1000 * here / rows,
        "ray_ms_a_row": 1000 * there / rows,
        "ray_less_local_ms_a_row": 1000 * (there - here) / rows,
        "local_core_ms_a_row": 1000 * here_busy / rows,
        "driver_core_ms_a_row": 1000 * there_busy / rows,
        "driver_mb": memory,
        "same_bytes": (folder / "local.parquet").read_bytes() == (folder / "ray.parquet").read_bytes(),
    }


def killed(folder: Path, rows: int, kills: int, seed: int) -> dict[str, Any]:
    """`nla explain --engine ray`, killed and started again, and nodes killed under it, against a run undisturbed."""
    from tests import tiny

    base = tiny.save_model(folder / "gemma", tiny.gemma_config(), tiny.tokenizer(), seed=1)
    tiny.lora_pair(folder / "pair", base, tiny.plain_model(base), layer=4, blocks=5)
    vectors = tiny.random(rows, tiny.D_MODEL, seed=3).numpy()
    pq.write_table(pa.table({"activation_vector": vector_column(vectors)}), folder / "in.parquet")
    explain = [sys.executable, "-m", "nla_sdk.cli", "explain", folder / "in.parquet", "--av", folder / "pair"]
    explain += ["--device", "cpu", "--max-new-tokens", 4, "--force"]
    environment = {**os.environ, **ALONE, "RAY_AUTH_TOKEN": "0" * 64, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    os.environ.update(environment)
    start = time.perf_counter()
    subprocess.run([str(one) for one in [*explain, "-o", folder / "here.parquet"]], check=True, env=environment)
    here = time.perf_counter() - start

    from ray.cluster_utils import Cluster

    node = {"num_cpus": 1, "object_store_memory": 80_000_000, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=node)
    cluster.add_node(**node)
    there = [*explain, "-o", folder / "there.parquet", "--engine", "ray", "--address", cluster.address]
    command = [str(one) for one in there]
    rng, manifest, done = random.Random(seed), folder / "there.parquet.chunks" / MANIFEST, {"driver": 0, "node": 0}
    chunks = -(-rows // CHUNK_ROWS)
    moments = sorted(rng.sample(range(1, chunks - 1), kills))
    start, driver = time.perf_counter(), subprocess.Popen(command, env=environment)
    for moment in moments:
        while driver.poll() is None and not (manifest.is_file() and manifest.read_bytes().count(b"\n") >= moment):
            time.sleep(0.05)
        if rng.random() < 0.5:
            done["driver"] += 1
            driver.send_signal(signal.SIGKILL)
            driver.wait()
            driver = subprocess.Popen(command, env=environment)
        else:
            done["node"] += 1
            cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)
            cluster.add_node(**node)
    code = driver.wait()
    cluster.shutdown()
    return {
        "rows": rows,
        "chunks": chunks,
        "killed": done,
        "after_chunks": moments,
        "exit_code": code,
        "local_seconds": here,
        "ray_seconds": time.perf_counter() - start,
        "same_bytes": (folder / "here.parquet").read_bytes() == (folder / "there.parquet").read_bytes(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sections", default="overhead,instant,killed")
    parser.add_argument("--rows", type=int, default=1_000_000, help="of instant")
    parser.add_argument("--files", type=int, default=1_000, help="of instant")
    parser.add_argument("--width", type=int, default=640, help="d_model of instant")
    parser.add_argument("--explained", type=int, default=128, help="rows of overhead")
    parser.add_argument("--runs", type=int, default=3, help="of overhead")
    parser.add_argument("--tiny", type=int, default=10_000, help="rows of killed")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    options = parser.parse_args()
    result = json.loads(options.out.read_text(encoding="utf-8")) if options.out.is_file() else {}
    sections = {
        "overhead": lambda folder: overhead(folder, options.explained, options.runs),
        "instant": lambda folder: instant(folder, options.rows, options.files, options.width),
        "killed": lambda folder: killed(folder, options.tiny, options.kills, options.seed),
    }
    for name in options.sections.split(","):
        folder = Path(tempfile.mkdtemp())
        try:
            result[name] = sections[name](folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        options.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        for what, value in result[name].items():
            print(f"{name:10}{what:24}{value}")


if __name__ == "__main__":
    main()
