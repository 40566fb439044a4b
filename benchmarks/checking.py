"""What a check costs beside explaining and the round trip: `python benchmarks/checking.py`

The demo pair on its own held-out rows. Turn by turn, so that what else the machine does falls on both:
  round trip      `pair.round_trip(vectors)`: explained, and read back by the AR
  checked         `pair.explain(vectors)`, then `pair.check` of what it wrote, with the receipts that it has by default
  with text       the same with a text for each row: is it there, does the model agree
Seconds on the clock and of the processor, the median over the turns, and their ratio to the round trip's.

Writes checking.json beside itself.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import torch

from nla_sdk import NLAPair
from nla_sdk.io.files import write_json
from nla_sdk.io.tables import read_vectors

HERE = Path(__file__).parent
TEXT = "The committee met in the spring of 1904 and agreed that the harbour should be dredged before the winter. "


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--turns", type=int, default=5)
    options.add_argument("--rows", type=int, nargs="+", default=[1, 32])
    given = options.parse_args()
    pair = NLAPair.from_pretrained("demo")
    table = pq.read_table(Path(pair.av.folder).parent / "rows.parquet", columns=["activation_vector"])
    vectors = torch.from_numpy(read_vectors(table).copy())
    found = {}
    for count in given.rows:
        seconds: dict[str, list[tuple[float, float]]] = defaultdict(list)
        for turn in range(-1, given.turns):
            rows = vectors[(turn + 1) * count :][:count]
            texts = [TEXT * (1 + at % 4) for at in range(count)]
            ways: dict[str, Callable[[], object]] = {
                "round trip": lambda rows=rows: pair.round_trip(rows),
                "checked": lambda rows=rows: pair.check(list(pair.explain(rows)), rows),
                "with text": lambda rows=rows, texts=texts: pair.check(list(pair.explain(rows)), rows, texts),
            }
            for name, way in ways.items():
                clock, processor = time.perf_counter(), time.process_time()
                way()
                if turn >= 0:  # the first turn reads vocabularies and holds fast ways against the models
                    seconds[name].append((time.perf_counter() - clock, time.process_time() - processor))
        of = {name: [statistics.median(each) for each in zip(*pairs, strict=True)] for name, pairs in seconds.items()}
        base = of["round trip"]
        found[f"{count} rows"] = {
            name: {
                "seconds": round(own[0], 3),
                "processor_seconds": round(own[1], 3),
                "ratio": round(own[0] / base[0], 3),
                "processor_ratio": round(own[1] / base[1], 3),
            }
            for name, own in of.items()
        }
        print(count, found[f"{count} rows"])
    write_json(HERE / "checking.json", {"threads": torch.get_num_threads(), "turns": given.turns, **found})


if __name__ == "__main__":
    main()
