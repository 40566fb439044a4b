"""Tensors of torch: by name in its old format, one of bfloat16, a list of them.

pip install torch==2.13.0 numpy==2.4.6
python tests/vectors/make/torch_files.py
"""

import torch
from rows import expect, folder, rows

vectors, here = rows(), folder("torch")
tensor = torch.from_numpy(vectors)
torch.save({"probe": tensor, "layer": 12}, here / "old.pt", _use_new_zipfile_serialization=False)
torch.save(tensor.bfloat16(), here / "bfloat16.pt")
torch.save(list(tensor), here / "list.pt")
expect(
    "torch",
    {
        "old.pt": {"rows": vectors},
        "bfloat16.pt": {"rows": tensor.bfloat16().float().numpy()},
        "list.pt": {"rows": vectors, "labels": ["0", "1", "2", "3", "4"]},
    },
)
