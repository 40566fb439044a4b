"""The demo pair: its texts and vectors on the card against the CPU's, rows a second, and its decoding step."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from .made import demo_config, random_base, random_pair
from .run import NO_CUDA, ROOT, Run, Skipped, said
from .steps import step_as_graph, step_times


def heldout(rows: int) -> tuple[Any, list[str]]:
    """Activations float32 [rows, 640] that the demo pair was not trained on, and their labels."""
    import pyarrow.parquet as pq
    import torch

    from nla_sdk.io.tables import read_vectors

    table = pq.read_table(ROOT / "nla_sdk" / "demo" / "heldout.parquet").slice(0, rows)
    return torch.from_numpy(read_vectors(table).copy()), table["api_explanation"].to_pylist()


def demo_halves(run: Run) -> list[str | Path]:
    """The demo pair; where its base is not installed, a random pair of its geometry, as fast and without sense."""
    from nla_sdk.errors import DemoBaseError
    from nla_sdk.halves.demo_base import demo_base

    try:
        demo_base()
        return ["demo"]
    except DemoBaseError as error:
        run.note(base=f"random weights of the demo base's geometry instead: {said(error)}")
        os.environ["NLA_CACHE"] = str(run.folder / "cache")  # what is measured of it is nobody's
        base, model, _ = random_base(run, "demo-base", demo_config())
        template = "The vector <concept>{injection_char}</concept> holds: <explanation>"
        return [*random_pair(run, base, model, layer=12, blocks=13, rank=16, template=template)]


def written(pair: Any, vectors: Any, limit: int | None) -> list[list[int]]:
    """The tokens of greedy explanations."""
    from nla_sdk.sampling import Sampling

    verbalizer = pair.verbalizer
    return [ids for ids, _ in verbalizer.tokens(verbalizer.prepare(vectors), Sampling(limit))]


def demo(run: Run) -> None:
    """float32 on the CPU, then both precisions on the card."""
    from nla_sdk import NLAPair

    halves = demo_halves(run)
    vectors, labels = heldout(4 if run.small else 32)
    limit = 6 if run.small else None
    cpu = NLAPair.from_pretrained(*halves, device="cpu", dtype="float32")
    expected = written(cpu, vectors, limit)
    near = {"extract": cpu.extract(labels).vectors, "reconstruct": cpu.reconstruct(labels)}
    del cpu
    run.note(rows_compared=len(vectors), cpu_tokens=sum(map(len, expected)))

    def one_precision(dtype: str) -> dict[str, Any]:
        start = time.perf_counter()
        pair = NLAPair.from_pretrained(*halves, device=run.device, dtype=dtype)
        found: dict[str, Any] = {"load_seconds": time.perf_counter() - start}
        found |= agreement(pair, vectors, labels, expected, near, limit)
        for rows in (1, 2) if run.small else (1, 32, 256):
            some = vectors.repeat(-(-rows // len(vectors)), 1)[:rows]
            found[f"{rows}_rows"] = speed(run, pair, some, limit)
        return found | {"memory": run.memory()}

    for dtype in ("float32", "bfloat16"):
        run.attempt(dtype, lambda dtype=dtype: one_precision(dtype))


def agreement(
    pair: Any, vectors: Any, labels: list[str], expected: list[list[int]], near: dict[str, Any], limit: int | None
) -> dict[str, Any]:
    """How many texts are the CPU's, at which token the others part from them, and how near the vectors are."""
    both = list(zip(written(pair, vectors, limit), expected, strict=True))
    parted = [
        next((at for at, (a, b) in enumerate(zip(own, theirs, strict=False)) if a != b), min(len(own), len(theirs)))
        for own, theirs in both
        if own != theirs
    ]
    found: dict[str, Any] = {"texts_as_on_cpu": f"{len(both) - len(parted)} of {len(both)}"}
    found["first_token_that_differs"] = sorted(parted)
    for name, theirs in near.items():
        own = getattr(pair, name)(labels)
        own = getattr(own, "vectors", own)
        found[f"{name}_distance_to_cpu"] = float(((own - theirs).norm(dim=-1) / theirs.norm(dim=-1)).max())
    return found


def speed(run: Run, pair: Any, vectors: Any, limit: int | None) -> dict[str, Any]:
    """Rows a second of explain (a fixed number of tokens) and of round trips (whole texts), and a step's times."""
    from nla_sdk.sampling import Sampling

    rows, tokens = len(vectors), 4 if run.small else 48
    explain = run.median(lambda: pair.verbalizer(vectors, Sampling(tokens, ignore_end=True)), 3 if rows < 64 else 1)
    whole = run.median(lambda: pair.round_trip(vectors, max_new_tokens=limit, force=True), 1)
    return {
        "explain_new_tokens": tokens,
        "explain_rows_per_second": rows / explain,
        "explain_ms_per_token": explain / tokens * 1e3,
        "round_trip_rows_per_second": rows / whole,
        **step_times(run, pair.verbalizer, rows),
    }


def graphs(run: Run) -> None:
    """The AV's step in bfloat16, recorded. Apart from `demo`: a recording that fails may break what comes after it."""
    if not run.cuda:
        raise Skipped(NO_CUDA)
    from nla_sdk import NLAPair

    pair = NLAPair.from_pretrained(*demo_halves(run), device=run.device, dtype="bfloat16")
    for rows in (1, 32, 256):
        run.attempt(f"{rows}_rows", lambda rows=rows: step_as_graph(run, pair.verbalizer, rows))
