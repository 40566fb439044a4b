"""A steering vector of steering-vectors, which is saved as a pickle (refused), and what our message exports it to.

pip install torch==2.13.0 steering-vectors==0.12.2 transformers==4.57.6
python tests/vectors/make/steering_vectors_files.py
"""

import pickle

import numpy as np
import torch
from rows import expect, folder
from safetensors.torch import save_file
from small import NEGATIVE, POSITIVE, llama, tokenizer
from steering_vectors import train_steering_vector

here = folder("steering_vectors")
pairs = list(zip(POSITIVE, NEGATIVE, strict=True))
vector = train_steering_vector(llama(), tokenizer(), pairs, batch_size=1)
torch.save(vector, here / "torch.pt")
with (here / "plain.pkl").open("wb") as file:
    pickle.dump(vector, file)
# As the refusal says.
v = torch.load(here / "torch.pt", weights_only=False)
save_file(
    {f"{v.layer_type}.{k}": t.contiguous() for k, t in v.layer_activations.items()}, here / "exported.safetensors"
)
layers = sorted(vector.layer_activations)
expect(
    "steering_vectors",
    {
        "exported.safetensors": {
            "rows": np.stack([vector.layer_activations[layer].float().numpy() for layer in layers]),
            "labels": [f"{vector.layer_type}.{layer}" for layer in layers],
            "layers": layers,
        }
    },
)
