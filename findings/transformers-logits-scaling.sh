#!/usr/bin/env bash
# transformers 5.23.0 (torch 2.13.0)
#
# Expected: a config key named logits_scaling does the same to the logits in every model class that has it.
# Happens:  Granite divides the logits by it, HyperCLOVAX multiplies them by it. With the same 4.0 in both configs the
#           logits are lm_head(state) / 4 in one and lm_head(state) * 4 in the other. HyperCLOVAX's own documentation
#           says so; the name and the default, 1.0, which hides it, do not.
# Matters:  whoever reads logits off a hidden state (a logit lens, a patched or decoded activation put back through
#           lm_head) and handles logits_scaling by its name is wrong by its square for one of the two: same ranking of
#           tokens, other probabilities, entropies, KL and cross-entropy. Compare once with the model's own logits.
#
# Seen:
#   transformers 5.23.0
#   granite       logits_scaling 4.0   logits / lm_head(last state) = 0.25
#   hyperclovax   logits_scaling 4.0   logits / lm_head(last state) = 4.0
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
from transformers import AutoConfig, AutoModelForCausalLM

print(f"transformers {transformers.__version__}")
changed = False
for kind, expected in (("granite", 0.25), ("hyperclovax", 4.0)):
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        kind,
        vocab_size=64,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        logits_scaling=4.0,
    )
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        out = model(torch.arange(5)[None], output_hidden_states=True)
        read = model.lm_head(out.hidden_states[-1])
    ratio = (out.logits.norm() / read.norm()).item()
    print(f"{kind:13} logits_scaling {config.logits_scaling}   logits / lm_head(last state) = {round(ratio, 4)}")
    changed |= not torch.allclose(out.logits, read * expected, rtol=1e-4, atol=1e-5)
if changed:
    sys.exit("the behaviour has changed")
PY
