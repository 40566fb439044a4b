#!/usr/bin/env bash
# duckdb 1.5.6 and 2.0.1, read by pyarrow 26.0.1
#
# Expected: a FLOAT[3] column with a NULL row, written by COPY ... (FORMAT parquet), opens in any parquet reader.
# Happens:  pyarrow refuses the whole column. The column's metadata counts 9 values where 7 belong (3 + one for the
#           NULL + 3): the slots that duckdb keeps for a NULL array are counted as if they were values. duckdb itself
#           reads the file, so a round trip inside duckdb shows nothing. Without a NULL, or cast to FLOAT[], pyarrow
#           reads it. Reported as https://github.com/duckdb/duckdb/issues/24731.
# Matters:  FLOAT[d] is duckdb's natural type for vectors of d numbers, and rows without a vector are ordinary; such a
#           table is lost to pyarrow, and to what reads parquet through it, until it is written anew. Cast first:
#           COPY (SELECT * REPLACE (v::FLOAT[] AS v) FROM t) TO 'f.parquet' (FORMAT parquet).
#
# Seen:
#   duckdb 1.5.6, pyarrow 26.0.1
#     FLOAT[3], a NULL row   9 values   duckdb: [[1.0, 2.0, 3.0], None, [4.0, 5.0, 6.0]]
#       pyarrow: ArrowInvalid: Length spanned by list offsets (8) larger than values array (length 6)
#     FLOAT[],  a NULL row   7 values   duckdb: [[1.0, 2.0, 3.0], None, [4.0, 5.0, 6.0]]
#       pyarrow: [[1.0, 2.0, 3.0], None, [4.0, 5.0, 6.0]]
#     FLOAT[3], no NULL      6 values   duckdb: [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]
#       pyarrow: [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]
#   duckdb 2.0.1, pyarrow 26.0.1
#     (the same six lines)
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
unset PYTHONPATH PYTHONHOME VIRTUAL_ENV
python3 -m venv venv
venv/bin/pip install -q pyarrow==26.0.1

cat > show.py <<'PY'
import sys

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

print(f"duckdb {duckdb.__version__}, pyarrow {pa.__version__}")
with_null = [[1.0, 2.0, 3.0], None, [4.0, 5.0, 6.0]]
full = [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]
failed = "ArrowInvalid: Length spanned by list offsets (8) larger than values array (length 6)"
changed = False
for name, kind, rows, count, by_pyarrow in (
    ("FLOAT[3], a NULL row", "FLOAT[3]", with_null, 9, failed),
    ("FLOAT[],  a NULL row", "FLOAT[]", with_null, 7, with_null),
    ("FLOAT[3], no NULL   ", "FLOAT[3]", full, 6, full),
):
    values = ", ".join(f"({i}, {'NULL' if row is None else row})" for i, row in enumerate(rows))
    duckdb.sql(f"SELECT i, v::FLOAT[3] AS v FROM (VALUES {values}) AS t(i, v)").create("t")
    duckdb.sql(f"COPY (SELECT v::{kind} AS v FROM t ORDER BY i) TO 'f.parquet' (FORMAT parquet)")
    duckdb.sql("DROP TABLE t")

    counted = pq.read_metadata("f.parquet").row_group(0).column(0).num_values
    own = [None if v is None else list(v) for (v,) in duckdb.sql("SELECT v FROM 'f.parquet'").fetchall()]
    try:
        other = pq.read_table("f.parquet")["v"].to_pylist()
    except pa.ArrowInvalid as error:
        other = f"ArrowInvalid: {error}"
    print(f"  {name}   {counted} values   duckdb: {own}\n    pyarrow: {other}")
    changed |= (counted, own, other) != (count, rows, by_pyarrow)
if changed:
    sys.exit("the behaviour has changed")
PY

for version in 1.5.6 2.0.1; do
    venv/bin/pip install -q "duckdb==$version"
    venv/bin/python show.py
done
