#!/usr/bin/env bash
# torch 2.13.0, transformers 5.23.0
#
# Expected: model(ids, logits_to_keep=1), which generate() passes too, saves the lm_head's work for all tokens but the
#           last: one product of [rows, d] with the lm_head.
# Happens:  the lm_head gets a slice [rows, 1, d] of the states, which is not contiguous. If its weight needs no
#           gradient, as in a model that was frozen for inference, torch.nn.functional.linear makes a batched product
#           (aten::bmm) of it, the weight expanded to every row: on a CPU the whole lm_head is read from memory once for
#           each row. With a weight that needs a gradient it is one aten::mm, under no_grad too; so is a contiguous
#           copy of the slice (a few kilobytes). The numbers are the same. Freezing a model makes it slower.
# Matters:  with an lm_head of 262,144 x 640 in float32 and 32 rows on two cores the first token of a batch took 1.5 s in
#           place of 0.16 s, as much as ten later ones; in bfloat16 29.8 s in place of 0.03 s. Later steps have one token,
#           whose slice is contiguous.
#
# Seen: products that the lm_head of a tiny Llama is computed by, 4 rows of 3 tokens
#   torch 2.13.0, transformers 5.23.0
#   logits_to_keep=1: aten::mm
#   logits_to_keep=1, frozen: aten::bmm
#   all logits, frozen: aten::mm
#   one token, frozen: aten::mm
#   contiguous copy of the slice, frozen: aten::mm, largest difference 0 or what float32 rounds
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
unset PYTHONPATH PYTHONHOME VIRTUAL_ENV
export HF_HOME="$work/hf" HF_HUB_OFFLINE=1
python3 -m venv venv
venv/bin/pip install -q torch==2.13.0 transformers==5.23.0

venv/bin/python - <<'PY'
import sys

import torch
import transformers
from torch.profiler import ProfilerActivity, profile

print(f"torch {torch.__version__.partition('+')[0]}, transformers {transformers.__version__}")
torch.manual_seed(0)
sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 50}
model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes)).eval()
head = model.lm_head.forward
seen = {}


def products(states):
    """The lm_head's call, and by which product it was made."""
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        logits = head(states)
    seen["by"] = " ".join(sorted(e.key for e in profiled.key_averages() if e.key in ("aten::mm", "aten::bmm")))
    seen["states"] = states
    return logits


model.lm_head.forward = products
ids = torch.arange(12).view(4, 3)
found = {}
with torch.no_grad():
    model(input_ids=ids, logits_to_keep=1)
    found["logits_to_keep=1"] = seen["by"]
    model.requires_grad_(False)
    sliced = model(input_ids=ids, logits_to_keep=1).logits[:, -1]
    found["logits_to_keep=1, frozen"], states = seen["by"], seen["states"]
    model(input_ids=ids)
    found["all logits, frozen"] = seen["by"]
    model(input_ids=ids[:, :1], logits_to_keep=1)
    found["one token, frozen"] = seen["by"]
    again = products(states.contiguous())[:, -1]
    found["contiguous copy of the slice, frozen"] = seen["by"]
for name, by in found.items():
    print(f"{name}: {by}")
difference = (again - sliced).abs().max().item()
print(f"largest difference {difference:.1e}")
expected = ["aten::mm", "aten::bmm", "aten::mm", "aten::mm", "aten::mm"]
sys.exit(0 if list(found.values()) == expected and difference < 1e-5 else "the behaviour has changed")
PY
