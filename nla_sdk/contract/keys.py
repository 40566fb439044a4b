"""The keys of a contract: what each attribute is written under, and what other people's files call it."""

from __future__ import annotations

WRITTEN_BLOCKS = {
    "injection": ("site", "block", "rule", "norm", "scale", "coefficient", "markers", "layers"),
    "output": ("form", "stop", "temperature", "top_p", "top_k", "no_repeats"),
    "ar": (
        *("bos", "final_norm", "state", "position", "prompt_style", "truncation"),
        *("heads", "head_file", "head_key", "target"),
    ),
    "weights": ("kind", "adapters", "parent", "rslora", "alpha"),
}
# The key that an attribute is written under, where that is one of a block; the others are written by their own name.
WRITTEN = {f"{block}_{leaf}": f"{block}.{leaf}" for block, leaves in WRITTEN_BLOCKS.items() for leaf in leaves}
INJECTION = tuple(f"injection_{leaf}" for leaf in WRITTEN_BLOCKS["injection"])

# What other files call an attribute; "block.key" is a key inside a block. The key it is written under (`written_as`)
# and the attribute's own name, at the top level, are always read too.
DIALECTS: dict[str, tuple[str, ...]] = {
    "base_model": ("base_checkpoint", "extraction.base_model"),
    "d_model": ("extraction.d_model",),
    "layer": ("extraction.layer", "extraction.layer_index", "extraction_layer_index"),
    "injection_norm": ("training.injection_mode",),  # nla-at-home: normalize to the scale, or multiply by it
    "injection_scale": ("extraction.injection_scale",),
    "mse_scale": ("extraction.mse_scale",),
    "injection_char": ("tokens.injection_char", "extraction.injection_char"),
    "injection_token_id": ("tokens.injection_token_id", "extraction.injection_token_id"),
    "injection_left_neighbor_id": ("tokens.injection_left_neighbor_id", "extraction.injection_left_neighbor_id"),
    "injection_right_neighbor_id": ("tokens.injection_right_neighbor_id", "extraction.injection_right_neighbor_id"),
    "critic_suffix_ids": ("tokens.critic_suffix_ids", "extraction.critic_suffix_ids"),
    "av_template": ("prompt_templates.av", "prompt_templates.actor"),
    "ar_template": ("prompt_templates.ar", "prompt_templates.critic"),
    "ar_num_blocks": ("ar.blocks", "ar.num_hidden_layers", "critic.num_hidden_layers", "critic.extraction_layer_index"),
    "head_bias": ("ar.bias",),
}
