"""Dictionaries in the layouts of Gemma Scope and Gemma Scope 2, written by hand: no package writes them.

pip install numpy==2.4.6 safetensors==0.8.0        (Python 3.11)

Names, paths and keys are those of the repositories, as sae-lens 6.54.12 reads them (loading/pretrained_sae_loaders.py).
"""

import json

import numpy as np
from keeping import Kept
from safetensors.numpy import save_file

D_IN, D_SAE = 8, 12
random = np.random.default_rng(0)


def weights(upper: bool = True, d_in: int = D_IN, d_sae: int = D_SAE) -> dict[str, np.ndarray]:
    shapes = {
        "w_enc": (d_in, d_sae),
        "w_dec": (d_sae, d_in),
        "b_enc": (d_sae,),
        "b_dec": (d_in,),
        "threshold": (d_sae,),
    }
    made = {name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    return {name.replace("w_", "W_") if upper else name: array for name, array in made.items()}


kept = Kept("gemma_scope")
for name, layer, model in (
    ("gemma-scope-2b-pt-res/layer_12/width_16k/average_l0_82", 12, "google/gemma-2-2b"),
    ("gemma-scope-9b-it-res/layer_9/width_16k/average_l0_88", 9, "google/gemma-2-9b-it"),
    ("gemma-scope-2b-pt-res/embedding/width_4k/average_l0_6", -1, "google/gemma-2-2b"),
    ("gemma-scope-2b-pt-att/layer_12/width_16k/average_l0_41", None, None),
    ("gemma-scope-2b-pt-mlp/layer_12/width_16k/average_l0_60", None, None),
    ("gemma-scope-2b-pt-transcoders/layer_12/width_16k/average_l0_6", None, None),
):
    held = weights()
    # Gemma multiplies an embedding by √d_model before the first block; these are of embeddings before that.
    directions = held["W_dec"].astype(np.float64) * (np.sqrt(D_IN) if "/embedding/" in name else 1)
    facts = {"layer": layer, "model": model, "directions": directions} if model else {}
    folder = kept.case(name, **facts)
    folder.mkdir(parents=True)
    np.savez(folder / "params.npz", **held)

for name, layer, hooks, shape in (
    ("gemma-scope-2-1b-it/resid_post/layer_13_width_16k_l0_small", 13, ("output", "output"), None),
    ("gemma-scope-2-270m-pt/resid_post_all/layer_5_width_16k_l0_big", 5, ("output", "output"), None),
    ("gemma-scope-2-1b-it/attn_out/layer_13_width_16k_l0_small", None, ("self_attn.o_proj.input",) * 2, None),
    ("gemma-scope-2-1b-it/mlp_out/layer_13_width_16k_l0_small", None, ("post_feedforward_layernorm.output",) * 2, None),
    (
        "gemma-scope-2-1b-it/transcoder/layer_13_width_16k_l0_small_affine",
        None,
        ("pre_feedforward_layernorm.output", "post_feedforward_layernorm.output"),
        None,
    ),
    ("gemma-scope-2-1b-it/clt/width_262k_l0_medium_affine", None, ("output", "output"), (D_SAE, 3, D_IN)),
):
    held = weights(upper=False)
    if shape:
        held["w_dec"] = random.normal(size=shape).astype(np.float32)
    repository = name.split("/")[0]
    model = repository.replace("gemma-scope-2", "google/gemma-3").replace("270m-pt", "270m")
    facts = {"layer": layer, "model": model, "directions": held["w_dec"]} if layer else {}
    folder = kept.case(name, **facts)
    folder.mkdir(parents=True)
    block = layer or 13
    config = {
        "hf_hook_point_in": f"model.layers.{block}.{hooks[0]}",
        "hf_hook_point_out": f"model.layers.{block}.{hooks[1]}",
        "width": D_SAE,
        "model_name": repository.replace("gemma-scope-2", "gemma-v3"),
        "architecture": "jump_relu",
        "l0": 20,
        "affine_connection": name.endswith("affine"),
        "type": "transcoder" if "transcoder" in name else "sae",
    }
    (folder / "config.json").write_text(json.dumps(config))
    save_file({key: np.ascontiguousarray(array) for key, array in held.items()}, folder / "params.safetensors")
kept.close()
