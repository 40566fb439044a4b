"""NaN and infinity in weights: found before they are used, named by file, tensor and rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from torch import nn

from ...errors import NonFiniteWeightsError

NUMBERS_AT_ONCE = 1 << 24


def is_finite(tensor: torch.Tensor) -> bool:
    """Whether a tensor of any dtype holds neither NaN nor infinity; in one pass over it."""
    if not tensor.is_floating_point() or tensor.is_meta:
        return True
    flat = tensor.detach().reshape(-1)
    for part in flat.split(NUMBERS_AT_ONCE) if len(flat) else ():
        low, high = (part.float() if part.element_size() == 1 else part).aminmax()  # NaN is the least and the largest
        if not (low.isfinite() and high.isfinite()):
            return False
    return True


def describe(tensor: torch.Tensor) -> str:
    """How many numbers of a tensor are NaN or infinite, and where.

    Example:
        >>> describe(torch.tensor([[1.0, 2.0], [torch.nan, torch.nan]]))
        'NaN or infinity in 2 of 4 numbers, the whole of row 1'
    """
    bad = ~tensor.detach().float().isfinite()
    text = f"NaN or infinity in {int(bad.sum()):,} of {bad.numel():,} numbers"
    if bad.ndim < 2:
        return text
    rows = bad.flatten(1)
    touched, whole = rows.any(dim=1), rows.all(dim=1)
    which = _ranges(touched.nonzero()[:, 0].tolist())
    one = int(touched.sum()) == 1
    if torch.equal(touched, whole):
        return f"{text}, the whole of row{'' if one else 's'} {which}"
    return f"{text}, in row{'' if one else 's'} {which}"


def _ranges(rows: list[int], limit: int = 4) -> str:
    """[0, 1, 2, 7] → "0–2, 7"."""
    ranges: list[list[int]] = []
    for row in rows:
        if ranges and row == ranges[-1][1] + 1:
            ranges[-1][1] = row
        else:
            ranges.append([row, row])
    shown = [str(low) if low == high else f"{low}–{high}" for low, high in ranges[:limit]]
    return ", ".join(shown) + (f" and {len(ranges) - limit} more stretches" if len(ranges) > limit else "")


def non_finite(tensors: Iterable[tuple[str, torch.Tensor]]) -> Iterator[tuple[str, torch.Tensor]]:
    """Of named tensors those with NaN or infinity."""
    return ((name, tensor) for name, tensor in tensors if not is_finite(tensor))


def refuse_non_finite(tensors: Iterable[tuple[str, torch.Tensor]], where: str | Path) -> None:
    """Refuse tensors with NaN or infinity.

    Args:
        tensors: by name.
        where: the file or folder they are of, for the message.
    Raises:
        NonFiniteWeightsError: names the first such tensor and how many there are.
    """
    if found := list(non_finite(tensors)):
        name, tensor = found[0]
        more = f", and {len(found) - 1} more of its tensors hold some" if len(found) > 1 else ""
        raise NonFiniteWeightsError(
            f"{where}: {name} holds {describe(tensor)}{more}; all that is computed with them would be NaN. Download it "
            "again; if the published file is so, its author must mend it."
        )


def weights_of(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor a model computes with, by name; of a 4-bit or 8-bit one the scales that its numbers stand on."""
    for name, parameter in model.named_parameters():
        yield name, parameter
        state = getattr(parameter, "quant_state", None)
        scales = {"absmax": getattr(state, "absmax", None), "SCB": getattr(parameter, "SCB", None)}
        scales["nested absmax"] = getattr(getattr(state, "state2", None), "absmax", None)
        for kind, scale in scales.items():
            if isinstance(scale, torch.Tensor):
                yield f"{name} ({kind})", scale
    # Not state_dict(): bitsandbytes repacks 4-bit scales there. A buffer that is not saved is made at load.
    for path, module in model.named_modules():
        for leaf, buffer in module.named_buffers(path, recurse=False):
            if leaf.rpartition(".")[2] not in module._non_persistent_buffers_set:
                yield leaf, buffer
