"""Dictionaries as SAELens wrote them before version 6; run once in an environment of each.

pip install sae-lens==5.11.0 torch==2.13.0 "pyarrow<21"    (transformer-lens 2.18.0, numpy 1.26.4; Python 3.11)
pip install sae-lens==3.23.4 torch==2.13.0 "pyarrow<21"
"""

from importlib.metadata import version

import torch
from keeping import Kept
from sae_lens import SAE, SAEConfig

D_IN, D_SAE = 8, 12
CONFIG = {
    "d_in": D_IN,
    "d_sae": D_SAE,
    "dtype": "float32",
    "device": "cpu",
    "model_name": "gpt2-small",
    "hook_head_index": None,
    "activation_fn_str": "relu",
    "apply_b_dec_to_input": True,
    "finetuning_scaling_factor": False,
    "prepend_bos": True,
    "dataset_path": "Skylion007/openwebtext",
    "dataset_trust_remote_code": True,
    "context_size": 128,
    "normalize_activations": "none",
    "sae_lens_training_version": version("sae-lens"),
}

torch.manual_seed(0)
kept = Kept(f"sae_lens_{version('sae-lens').split('.')[0]}")
for name, architecture, hook, layer in (
    ("standard", "standard", "blocks.8.hook_resid_pre", 7),
    ("gated", "gated", "blocks.8.hook_resid_post", 8),
    ("mlp", "standard", "blocks.8.hook_mlp_out", None),
    ("heads", "standard", "blocks.8.attn.hook_z", None),
):
    settings = {**CONFIG, "architecture": architecture, "hook_name": hook, "hook_layer": 8}
    sae = SAE(SAEConfig.from_dict(settings))
    with torch.no_grad():
        for parameter in sae.parameters():
            parameter.copy_(torch.randn(parameter.shape))
    facts = {} if layer is None else {"layer": layer, "model": "gpt2-small", "directions": sae.W_dec}
    sae.save_model(str(kept.case(name, **facts)))
kept.close()
