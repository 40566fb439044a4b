#!/usr/bin/env bash
# sae-lens 6.54.12
#
# Expected: SAE.load_from_disk(folder, converter=sparsify_disk_loader), which sae-lens has for folders that eai-sparsify
#           wrote, gives a dictionary whose W_dec is the file's.
# Happens:  it gives the transpose. Both tools keep W_dec as [latents, d_in]. Where latents and d_in differ, loading fails
#           on the shape; of a square dictionary it succeeds, and what is taken for feature i's direction is column i.
# Matters:  a square dictionary (as small ones in tests are) loads without a word, and each of its directions is a mixture
#           of all; of others the converter cannot be used at all.
#
# Seen: folders as eai-sparsify 1.3.3 writes them, loaded with the converter
#   sae-lens 6.54.12
#   square, 8 latents of 8: W_dec is the file's: False, the file's transposed: True
#   16 latents of 8: RuntimeError
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
unset PYTHONPATH PYTHONHOME VIRTUAL_ENV
export HF_HOME="$work/hf" HF_HUB_OFFLINE=1
python3 -m venv venv
venv/bin/pip install -q torch==2.13.0 sae-lens==6.54.12

venv/bin/python - <<'PY'
import json
import sys
from importlib.metadata import version
from pathlib import Path

import torch
from sae_lens import SAE
from sae_lens.loading import pretrained_sae_loaders as loaders
from safetensors.torch import save_file

print(f"sae-lens {version('sae-lens')}")


def written(latents, d_in):
    """A folder as sparsify lays it out, and its W_dec."""
    folder = Path(f"layers.3-{latents}") / "layers.3"
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    decoder = torch.randn(latents, d_in)
    save_file(
        {
            "W_dec": decoder,
            "b_dec": torch.zeros(d_in),
            "encoder.weight": torch.randn(latents, d_in),
            "encoder.bias": torch.zeros(latents),
        },
        folder / "sae.safetensors",
    )
    settings = {"d_in": d_in, "num_latents": latents, "expansion_factor": 1, "k": 2, "activation": "topk"}
    settings |= {"normalize_decoder": True, "multi_topk": False, "skip_connection": False}
    (folder / "cfg.json").write_text(json.dumps(settings))
    return folder, decoder


folder, decoder = written(8, 8)
loaded = SAE.load_from_disk(folder, converter=loaders.sparsify_disk_loader).W_dec.detach()
# Loaded in bfloat16.
same, turned = (torch.allclose(loaded.float(), one, rtol=2**-7) for one in (decoder, decoder.T))
print(f"square, 8 latents of 8: W_dec is the file's: {same}, the file's transposed: {turned}")
folder, _ = written(16, 8)
try:
    SAE.load_from_disk(folder, converter=loaders.sparsify_disk_loader)
    other = "loaded"
except RuntimeError as error:
    other = type(error).__name__
print(f"16 latents of 8: {other}")
sys.exit(0 if (same, turned, other) == (False, True, "RuntimeError") else "the behaviour has changed")
PY
