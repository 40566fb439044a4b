"""What nnsight saves: a block's output of a left-padded batch, and `output[0]` of it, which is the first prompt only.

pip install torch==2.13.0 nnsight==0.8.1 transformers==5.24.0
python tests/vectors/make/nnsight_files.py
"""

import torch
from nnsight import LanguageModel
from rows import expect, folder
from safetensors.torch import save_file
from small import llama, tokenizer

here = folder("nnsight")
model = LanguageModel(llama(), tokenizer=tokenizer())
with model.trace(["the cat", "the happy bird flew"]):
    batch = model.model.layers[1].output.save()
    first = model.model.layers[1].output[0].save()
batch, first = batch.detach(), first.detach()
torch.save(batch, here / "batch.pt")
save_file({"hidden": first.contiguous()}, here / "first.safetensors")
texts, tokens = batch.shape[:2]
expect(
    "nnsight",
    {
        "batch.pt": {
            "rows": batch.flatten(0, 1).numpy(),
            "labels": [f"text {text}, token {token}" for text in range(texts) for token in range(tokens)],
        },
        "first.safetensors": {
            "rows": batch[0].numpy(),
            "labels": [f"text 0, token {token}" for token in range(tokens)],
        },
    },
)
