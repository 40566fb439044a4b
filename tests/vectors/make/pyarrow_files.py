"""Tables of pyarrow: fixed-size lists with nulls in two row groups, and tensors (fixed_shape_tensor).

pip install pyarrow==26.0.1
python tests/vectors/make/pyarrow_files.py
"""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rows import IDS, NULL, WIDTH, expect, folder, rows

vectors, here = rows(), folder("pyarrow")
cells = [None if at == NULL else row.tolist() for at, row in enumerate(vectors)]
fixed = pa.array(cells, pa.list_(pa.float32(), WIDTH))
layers = pa.array([3, 3, None, 4, 4], pa.int64())
table = pa.table(
    {"name": IDS, "activation_layer": layers, "activation_model": ["ada/base"] * 5, "activation_vector": fixed}
)
pq.write_table(table, here / "fixed.parquet", row_group_size=2)
tensors = pa.FixedShapeTensorArray.from_numpy_ndarray(np.ascontiguousarray(vectors))
pq.write_table(pa.table({"row_id": list(range(10, 15)), "tensor": tensors}), here / "tensor.parquet")
square = pa.FixedShapeTensorArray.from_numpy_ndarray(np.ascontiguousarray(vectors.reshape(5, 2, 3)))
pq.write_table(pa.table({"tensor": square}), here / "square.parquet")
expect(
    "pyarrow",
    {
        "fixed.parquet": {"rows": vectors, "null": [NULL], "labels": IDS, "layers": [3, 3, None, 4, 4]},
        "tensor.parquet": {"rows": vectors, "labels": [str(one) for one in range(10, 15)]},
    },
)
print("pyarrow", pa.__version__)
