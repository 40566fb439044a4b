"""Sparse coders as sparsify of EleutherAI writes them.

pip install eai-sparsify==1.3.3 torch==2.13.0        (transformers 5.24.0; Python 3.11)

Folders are laid out as its trainer does: HOOKPOINT, with several seeds HOOKPOINT/seedN, the run's config.json above.
"""

import torch
from keeping import Kept
from sparsify.__main__ import RunConfig
from sparsify.config import SparseCoderConfig
from sparsify.sparse_coder import SparseCoder

D_IN = 8


def made(**settings) -> SparseCoder:
    coder = SparseCoder(D_IN, SparseCoderConfig(k=3, **settings))
    with torch.no_grad():
        coder.encoder.weight.normal_()
        coder.W_dec.normal_()
        if coder.cfg.normalize_decoder:
            coder.set_decoder_norm_to_unit_norm()
    return coder


torch.manual_seed(0)
kept = Kept("sparsify_1")
for name, layer, settings in (
    ("layers.5", 5, {"expansion_factor": 2}),  # num_latents stays 0
    ("h.3/seed0", 3, {"num_latents": 6}),
    ("h.3/seed1", 3, {"num_latents": 6, "normalize_decoder": False}),
    ("embed_tokens", -1, {"num_latents": 6}),
):
    coder = made(**settings)
    coder.save_to_disk(kept.case(name, coder.W_dec, layer=layer, model="EleutherAI/pythia-70m"))
for name, settings in (
    ("layers.5.mlp", {}),
    ("layers.6", {"transcode": True}),
    ("layers.7", {"skip_connection": True}),
):
    made(num_latents=6, **settings).save_to_disk(kept.case(name))
RunConfig(sae=SparseCoderConfig(), model="EleutherAI/pythia-70m").save_json(kept.folder / "config.json")
kept.close()
