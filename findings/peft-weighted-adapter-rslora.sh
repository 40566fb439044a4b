#!/usr/bin/env bash
# peft 0.21.2 (torch 2.13.0, transformers 5.23.0)
#
# Expected: add_weighted_adapter(["sft", "rl"], [1.0, 1.0], "one", combination_type="cat") makes one adapter that does
#           what the two do together (and so does "svd", up to what its rank holds); whatever scaling they have is
#           multiplied into their tensors.
# Happens:  it is so for plain LoRA. Of rank-stabilised ones (use_rslora=True, scaling alpha/sqrt(r)) the scalings are
#           multiplied in too, but the new adapter's config gets lora_alpha = r for a scaling of 1 and keeps
#           use_rslora=True, which makes alpha/sqrt(r) = sqrt(r) of it: the result is sqrt(r of the new one) times too
#           strong, without a warning. merge_and_unload(adapter_names=["sft", "rl"]), and both active together, are
#           right. See https://github.com/huggingface/peft/issues/3761.
# Matters:  verbalizers of the nanoNLA line are rank-stabilised at r=128 and come as an SFT adapter with an RL adapter
#           over it: made into one this way, r is 256 and the update 16 times too strong. Keep both active, or merge.
#
# Seen: norm of the update of "one" over that of both updates together, rank 4 each
#   peft 0.21.2
#   use_rslora=False  cat 1.0000  svd 1.0000  both active 1.0000  merged 1.0000
#   use_rslora=True   cat 2.8284  svd 2.8284  both active 1.0000  merged 1.0000
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
unset PYTHONPATH PYTHONHOME VIRTUAL_ENV
export HF_HOME="$work/hf" HF_HUB_OFFLINE=1
python3 -m venv venv
venv/bin/pip install -q torch==2.13.0 transformers==5.23.0 accelerate==1.15.0 peft==0.21.2

venv/bin/python - <<'PY'
import math
import sys

import peft
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

WIDTH, RANK, ALPHA = 32, 4, 8


def two_adapters(rslora):
    """A Linear with two adapters, and what both add to its weight by hand."""
    torch.manual_seed(0)
    settings = {"r": RANK, "lora_alpha": ALPHA, "target_modules": ["0"], "use_rslora": rslora}
    model = get_peft_model(nn.Sequential(nn.Linear(WIDTH, WIDTH, bias=False)), LoraConfig(**settings), adapter_name="sft")
    model.add_adapter("rl", LoraConfig(**settings))
    layer = model.base_model.model[0]
    for name in ("sft", "rl"):
        nn.init.normal_(layer.lora_B[name].weight)
    scaling = ALPHA / (math.sqrt(RANK) if rslora else RANK)
    update = sum(scaling * layer.lora_B[name].weight @ layer.lora_A[name].weight for name in ("sft", "rl"))
    return model, layer.base_layer.weight.detach().clone(), update.detach()


def ratio(model, weight, update):
    """Norm of what the model adds to the plain layer, over the norm of `update`."""
    with torch.no_grad():
        return float((model(torch.eye(WIDTH)).T - weight).norm() / update.norm())


print("peft", peft.__version__)
seen = {}
for rslora in (False, True):
    found = {}
    for kind, options in (("cat", {}), ("svd", {"svd_rank": 2 * RANK})):
        model, weight, update = two_adapters(rslora)
        model.add_weighted_adapter(["sft", "rl"], [1.0, 1.0], "one", combination_type=kind, **options)
        model.set_adapter("one")
        found[kind] = ratio(model, weight, update)
    model, weight, update = two_adapters(rslora)
    model.base_model.set_adapter(["sft", "rl"])
    found["both active"] = ratio(model, weight, update)
    found["merged"] = ratio(model.merge_and_unload(adapter_names=["sft", "rl"]), weight, update)
    print(f"use_rslora={rslora!s:5}", *(f" {name} {value:.4f}" for name, value in found.items()))
    seen[rslora] = {name: round(value, 3) for name, value in found.items()}

right = {"cat": 1.0, "svd": 1.0, "both active": 1.0, "merged": 1.0}
wrong = round(math.sqrt(2 * RANK), 3)
sys.exit(seen != {False: right, True: right | {"cat": wrong, "svd": wrong}})
PY
