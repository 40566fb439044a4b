"""What the reference layout cannot carry, found before anything is written, all of it at once and each by its name."""

from __future__ import annotations

from ..contract import Contract
from ..errors import ExportError
from ..model.reconstructor import Reconstructor
from ..model.verbalizer import Verbalizer
from ..model.weights.loading import text_config

_TRANSFORMS = ("activation_whitening", "activation_map", "reconstruction_map")
_BY_CALLER = "caller_subtracts_mean=True (nla: --caller-subtracts-mean)"


def refuse(verbalizer: Verbalizer | None, reconstructor: Reconstructor | None, *, caller_subtracts_mean: bool) -> None:
    """Refuse a pair of which something would be lost.

    Raises:
        ExportError: names every such fact, and why the layout has no place for it.
    """
    reasons = []
    if verbalizer is not None:
        reasons += _av(verbalizer, caller_subtracts_mean)
    if reconstructor is not None:
        reasons += _ar(reconstructor, caller_subtracts_mean)
    if reasons:
        raise ExportError(f"The reference layout cannot carry this pair. {' '.join(reasons)} Nothing has been written.")


def _av(verbalizer: Verbalizer, caller_subtracts_mean: bool) -> list[str]:
    contract, found = verbalizer.contract, []
    injection = contract.injection
    assert injection is not None, "no AV is loaded without one"
    if injection.site == "block":
        found.append(
            f"`injection.site: block`: the AV's vector goes in after block {injection.block}; a reader of the layout "
            "overwrites the marker's embedding."
        )
    elif injection.rule == "add":
        found.append("`injection.rule: add`: a reader overwrites the marker's embedding.")
    if injection.norm in ("raw", "multiply") or (injection.norm == "match" and injection.site == "block"):
        found.append(f"`injection.norm: {injection.norm}`: a reader gives every vector one norm.")
    if injection.markers != 1:
        found.append(f"`injection.markers: {injection.markers}`: a reader takes one marker and one vector.")
    if fields := [f"{{{name}}}" for name in contract.fields]:
        found.append(
            f"`fields`: the AV's template has {', '.join(fields)}, which a reader leaves as it is; to export it for "
            "one value, load it with that written into the template (contract={'av_template': …})."
        )
    config = text_config(verbalizer.backbone.model.config)
    if getattr(config, "hidden_size_per_layer_input", 0):
        found.append(
            f"{type(verbalizer.backbone.model).__name__} looks every token up in a second, per-layer embedding by its "
            "id, and a reader passes the AV embeddings without ids."
        )
    if contract.activation_mean is not None and not caller_subtracts_mean:
        found.append(
            "`activation_mean`: the AV is centred, it reads v − μ; a reader gives it v/‖v‖, from which v − μ cannot be "
            f"had, whatever the weights. If whoever runs it will subtract μ, which is written beside: {_BY_CALLER}."
        )
    return found + _both(contract, "AV")


def _ar(reconstructor: Reconstructor, caller_subtracts_mean: bool) -> list[str]:
    contract, found = reconstructor.contract, []
    if contract.ar_final_norm == "kept":
        found.append("`ar.final_norm: kept`: a reader takes the final norm out, and no head makes up for it.")
    if contract.ar_state == "sqrt_d" and has_bias(reconstructor):
        found.append("`ar.state: sqrt_d` beside a head with a bias: a reader does not rescale the state.")
    for name in ("position", "prompt_style", "heads"):
        value = getattr(contract, f"ar_{name}")
        if value not in {"position": ("last",), "prompt_style": ("raw",), "heads": ("one", "none")}[name]:
            meaning = {"position": "reads the last token", "prompt_style": "passes raw text", "heads": "knows one head"}
            found.append(f"`ar.{name}: {value}`: a reader {meaning[name]}.")
    if contract.ar_bos is False and getattr(reconstructor.backbone.tokenizer, "bos_token_id", None) is not None:
        found.append("`ar.bos: false`: a reader lets the tokenizer put BOS before the AR's prompt.")
    if "{" in contract.ar_prefix + contract.ar_suffix and contract.fields:
        found.append("`fields`: the AR's template has others beside {explanation}, which a reader leaves as they are.")
    if contract.ar_target == "centred" and not caller_subtracts_mean:
        found.append(
            "`ar.target: centred`: the AR gives the direction of v − μ, and μ plus that at its norm is no linear "
            f"function of a state. If whoever runs it compares with v − μ: {_BY_CALLER}."
        )
    return found + _both(contract, "AR")


def _both(contract: Contract, half: str) -> list[str]:
    found = [
        f"`{name}` of the {half}: vectors pass through {file} here, and a reader has no such step."
        for name in _TRANSFORMS
        if (file := getattr(contract, name)) is not None
    ]
    if contract.mse_scale is None:
        found.append(f"`mse_scale: null` of the {half} (raw): the layout takes a number.")
    return found


def has_bias(reconstructor: Reconstructor) -> bool:
    """Whether the AR's head adds something."""
    bias = getattr(reconstructor.head, "bias", None)
    return bias is not None and bool(bias.any())
