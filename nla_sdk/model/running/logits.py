"""What a model does to its lm_head's product: most do nothing, some scale logits, some cap them softly."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import nn

from ...errors import LoadError, NonFiniteOutputError
from ..weights.loading import innermost, text_config

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PROBE = (1, 2, 3, 4)  # token ids whose logits are looked at: any will do


def softcap(logits: torch.Tensor, size: float) -> torch.Tensor:
    """Logits between −size and size."""
    return torch.tanh(logits / size) * size


WAYS = (  # the number's name in the config, and what is done with it
    ("final_logit_softcapping", softcap),  # Gemma 2 to 4, NanoChat
    ("logits_soft_cap", softcap),  # RecurrentGemma
    ("logits_scaling", torch.div),  # Granite; MiniCPM 3, which divides the states
    ("logits_scaling", torch.mul),  # HyperCLOVA X
    ("logit_scale", torch.mul),  # Cohere
    ("lm_head_multiplier", torch.mul),  # Falcon-H1
)


def head_dtype(head: nn.Module) -> torch.dtype | None:
    """The dtype an lm_head takes states in; None: any, a quantised one's numbers are no floats that could be had."""
    # Of the innermost module: asked for its weight, PEFT's layer of trained token rows makes the whole of it anew.
    dtype = getattr(getattr(innermost(head), "weight", None), "dtype", None)
    return dtype if dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64) else None


def vocabulary_size(head: nn.Module) -> int:
    """How many tokens an lm_head scores; a quantised one's packed weight does not tell."""
    inner = innermost(head)
    return int(getattr(inner, "out_features", None) or inner.weight.shape[0])


def find_cap(model: PreTrainedModel) -> Callable[[torch.Tensor], torch.Tensor]:
    """The elementwise function from the lm_head's product to logits.

    Configs do not say it: Granite divides by its `logits_scaling`, HyperCLOVA X multiplies by it, and a model that came
    after this code may do anything. So the model is run once, and the way that gives its own logits is taken.

    Raises:
        LoadError: none does.
        NonFiniteOutputError: the model computes no number at all.
    """
    config = text_config(model.config)
    ways: list[Callable[[torch.Tensor], torch.Tensor]] = [
        lambda logits, change=change, number=number: change(logits, number)
        for name, change in WAYS
        if (number := getattr(config, name, None)) is not None
    ]
    ways.append(lambda logits: logits)
    head = model.get_output_embeddings()
    if innermost(head).weight.is_meta:  # nothing to compare; what costs memory is what the config names
        return ways[0]
    states, own = _probe(model)
    if not own.isfinite().any():
        raise NonFiniteOutputError(
            f"All logits of {type(model).__name__} are NaN or infinite in {str(own.dtype).removeprefix('torch.')}. "
            "Load it in bfloat16 or float32 (dtype=, --dtype); if they stay so, its weights hold NaN (check_weights)."
        )
    with torch.no_grad():
        products = head(states.to(head_dtype(head)))
    errors = [_largest(way(products) - own) if products.shape == own.shape else torch.inf for way in ways]
    tolerance = min(0.01, 100 * torch.finfo(own.dtype).eps) * _largest(own)
    if not min(errors) <= tolerance:
        raise LoadError(
            f"The logits of {type(model).__name__} are not what its lm_head gives, nor that in a known way scaled or "
            "capped, so a loss or a restricted vocabulary would be of another model. Known numbers in its config: "
            f"{', '.join(dict(WAYS))}."
        )
    return ways[errors.index(min(errors))]  # of equals the one that the config names


def _largest(numbers: torch.Tensor) -> float:
    """The largest magnitude; NaN, which float16 may overflow to on both sides, says nothing."""
    return numbers.abs().nan_to_num(nan=0.0).max().item()


def _probe(model: PreTrainedModel) -> tuple[torch.Tensor, torch.Tensor]:
    """States after the final norm and the model's own logits for a few tokens; no dropout, whatever mode it is in."""
    captured = []
    decoder = getattr(model, model.base_model_prefix)
    handle = decoder.register_forward_hook(lambda module, args, output: captured.append(output.last_hidden_state))
    try:
        with undisturbed(model):
            ids = torch.tensor([PROBE], device=innermost(model.get_input_embeddings()).weight.device)
            logits = model(input_ids=ids, use_cache=False).logits
    finally:
        handle.remove()
    if not captured:  # OPT hands its tokens to a part of what it calls its base model
        raise LoadError(
            f"{type(model).__name__} does not run {type(decoder).__name__} as one module, so the states before its "
            "lm_head are not known: a loss or a restricted vocabulary cannot be computed."
        )
    return captured[0], logits


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Run a model without gradients and dropout, whatever mode its parts are in; they are in it again afterwards."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module in training:
            module.training = True
