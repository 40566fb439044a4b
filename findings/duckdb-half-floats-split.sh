#!/usr/bin/env bash
# duckdb 2.0.1, pyarrow 26.0.1, polars 2.1.0, Python 3.11 or newer
#
# Expected: what pyarrow may encode as BYTE_STREAM_SPLIT other readers of parquet decode: floats of 8, 4 and 2 bytes.
# Happens:  DuckDB decodes those of 8 and 4 bytes and refuses half floats; pyarrow and polars read all.
# Matters:  vectors in float16 that a table stores so cannot be queried. Leave them plain.
#
# Seen: a column of half floats, one of floats, each written split
#   duckdb 2.0.1, pyarrow 26.0.1, polars 2.1.0
#   float:  duckdb [1.5, 2.5], polars [1.5, 2.5]
#   half:   duckdb refuses: BYTE_STREAM_SPLIT encoding is only supported for FLOAT, DOUBLE, INT32 or INT64 data; polars [1.5, 2.5]
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
unset PYTHONPATH PYTHONHOME VIRTUAL_ENV
python3 -m venv venv
venv/bin/pip install -q duckdb==2.0.1 pyarrow==26.0.1 polars==2.1.0

venv/bin/python - <<'PY'
import sys
from importlib.metadata import version

import duckdb
import polars
import pyarrow as pa
import pyarrow.parquet as pq

print(", ".join(f"{name} {version(name)}" for name in ("duckdb", "pyarrow", "polars")))
read, refused = {}, ""
for name, kind in {"float": pa.float32(), "half": pa.float16()}.items():
    values, file = [1.5, 2.5], f"{name}.parquet"
    table = pa.table({"x": pa.array(values, kind)})
    pq.write_table(table, file, use_dictionary=False, column_encoding={"x": "BYTE_STREAM_SPLIT"})
    if pq.read_table(file)["x"].to_pylist() != values:
        sys.exit("the behaviour has changed: pyarrow reads other values than it wrote")
    said = f"polars {polars.read_parquet(file)['x'].to_list()}"
    try:
        read[name] = [row[0] for row in duckdb.sql(f"select x from '{file}'").fetchall()]
        print(f"{name}:".ljust(7), f"duckdb {read[name]}, {said}")
    except duckdb.Error as error:
        refused = name
        print(f"{name}:".ljust(7), f"duckdb refuses: {str(error).split(': ', 1)[-1].splitlines()[0]}; {said}")
sys.exit(0 if list(read) == ["float"] and refused == "half" else "the behaviour has changed")
PY
