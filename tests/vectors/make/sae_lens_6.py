"""Dictionaries as SAELens 6 writes them.

pip install sae-lens==6.54.12 torch==2.13.0        (transformer-lens 3.9.0, transformers 5.24.0; Python 3.11)
"""

import torch
from keeping import Kept
from sae_lens import SAE, TrainingSAE
from sae_lens.training.activation_scaler import ActivationScaler

D_IN, D_SAE = 8, 12
ROWS = {"d_in": D_IN, "d_sae": D_SAE, "dtype": "float32", "device": "cpu"}


def metadata(hook_name: str = "blocks.8.hook_resid_post", **more) -> dict:
    return {"model_name": "gpt2-small", "hook_name": hook_name, "hook_head_index": None, "prepend_bos": True, **more}


def made(cls, architecture: str, facts: dict, **more):
    """A dictionary of random weights, its rows of different lengths."""
    config = {**ROWS, "architecture": architecture, **more, "metadata": facts}
    found = cls.from_dict(config)
    with torch.no_grad():
        for parameter in found.parameters():
            parameter.copy_(torch.randn(parameter.shape))
    return found


torch.manual_seed(0)
kept = Kept("sae_lens_6")
for name, architecture, more in (
    ("standard", "standard", {}),
    ("gated", "gated", {}),
    ("jumprelu", "jumprelu", {}),
    ("topk", "topk", {"k": 3}),
    ("abstopk", "abstopk", {"k": 3}),
    ("matching_pursuit", "matching_pursuit", {}),
):
    sae = made(SAE, architecture, metadata(), **more)
    sae.save_model(kept.case(name, sae.W_dec, layer=8, model="gpt2-small", tensors=sorted(sae.state_dict())))

sae = made(SAE, "standard", metadata("model.layers.3", model_class_name="AutoModelForCausalLM"))
sae.save_model(kept.case("transformers", sae.W_dec, layer=3, model="gpt2-small"))
sae = made(SAE, "standard", metadata("blocks.0.hook_resid_pre"))
sae.save_model(kept.case("before_block_0", sae.W_dec, layer=-1, model="gpt2-small"))
sae = made(SAE, "standard", metadata("blocks.5.attn.hook_z"), reshape_activations="hook_z")
sae.save_model(kept.case("hook_z"))
sae = made(SAE, "standard", metadata("blocks.5.hook_mlp_out"))
sae.save_model(kept.case("hook_mlp_out"))
facts = metadata("blocks.5.hook_mlp_in", hook_name_out="blocks.5.hook_mlp_out")
sae = made(SAE, "transcoder", facts, d_out=D_IN, apply_b_dec_to_input=False)
sae.save_model(kept.case("transcoder"))

# Checkpoints saved in mid-training: the rows are in whitened coordinates. SAELens itself says what they are in the
# stream's: what it folds into the weights once training has ended.
mixing = torch.randn(D_IN, D_IN, dtype=torch.float64)
scaler = ActivationScaler()
batches = iter(lambda: torch.randn(500, D_IN, dtype=torch.float64) @ mixing + 3, None)
scaler.estimate_whitening(D_IN, batches, n_batches_for_norm_estimate=4)
for name, architecture, more in (
    ("whitened", "standard", {}),
    ("whitened_batchtopk", "batchtopk", {"k": 3, "rescale_acts_by_decoder_norm": True}),
):
    sae = made(TrainingSAE, architecture, metadata(), normalize_activations="covariance_whitening", **more)
    folder = kept.folder / name
    sae.save_model(folder)
    scaler.save(str(folder / "activation_scaler.json"))
    raw = sae.W_dec.detach().clone()
    whitening = scaler.whitening
    sae.fold_activation_whitening(whitening.mean, whitening.matrix, whitening.inverse_matrix)
    cosine = torch.nn.functional.cosine_similarity(raw, sae.W_dec, dim=1).mean().item()
    kept.case(name, sae.W_dec, layer=8, model="gpt2-small", cosine_of_raw_rows=cosine)
kept.close()
