"""Arrays of numpy: .npy of each type that vectors come in, |V2 (bfloat16 of ml_dtypes) among them, and an archive.

pip install numpy==2.4.6 ml_dtypes==0.6.0
python tests/vectors/make/numpy_files.py
"""

import ml_dtypes
import numpy as np
from rows import expect, folder, rows

vectors, here = rows(), folder("numpy")
bfloat16 = vectors.astype(ml_dtypes.bfloat16)
np.save(here / "float16.npy", vectors.astype(np.float16))
np.save(here / "columns.npy", np.asfortranarray(vectors.astype(">f8")))  # Fortran's order, the other byte order
np.save(here / "bfloat16.npy", bfloat16)
np.savez(here / "named.npz", probe=vectors[0], mean=vectors[1])
np.savez_compressed(here / "several.npz", W_dec=vectors, b_dec=vectors[0], ids=np.arange(5))
expect(
    "numpy",
    {
        "float16.npy": {"rows": vectors},
        "columns.npy": {"rows": vectors},
        "bfloat16.npy": {"rows": bfloat16.astype(np.float32)},
        "named.npz": {"rows": vectors[:2], "labels": ["probe", "mean"]},
        "several.npz": {"rows": vectors},
    },
)
print("numpy", np.__version__, "ml_dtypes", ml_dtypes.__version__)
