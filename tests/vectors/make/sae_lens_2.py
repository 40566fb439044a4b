"""Dictionaries as SAELens 2 wrote them, which called a hook `hook_point`.

pip install sae-lens==2.1.3 torch==2.13.0 "pyarrow<21" typeguard    (transformer-lens 1.19.0, numpy 1.26.4; Python 3.11)
"""

import torch
from keeping import Kept
from sae_lens import LanguageModelSAERunnerConfig, SparseAutoencoder

torch.manual_seed(0)
kept = Kept("sae_lens_2")
for name, hook, layer in (
    ("standard", "blocks.8.hook_resid_pre", 7),
    ("after", "blocks.8.hook_resid_post", 8),
    ("mlp", "blocks.8.hook_mlp_out", None),
):
    config = LanguageModelSAERunnerConfig(
        model_name="gpt2-small",
        hook_point=hook,
        hook_point_layer=8,
        d_in=8,
        expansion_factor=2,
        dtype="torch.float32",  # its own default is refused by its own check
        log_to_wandb=False,
        wandb_id="none",
        checkpoint_path="checkpoints",
    )
    sae = SparseAutoencoder(config)
    with torch.no_grad():
        for parameter in sae.parameters():
            parameter.copy_(torch.randn(parameter.shape))
    facts = {} if layer is None else {"layer": layer, "model": "gpt2-small", "directions": sae.W_dec}
    sae.save_model(str(kept.case(name, **facts)))
kept.close()
