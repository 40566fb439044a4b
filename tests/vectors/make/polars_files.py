"""Tables of polars: Array (fixed-size lists) and List (large lists), each with a null.

pip install polars==2.1.0
python tests/vectors/make/polars_files.py
"""

import polars as pl
from rows import IDS, NULL, WIDTH, expect, folder, rows

vectors, here = rows(), folder("polars")
cells = [None if at == NULL else row.tolist() for at, row in enumerate(vectors)]
expected = {}
for name, kind in (("array", pl.Array(pl.Float32, WIDTH)), ("list", pl.List(pl.Float64))):
    frame = pl.DataFrame({"label": IDS, "vector": pl.Series(cells, dtype=kind)})
    frame.write_parquet(here / f"{name}.parquet")
    expected[f"{name}.parquet"] = {"rows": vectors, "null": [NULL], "labels": IDS}
expect("polars", expected)
print("polars", pl.__version__)
