"""The sidecars of an exported pair: the reference's nested keys with plain numbers, and beside them what we read."""

from __future__ import annotations

from typing import Any

from ..contract import Contract
from ..model.statistics.states import STATISTICS_FILE

MEAN_FILE = "activation_mean.safetensors"
# Facts of ours that a reader of the reference layout skips, kept for what they say to this SDK and to people.
_KEPT = {
    "av": ("layers", "source_model", "base_revision", "max_new_tokens", "extraction_precision", "baseline_mse")
    + ("output_form", "output_stop", "output_temperature", "output_top_p", "output_top_k")
    + ("output_no_repeats", "centred_norm"),
    "ar": ("layers", "source_model", "base_revision", "max_length", "extraction_precision", "baseline_mse")
    + ("ar_state", "ar_truncation", "ar_target", "centred_norm"),
}


def sidecar(
    contract: Contract,
    av: Contract | None,
    ar: Contract | None,
    *,
    scale: float | None,
    blocks: int | None,
    bos: bool,
    provenance: dict[Any, Any],
) -> dict[str, Any]:
    """What stands in a half's `nla_meta.yaml`.

    Args:
        contract: the half's own, verified.
        av, ar: those of both halves, as far as they are there: the layout names both templates in each file.
        scale: the norm that a vector gets; None: nobody knows the AV's.
        blocks: that the AR's checkpoint has; of them the layout counts all but one.
        bos: whether the tokenizer has a BOS.
        provenance: how it was made.
    """
    templates = {"av": av and av.av_template, "ar": (ar and ar.ar_template) or contract.ar_template}
    names = [f"injection_{name}" for name in ("char", "token_id", "left_neighbor_id", "right_neighbor_id")]
    tokens = {name: getattr(av, name) for name in names if av is not None}
    if ar is not None:
        tokens["critic_suffix_ids"] = ar.critic_suffix_ids
    found: dict[str, Any] = {
        "kind": "nla_model",
        "role": contract.role,
        "base_model": contract.base_model,
        "d_model": contract.d_model,
        "extraction": {"layer_index": contract.layer, "injection_scale": scale, "mse_scale": contract.mse_scale},
        "tokens": {name: value for name, value in tokens.items() if value is not None},
        "prompt_templates": {role: text for role, text in templates.items() if text},
    }
    if blocks is not None:
        found["ar"] = {"num_hidden_layers": blocks - 1}
    if contract.role == "av":
        found["prompt_style"] = "chat"
    else:
        found["ar"] |= {"final_norm": "dropped", "bos": bos}
        found["head_bias"] = False
    if contract.activation_mean is not None:
        found["activation_mean"] = MEAN_FILE
    if contract.activation_statistics is not None:
        found["activation_statistics"] = STATISTICS_FILE
    for name in _KEPT[str(contract.role)]:
        value = getattr(contract, name)
        if value is not None and value != type(contract).model_fields[name].default:
            block, _, leaf = name.partition("_")
            if block in ("output", "ar"):
                found.setdefault(block, {})[leaf] = value
            else:
                found[name] = value
    return found | {"provenance": provenance}
