"""Tables of datasets: a Sequence of fixed length, a List of float64, an Array2D (refused).

pip install datasets==5.2.0
python tests/vectors/make/datasets_files.py
"""

import datasets
from datasets import Array2D, Features, List, Value
from rows import IDS, NULL, WIDTH, expect, folder, rows

vectors, here = rows(), folder("datasets")
cells = [None if at == NULL else row.tolist() for at, row in enumerate(vectors)]
expected = {}
single = {"fixed": List(Value("float32"), length=WIDTH), "list": List(Value("float64"))}
for name, kind in (single | {"square": Array2D((2, 3), "float32")}).items():
    made = cells if name in single else [row.reshape(2, 3).tolist() for row in vectors]
    features = Features({"id": Value("string"), "embedding": kind})
    table = datasets.Dataset.from_dict({"id": IDS, "embedding": made}, features=features)
    table.to_parquet(here / f"{name}.parquet")
    if name in single:
        expected[f"{name}.parquet"] = {"rows": vectors, "null": [NULL], "labels": IDS}
expect("datasets", expected)
print("datasets", datasets.__version__)
