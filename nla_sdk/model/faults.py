"""When a model computes NaN or infinity: in which rows, and why. Nothing here runs before that has happened."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

import torch
from torch import nn

from ..contract.injection import Injection
from ..errors import NonFiniteOutputError
from .backbone import Backbone
from .injection import Positions, inject
from .weights.finite import describe, non_finite, weights_of

REMEDY = "Load it in bfloat16 or float32 (dtype='bfloat16'; nla: --dtype bfloat16)."


def first_rows(bad: torch.Tensor) -> list[int]:
    """The rows where bool [n] `bad` is True."""
    return bad.nonzero()[:, 0].tolist() if bool(bad.any()) else []


def beyond(what: str, rows: Sequence[int], dtype: torch.dtype) -> NonFiniteOutputError:
    """The error for numbers that `dtype` does not hold."""
    return NonFiniteOutputError(f"{what} is beyond {_name(dtype)}. {REMEDY}", rows)


def no_numbers(
    what: str,
    rows: Sequence[int],
    backbone: Backbone,
    ids: Sequence[int],
    *,
    block: int | None = None,
    injected: tuple[Positions, torch.Tensor, Injection] | None = None,
) -> NonFiniteOutputError:
    """The error for a model that gave no numbers, its cause found by running it once more. The caller holds it.

    Args:
        what: gave none, as a sentence's beginning.
        rows: the rows in which that was so.
        ids: token ids of one of them.
        block: the last one that ran; None: the whole model did.
        injected: positions, vectors [d_model] or [markers, d_model] and way of what was put in at markers.
    """
    return NonFiniteOutputError(
        f"{what} is NaN or infinite in {_name(backbone.dtype)}: {_cause(backbone, ids, block, injected)}", rows
    )


def _cause(
    backbone: Backbone,
    ids: Sequence[int],
    block: int | None,
    injected: tuple[Positions, torch.Tensor, Injection] | None,
) -> str:
    """What is wrong where the first number is lost, and what helps."""
    # The largest magnitude that leaves each stage, in the order they ran.
    sizes: list[tuple[str, nn.Module, float]] = []
    run = list(backbone.blocks if block is None else backbone.blocks[: block + 1])
    stages = [("the input embedding", backbone.embedding), *((f"block {at}", one) for at, one in enumerate(run))]
    if block is None and backbone.head is not None:
        stages.append(("what follows the last block", backbone.head))
    handles = [
        module.register_forward_hook(
            lambda module, args, output, name=name: sizes.append((name, module, _size(output)))
        )
        for name, module in stages
    ]
    injecting = nullcontext()
    if injected is not None:
        positions, vectors, how = injected
        injecting = inject(backbone.site(how), positions, vectors[None], how=how)
    prompt = torch.tensor([list(ids)], device=backbone.device)
    try:
        with injecting:
            backbone.run_through(prompt, block)
    finally:
        for handle in handles:
            handle.remove()
    largest = 0.0
    for name, module, size in sizes:
        if size < torch.inf:
            largest = size
            continue
        inside = backbone.model if module is backbone.head else module
        path = next(path for path, one in backbone.model.named_modules() if one is inside)
        if found := next(non_finite(weights_of(inside)), None):
            tensor = f"{path}.{found[0]}".removeprefix(".")
            return (
                f"in {name} the weight {tensor} holds {describe(found[1])}. Download it again; if the published file "
                "is so, its author must mend it."
            )
        if backbone.dtype == torch.float16:
            return f"{name} overflows (its input reaches {largest:,.0f}, float16 ends at 65,504). {REMEDY}"
        return f"{name} is the first to give no number (its input reaches {largest:.3g}). {REMEDY}"
    return "run once more, every block gave numbers: look at the head's weights, or at the machine's memory."


def _size(output: object) -> float:
    """The largest magnitude in a module's output; infinite where there is NaN."""
    while isinstance(output, (tuple, list)):
        output = output[0]
    if not isinstance(output, torch.Tensor):
        return 0.0
    return output.detach().float().abs().nan_to_num(nan=torch.inf, posinf=torch.inf).max().item()


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
