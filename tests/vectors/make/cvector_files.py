"""A control vector as llama.cpp's cvector-generator writes it: it is built with llama.cpp, not installed, so its
layout is written here from its source (tools/cvector-generator): the hint is the GGUF architecture, layer_count INT32,
direction.1 to direction.n ascending, of which N is the output of block N − 1. Mistral is "llama" there.

    pip install gguf==0.19.0 numpy
    python tests/vectors/make/cvector_files.py
"""

import gguf
import numpy as np
from rows import expect, folder, rows

here, vectors = folder("cvector"), rows(seed=5, count=4, width=8)
vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
expected = {}
for name, hint in (("llama", "llama"), ("qwen2moe", "qwen2moe")):
    writer = gguf.GGUFWriter(here / f"{name}.gguf", "controlvector")
    writer.add_string("controlvector.model_hint", hint)
    writer.add_int32("controlvector.layer_count", len(vectors))
    for number, row in enumerate(vectors, 1):
        writer.add_tensor(f"direction.{number}", row)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    labels = [f"direction.{number}" for number in range(1, 5)]
    expected[f"{name}.gguf"] = {"rows": vectors, "labels": labels, "layers": [0, 1, 2, 3]}
expect("cvector", expected)
