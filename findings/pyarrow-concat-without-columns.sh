#!/usr/bin/env bash
# pyarrow 26.0.1
#
# Expected: pyarrow.concat_tables gives as many rows as its tables have together. A table keeps its number of rows when
#           its last column goes: pa.table({"a": [1, 2]}).select([]) has two.
# Happens:  of tables that all have no columns the result has 0 rows. Beside one table with columns their rows count, as
#           nulls.
# Matters:  lines of JSON that are all {} make such tables. Joined first by themselves, their rows vanish, and each row
#           behind them moves up to another row's number; joined at once with the rest they stay.
#
# Seen:
#   pyarrow 26.0.1
#   one table of 2 rows: 0
#   two of 2 rows: 0
#   one of 2 rows, beside 3 rows with a column: 5
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
unset PYTHONPATH PYTHONHOME VIRTUAL_ENV
python3 -m venv venv
venv/bin/pip install -q pyarrow==26.0.1

venv/bin/python - <<'PY'
import sys

import pyarrow as pa

print(f"pyarrow {pa.__version__}")
bare = pa.table({"a": [1, 2]}).select([])
assert bare.num_rows == 2
tables = {
    "one table of 2 rows": [bare],
    "two of 2 rows": [bare, bare],
    "one of 2 rows, beside 3 rows with a column": [bare, pa.table({"a": [3, 4, 5]})],
}
found = {name: pa.concat_tables(given, promote_options="permissive").num_rows for name, given in tables.items()}
for name, rows in found.items():
    print(f"{name}: {rows}")
sys.exit(0 if list(found.values()) == [0, 0, 5] else "the behaviour has changed")
PY
