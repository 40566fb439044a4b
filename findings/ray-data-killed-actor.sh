#!/usr/bin/env bash
# ray 2.60.0 (ray[data]), pyarrow 26.0.1, Python 3.11 or newer
#
# Expected: a row that ends the process it is worked on in (out of memory, a crash in native code) fails the dataset after
#           some tries, as a row that raises does.
# Happens:  map_batches with a class starts a new actor and begins the whole block again, batches that were done
#           included, for as long as one lets it: no error, and no end. The progress bar stays where it is.
# Matters:  one such row in a table of millions keeps a job from ever ending, while it pays for every node. What is done
#           must be kept by oneself, and a row that ended its actor twice be left out.
#
# Seen: 8 rows in batches of 2, of which row 5 ends its process; stopped after its seventh end
#   ray 2.60.0
#   ended by itself: False, row 5 more than 6 times: True, row 0 as often: True
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
unset PYTHONPATH PYTHONHOME VIRTUAL_ENV RAY_ADDRESS
export RAY_USAGE_STATS_ENABLED=0 RAY_AUTH_MODE=token RAY_AUTH_TOKEN=0000000000000000000000000000000000000000000000000000000000000000
python3 -m venv venv
venv/bin/pip install -q 'ray[data]==2.60.0' pyarrow==26.0.1

cat >job.py <<'PY'
import os

import pyarrow as pa
import pyarrow.parquet as pq
import ray

ray.init(address="local", num_cpus=2, include_dashboard=False, object_store_memory=80_000_000)
pq.write_table(pa.table({"row": list(range(8))}), "in.parquet")
folder = os.getcwd()


class Fatal:
    def __call__(self, table):
        rows = table["row"].to_pylist()
        with open(f"{folder}/calls", "a") as calls:
            calls.write(f"{rows}\n")
        if 5 in rows:
            os._exit(1)
        return table


data = ray.data.read_parquet("in.parquet")
print(data.map_batches(Fatal, batch_size=2, batch_format="pyarrow", num_cpus=1, concurrency=1).take_all())
PY

venv/bin/python job.py >out 2>&1 &
job=$!
disown
trap 'kill -KILL $job 2>/dev/null || true; rm -rf "$work"' EXIT
touch calls
for _ in $(seq 300); do # seconds at most; a slow machine takes its time to start an actor
  if [ "$(grep -cF '[4, 5]' calls)" -gt 6 ] || ! kill -0 $job 2>/dev/null; then break; fi
  sleep 1
done
ended=True
if kill -0 $job 2>/dev/null; then ended=False; fi
venv/bin/python - "$ended" <<'PY'
import sys
from importlib.metadata import version
from pathlib import Path

calls, ended = Path("calls").read_text().splitlines(), sys.argv[1] == "True"
last, first = calls.count("[4, 5]"), calls.count("[0, 1]")
print(f"ray {version('ray')}")
print(f"ended by itself: {ended}, row 5 more than 6 times: {last > 6}, row 0 as often: {first >= last}")
sys.exit(0 if not ended and last > 6 and first >= last else "the behaviour has changed")
PY
