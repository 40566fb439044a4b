"""Overwrite one token's embedding with an activation.

A forward hook on the input-embedding module does it, with `input_ids` passed as usual: Gemma 4 looks up a second,
per-layer embedding by token id and cannot take `inputs_embeds`. The hook sees the module's OUTPUT, so Gemma's scaling
by √d inside the module does not touch the injected vector. Training uses this same code.

The module is whatever `get_input_embeddings` gives when the prompt is run: an adapter that trains the embedding takes
the module from before it out of the path, and a hook there never fires.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import nn

from ..errors import (
    ActivationShapeError,
    EmptyBatchError,
    InjectionError,
    InputError,
    MarkerError,
    NonFiniteActivationError,
    ZeroActivationError,
)

if TYPE_CHECKING:
    import numpy as np

Numbers: TypeAlias = "Sequence[float] | np.ndarray | torch.Tensor"
VectorsLike: TypeAlias = "Numbers | Sequence[Numbers]"
"""One vector [d_model] or several [n, d_model], of any float dtype."""


def as_vectors(activation: VectorsLike, d_model: int, *, what: str = "activation") -> tuple[torch.Tensor, bool]:
    """Check activations given as a list, numpy array or tensor of any float dtype.

    Args:
        activation: shape [d_model] or [n, d_model].
    Returns:
        float32 [n, d_model] on the CPU or the tensor's own device, and whether a single vector was given.
    Raises:
        ActivationShapeError, EmptyBatchError, NonFiniteActivationError, ZeroActivationError, InputError: each says
        which row is at fault.
    """
    try:
        vectors = activation.detach() if isinstance(activation, torch.Tensor) else torch.as_tensor(_plain(activation))
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"The {what} is a {type(activation).__name__} that is no array of numbers: {error}") from error
    if vectors.is_complex() or vectors.dtype == torch.bool:
        raise InputError(f"The {what} has dtype {vectors.dtype}; expected real numbers.")
    if vectors.numel() == 0:
        raise EmptyBatchError(
            f"The {what} is empty (shape {tuple(vectors.shape)}); expected at least one vector of {d_model} numbers."
        )
    if vectors.ndim not in (1, 2) or vectors.shape[-1] != d_model:
        raise ActivationShapeError(
            f"The {what} has shape {tuple(vectors.shape)}; expected [{d_model}] or [n, {d_model}]: this pair reads "
            f"activations of d_model {d_model}. Was it taken from another model?"
        )
    single = vectors.ndim == 1
    vectors = vectors.reshape(-1, d_model).to(torch.float32)
    finite = torch.isfinite(vectors).all(dim=1)
    if not finite.all():
        row = int((~finite).nonzero()[0])
        raise NonFiniteActivationError(
            f"The {what} in row {row} holds NaN or infinity; it has no direction. float16 extraction overflows above "
            "65504: extract in bfloat16 or float32."
        )
    zero = (vectors == 0).all(dim=1)
    if zero.any():
        raise ZeroActivationError(
            f"The {what} in row {int(zero.nonzero()[0])} is all zeros; it has no direction to explain."
        )
    return vectors, single


def _plain(activation):
    """Lists and arrays become what torch takes without a warning; what is no number is left for torch to refuse."""
    import numpy as np

    if isinstance(activation, (list, tuple)):
        if activation and all(isinstance(item, torch.Tensor) for item in activation):
            return torch.stack([item.detach().float().cpu() for item in activation])
        activation = np.asarray(activation)
    if isinstance(activation, np.ndarray) and activation.dtype.kind not in "bcSUO":
        with np.errstate(over="ignore"):  # float64 beyond float32's range is reported as infinite
            return np.array(activation, dtype=np.float32)  # a copy: torch warns of arrays it may not write to
    return activation


def rescale(vectors: torch.Tensor, scale: float | None) -> torch.Tensor:
    """Vectors [n, d] scaled to norm `scale` each; `None` leaves them raw."""
    if scale is None:
        return vectors
    vectors = vectors / vectors.abs().amax(dim=-1, keepdim=True)  # squares of very large or small numbers overflow
    return vectors * (scale / vectors.norm(dim=-1, keepdim=True))


@contextmanager
def inject(
    embedding: nn.Module, position: int | torch.Tensor, vectors: torch.Tensor, *, what: str = "The activation"
) -> Iterator[None]:
    """While open, the embedding at `position` of row i is `vectors[i]`, for every call of `embedding`.

    Args:
        embedding: the model's input-embedding module, as the model has it now (`Backbone.embedding`).
        position: index of the marker token in the ids passed, one int for all rows or int64 [n].
        vectors: [n, d_model], already scaled; gradients flow into them if they need any.
        what: is injected, and into which half; a message begins with it.
    Raises:
        MarkerError: the ids passed have another number of rows, or are shorter than `position`.
        InjectionError: `embedding` was never called, so nothing was overwritten.
    """
    calls = 0

    def overwrite(module, args, output):
        nonlocal calls
        rows, tokens = output.shape[:2]
        if rows != len(vectors) or int(torch.as_tensor(position).max()) >= tokens:
            raise MarkerError(
                f"{len(vectors)} activations at position {position} do not fit a batch of {rows} prompts of "
                f"{tokens} tokens."
            )
        calls += 1
        where = torch.as_tensor(position, device=output.device).expand(rows)
        output = output.clone()
        output[torch.arange(rows, device=output.device), where] = vectors.to(output.device, output.dtype)
        return output

    handle = embedding.register_forward_hook(overwrite)
    try:
        yield
    finally:
        handle.remove()
    if not calls:
        raise InjectionError(
            f"{what} was not injected: the input embedding ({type(embedding).__name__}) was never called, so every "
            "vector would have had one and the same text."
        )


def refuse_lost(
    enter: Callable[[torch.Tensor | None], torch.Tensor], d_model: int, rows: int, position: int, what: str
) -> None:
    """Have two vectors injected and see that each reaches the first block, at the marker.

    Args:
        enter: what enters the first block, [rows, tokens, d_model], with these vectors [rows, d_model] injected; None:
            with none.
        position: the marker's, among the tokens.
        what: is injected, and into which half; a message begins with it.
    Raises:
        InjectionError: the state at the marker is its own, or the same for both vectors, or that of another vector.
    """
    # Two vectors that no embedding is: opposite ones, whose numbers every float dtype holds exactly.
    vector = torch.ones(d_model)
    vector[1::2] = -0.5
    given = [None, vector.expand(rows, -1), -vector.expand(rows, -1)]
    # Gemma 3n stacks several copies of each state, which are then compared as a whole.
    own, one, other = (state[:, position] if state.ndim == 3 else state for state in map(enter, given))
    if torch.equal(one, own) or torch.equal(other, own):
        seen = "the first block sees the marker's own embedding at its place"
    elif torch.equal(one, other):
        seen = "the first block sees the same for two different vectors at the marker's place"
    elif one.ndim == 2 and any(_spread(state) > 0.1 * (one - other).abs().max() for state in (one, other)):
        seen = "the first block sees different states in rows with the same vector"
    else:
        return
    raise InjectionError(f"{what} did not reach the model: {seen}. Every explanation would have been of nothing.")


def _spread(rows: torch.Tensor) -> torch.Tensor:
    """How far rows that should be one are from the first, at most."""
    return (rows - rows[:1]).abs().max()
