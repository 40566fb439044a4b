#!/usr/bin/env bash
# peft 0.21.2 (transformers 5.23.0, torch 2.13.0)
#
# Expected: loading an adapter leaves the base's weights alone, so that with the adapter disabled, or unloaded, the
#           model's hidden states are those of the base; and an adapter saved and loaded is the same adapter.
# Happens:  if adapter_config.json says init_lora_weights "pissa" or "olora", PeftModel.from_pretrained, and
#           PeftModel(model, config) alike, run that initialisation again and subtract its product from the base's
#           weights, in place. disable_adapter() and unload() do not put them back, and no warning is given. With
#           "pissa_niter_4" the subtracted part comes from a random method, drawn anew at each load, while A and B come
#           from the file: the adapter that was saved is not the one that is loaded, even enabled.
#           See https://github.com/huggingface/peft/issues/2184.
# Matters:  "base against adapted" read from one model, by switching the adapter off, compares the adapter with a
#           damaged base, and every later user of that model object gets the damaged base too. Look at
#           init_lora_weights before loading an adapter, and take the base's states from a model of its own. (The base
#           here is tiny and random: the sizes below say that it happens, not how large it is in a trained one.)
#
# Seen: the greatest difference of the last hidden states (warnings: those that name the initialisation)
#   peft 0.21.2, greatest number 2.86
#   True           from_pretrained: disabled 0.00, unloaded 0.00, enabled against saved 0.00
#                  PeftModel(model, config): disabled 0.00   warnings 0
#   pissa          from_pretrained: disabled 1.41, unloaded 1.41, enabled against saved 0.00
#                  PeftModel(model, config): disabled 1.41   warnings 0
#   olora          from_pretrained: disabled 1.76, unloaded 1.76, enabled against saved 0.00
#                  PeftModel(model, config): disabled 1.76   warnings 0
#   pissa_niter_4  from_pretrained: disabled 1.12, unloaded 1.12, enabled against saved 0.48
#                  PeftModel(model, config): disabled 1.22   warnings 0
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
unset PYTHONPATH PYTHONHOME VIRTUAL_ENV
export HF_HOME="$work/hf" HF_HUB_OFFLINE=1
python3 -m venv venv
venv/bin/pip install -q torch==2.13.0 transformers==5.23.0 accelerate==1.15.0 peft==0.21.2

venv/bin/python - <<'PY'
import copy
import sys
import warnings

import peft
import torch
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

torch.manual_seed(0)
config = LlamaConfig(
    vocab_size=64,
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
)
base = LlamaForCausalLM(config).eval()


def states(model):
    with torch.no_grad():
        return model(torch.arange(5)[None], output_hidden_states=True).hidden_states[-1]


def apart(one, other):
    return (one - other).abs().max().item()


def fresh():
    return copy.deepcopy(base)


untouched = states(base)
print(f"peft {peft.__version__}, greatest number {untouched.abs().max().item():.2f}")
changed = False
for init in (True, "pissa", "olora", "pissa_niter_4"):
    lora = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=init, task_type="CAUSAL_LM")
    made = get_peft_model(fresh(), lora).eval()
    made.save_pretrained("adapter")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        loaded = PeftModel.from_pretrained(fresh(), "adapter").eval()
        from_config = PeftModel(fresh(), PeftConfig.from_pretrained("adapter")).eval()
    told = [str(w.message) for w in told if init is not True and init[:5] in str(w.message).lower()]

    enabled = apart(states(loaded), states(made))
    with loaded.disable_adapter():
        disabled = apart(states(loaded), untouched)
    with from_config.disable_adapter():
        disabled_config = apart(states(from_config), untouched)
    unloaded = apart(states(loaded.unload()), untouched)
    print(
        f"{init!s:13}  from_pretrained: disabled {disabled:.2f}, unloaded {unloaded:.2f}, enabled against saved "
        f"{enabled:.2f}\n{'':13}  PeftModel(model, config): disabled {disabled_config:.2f}   warnings {len(told)}"
    )
    damaged = [d > 0.01 for d in (disabled, unloaded, disabled_config)]
    changed |= damaged != [init is not True] * 3
    changed |= (enabled > 0.01) != (init == "pissa_niter_4")
    changed |= bool(told)
if changed:
    sys.exit("the behaviour has changed")
PY
