"""What an evaluation costs over the least it must do. `python benchmarks/evaluation.py`

On the demo pair: round trip, content ablation, cross-row identity and template collapse of `--rows` held-out
activations: chunks written and hashed, other rows' explanations scored, all figures with intervals and permutation
tests, the table written; against one batched `explain` and five batched `reconstruct` of the same rows. Interleaved
chunk by chunk in one process; the ratio is what to quote.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
import time
from importlib import resources
from pathlib import Path

import pyarrow as pa
import torch

from nla_sdk import NLAPair
from nla_sdk.evaluation.parts import Settings
from nla_sdk.evaluation.schema import ROWS
from nla_sdk.io.chunks import Chunks
from nla_sdk.io.rows.formats import write_stream
from training.evaluate import heldout
from training.evaluate.measures import compute
from training.evaluate.measures.collapse import collapse
from training.evaluate.measuring.rows import Rows
from training.evaluate.run import _with_shuffled

RECONSTRUCTIONS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    options = parser.parse_args()
    pair = NLAPair.from_pretrained("demo")
    data = heldout.read(Path(str(resources.files("nla_sdk") / "demo" / "heldout.parquet")), pair.contract, options.rows)
    data = dataclasses.replace(data, labels=None)  # the AR on true labels is something else
    settings = Settings(
        seed=0,
        floor=0.3,
        max_new_tokens=pair.contract.max_new_tokens,
        controls_n=0,
        signal_n=0,
        permutations=5000,
        bootstrap_draws=2000,
    )
    pair.round_trip(data.vectors[:2])  # warm
    seconds = {"explain and five reconstructs": 0.0, "evaluation": 0.0}

    def least(part: range) -> None:
        vectors = torch.from_numpy(data.vectors[part.start : part.stop].copy())
        said = pair.explain(vectors)
        for _ in range(RECONSTRUCTIONS):
            pair.reconstruct(said)

    with tempfile.TemporaryDirectory() as folder:
        chunks, rows = Chunks(Path(folder), "evaluate", {}), Rows(data, settings)
        rows.pair = pair

        def ours(part: range, index: int) -> None:
            chunks.write(index, rows(index))

        for index, part in enumerate(rows.parts):
            sides = [("explain and five reconstructs", least, (part,)), ("evaluation", ours, (part, index))]
            for name, work, arguments in sides if index % 2 else reversed(sides):
                start = time.perf_counter()
                work(*arguments)
                seconds[name] += time.perf_counter() - start
            print(f"{part.stop} rows", {name: round(value, 1) for name, value in seconds.items()}, flush=True)
        start = time.perf_counter()
        table = _with_shuffled(pa.concat_tables(chunks.tables("rows")), settings)
        write_stream(Path(folder) / ROWS, [table], chunks.sidecar({}))
        tables = compute.Tables(table, None, settings)
        compute.round_trip(tables)
        compute.ablation(tables)
        compute.own_activation(tables, "reconstruction", tables.evaluated)
        collapse(tables.texts)
        seconds["of which figures and the table"] = time.perf_counter() - start
        seconds["evaluation"] += seconds["of which figures and the table"]
    result = {
        "rows": len(data),
        "threads": torch.get_num_threads(),
        "seconds": {name: round(value, 2) for name, value in seconds.items()},
        "ratio": round(seconds["evaluation"] / seconds["explain and five reconstructs"], 3),
    }
    options.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
