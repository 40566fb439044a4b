#!/usr/bin/env bash
# pyarrow 26.0.1 (numpy 2.4.6)
#
# Expected: a column of vectors of one length, list_(float32, 3), turned flat and reshaped to (-1, 3), has one row for
#           each row of the column, whichever of the two ways is taken: .flatten() or .values.
# Happens:  .flatten() leaves out the slots of a null row, so every later row moves up by one. .values keeps them, but
#           ignores a slice: the slice's rows are not the first ones, nor are there as many. Neither raises. Both are
#           documented; that each is right only where the other is wrong is what surprises.
# Matters:  vectors joined by position to their tokens, labels or row ids are silently joined to the wrong ones; with
#           .values a filtered-by-slice or batched table gives the whole chunk again for every batch. Drop null rows
#           from the ids and the vectors alike (table.filter, on is_valid of the column), then use .flatten().
#
# Seen:
#   pyarrow 26.0.1
#   column      [[1.0, 2.0, 3.0], None, [7.0, 8.0, 9.0]], ids [0, 1, 2]
#   flatten()   [[1.0, 2.0, 3.0], [7.0, 8.0, 9.0]]   so row 1 is that of id 2
#   values      [[1.0, 2.0, 3.0], [nan, nan, nan], [7.0, 8.0, 9.0]]
#   column[2:]  [[7.0, 8.0, 9.0]]
#   flatten()   [[7.0, 8.0, 9.0]]
#   values      [[1.0, 2.0, 3.0], [nan, nan, nan], [7.0, 8.0, 9.0]]   so row 0 is that of id 0
#   filtered    ids [0, 2] flatten() [[1.0, 2.0, 3.0], [7.0, 8.0, 9.0]]
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
unset PYTHONPATH PYTHONHOME VIRTUAL_ENV
python3 -m venv venv
venv/bin/pip install -q pyarrow==26.0.1 numpy==2.4.6

venv/bin/python - <<'PY'
import sys

import pyarrow as pa
import pyarrow.compute as pc


def rows(flat):
    return flat.to_numpy(zero_copy_only=False).reshape(-1, 3).tolist()


column = pa.array([[1, 2, 3], None, [7, 8, 9]], pa.list_(pa.float32(), 3))
tail = column[2:]
table = pa.table({"id": [0, 1, 2], "v": column})
table = table.filter(pc.field("v").is_valid())
ids, kept = table["id"].to_pylist(), rows(table["v"].combine_chunks().flatten())

print(f"pyarrow {pa.__version__}")
print(f"column      {column.to_pylist()}, ids [0, 1, 2]")
print(f"flatten()   {rows(column.flatten())}   so row 1 is that of id 2")
print(f"values      {rows(column.values)}")
print(f"column[2:]  {tail.to_pylist()}")
print(f"flatten()   {rows(tail.flatten())}")
print(f"values      {rows(tail.values)}   so row 0 is that of id 0")
print(f"filtered    ids {ids} flatten() {kept}")

same = (
    rows(column.flatten()) == [[1, 2, 3], [7, 8, 9]]
    and len(rows(column.values)) == 3
    and rows(tail.flatten()) == [[7, 8, 9]]
    and len(rows(tail.values)) == 3
    and rows(tail.values)[0] == [1, 2, 3]
    and ids == [0, 2]
    and kept == [[1, 2, 3], [7, 8, 9]]
)
if not same:
    sys.exit("the behaviour has changed")
PY
