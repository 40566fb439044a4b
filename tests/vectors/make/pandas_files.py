"""Tables of pandas: a column of float32 arrays, of float16 arrays, of lists of Python floats; each with a missing row.

pip install pandas==3.1.1 pyarrow==26.0.1
python tests/vectors/make/pandas_files.py
"""

import numpy as np
import pandas as pd
from rows import IDS, NULL, expect, folder, rows

vectors, here = rows(), folder("pandas")
expected = {}
kinds = {"float32": list(vectors), "float16": list(vectors.astype(np.float16)), "double": vectors.tolist()}
for name, cells in kinds.items():
    cells[NULL] = None
    frame = pd.DataFrame({"id": IDS, "embedding": cells})
    frame.to_parquet(here / f"{name}.parquet")
    expected[f"{name}.parquet"] = {"rows": vectors, "null": [NULL], "labels": IDS}
    if name == "double":
        frame.to_json(here / "lines.jsonl", orient="records", lines=True, double_precision=15)
        expected["lines.jsonl"] = dict(expected["double.parquet"])
expect("pandas", expected)
print("pandas", pd.__version__)
