"""Tables of Ray Data: its tensors, widened to double by a row-wise map, and a column with one missing vector, which
becomes pickles of numpy arrays (refused; they run nothing but numpy's own).

    pip install ray==2.60.0 pyarrow==26.0.1 pandas==3.1.1 numpy==2.4.6
    python tests/vectors/make/ray_files.py
"""

import shutil
import tempfile
from pathlib import Path

import ray
from rows import IDS, NULL, expect, folder, rows

vectors, here = rows(), folder("ray")
ray.init(num_cpus=1, include_dashboard=False, object_store_memory=100 * 2**20)
plain = [{"row_id": one, "embedding": row} for one, row in zip(IDS, vectors, strict=True)]
missing = [one | {"embedding": None if at == NULL else one["embedding"]} for at, one in enumerate(plain)]


def widened(row: dict) -> dict:
    return row | {"embedding": row["embedding"].tolist()}


tables = {
    "tensor": ray.data.from_items(plain, override_num_blocks=1),
    "mapped": ray.data.from_items(plain, override_num_blocks=1).map(widened),
    "pickled": ray.data.from_items(missing, override_num_blocks=1),
}
for name, table in tables.items():
    into = Path(tempfile.mkdtemp())
    table.write_parquet(str(into))
    shutil.copy(next(into.rglob("*.parquet")), here / f"{name}.parquet")
expect("ray", {f"{name}.parquet": {"rows": vectors, "labels": IDS} for name in ("tensor", "mapped")})
