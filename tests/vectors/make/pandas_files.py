"""Tables of pandas: a column of float32 arrays, of float16 arrays, of lists of Python floats; each with a missing row.

    pip install pandas==3.1.1 pyarrow==26.0.1
    python tests/vectors/make/pandas_files.py
"""

import numpy as np
import pandas as pd
from rows import IDS, NULL, expect, folder, rows

vectors, here = rows(), folder("pandas")
expected = {}
for name, as_kind in (("float32", lambda row: row), ("float16", lambda row: row.astype(np.float16)), ("double", list)):
    cells = [None if at == NULL else as_kind(row) for at, row in enumerate(vectors.astype(np.float64 if name == "double" else np.float32))]
    frame = pd.DataFrame({"id": IDS, "embedding": cells})
    frame.to_parquet(here / f"{name}.parquet")
    expected[f"{name}.parquet"] = {"rows": vectors, "null": [NULL], "labels": IDS}
    if name == "double":
        frame.to_json(here / "lines.jsonl", orient="records", lines=True, double_precision=15)
        expected["lines.jsonl"] = expected["double.parquet"]
expect("pandas", expected)
print("pandas", pd.__version__)
