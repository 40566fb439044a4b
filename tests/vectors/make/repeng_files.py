"""Control vectors of repeng: trained on five pairs of texts; a sum of two, which is not of unit length.

pip install torch==2.13.0 repeng==0.4.0 "numpy<2" transformers==5.24.0
python tests/vectors/make/repeng_files.py
"""

import numpy as np
from repeng import ControlVector, DatasetEntry
from rows import expect, folder
from small import NEGATIVE, POSITIVE, llama, tokenizer

here = folder("repeng")
pairs = [DatasetEntry(positive=one, negative=other) for one, other in zip(POSITIVE, NEGATIVE, strict=True)]
vector = ControlVector.train(llama(), tokenizer(), pairs, batch_size=1)
other = ControlVector.train(llama(), tokenizer(), pairs, batch_size=1, method="pca_center")
expected = {}
for name, made in (("happy", vector), ("sum", vector + other * 1.5)):
    made.export_gguf(here / f"{name}.gguf")
    expected[f"{name}.gguf"] = {
        "rows": np.stack(list(made.directions.values())).astype(np.float32),
        "labels": [f"direction.{layer}" for layer in made.directions],
        "layers": list(made.directions),  # direction.N is of hidden_states[N + 1]
    }
expect("repeng", expected)
