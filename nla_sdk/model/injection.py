"""Put activations in the place of markers: into their embeddings, or into their states after a block.

A forward hook does it, with `input_ids` passed as usual: Gemma 4 looks up a second, per-layer embedding by token id and
cannot take `inputs_embeds`. The hook sees a module's OUTPUT, so Gemma's scaling by √d inside the embedding does not
touch the injected vector. Training uses this same code.

The module is whatever the model has there when the prompt is run: an adapter that trains the embedding takes the module
from before it out of the path, and a hook there never fires.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeAlias, cast

import torch
from torch import nn

from ..contract.injection import Injection
from ..errors import (
    ActivationShapeError,
    EmptyBatchError,
    InjectionError,
    InputError,
    LayerError,
    MarkerError,
    NonFiniteActivationError,
    ZeroActivationError,
)

if TYPE_CHECKING:
    import numpy as np

Numbers: TypeAlias = "Sequence[float] | np.ndarray | torch.Tensor"
VectorsLike: TypeAlias = "Numbers | Sequence[Numbers]"
"""One vector [d_model] or several [n, d_model], of any float dtype."""
Positions: TypeAlias = "int | Sequence[int] | torch.Tensor"
"""Where markers stand: one for all rows, several for all rows, or int64 [rows] or [rows, markers]."""

OVERWRITE = Injection("embedding", None, "replace", "raw")


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


def normed(vectors: torch.Tensor, how: Injection) -> torch.Tensor:
    """Vectors [..., d] with their norm, times the coefficient; of `match` norm 1 until `placed` knows it."""
    if how.norm == "multiply":
        vectors = vectors * cast(float, how.scale)
    else:
        vectors = rescale(vectors, {"raw": None, "match": 1.0}.get(how.norm, how.scale))
    return vectors if how.coefficient == 1 else vectors * how.coefficient


def placed(own: torch.Tensor, vectors: torch.Tensor, how: Injection) -> torch.Tensor:
    """What stands at markers once vectors are in; computed in float32 and cast once. See `Injection` for the formula.

    Args:
        own: [..., d_model], what stood there.
        vectors: [..., d_model] as `normed` gives them.
    """
    if how.rule == "replace" and how.norm != "match":
        return vectors.to(own.dtype)
    state, vectors = own.float(), vectors.float()
    if how.norm == "match":
        vectors = vectors * state.norm(dim=-1, keepdim=True)
    return (vectors if how.rule == "replace" else state + vectors).to(own.dtype)


@contextmanager
def inject(
    module: nn.Module,
    positions: Positions,
    vectors: torch.Tensor,
    *,
    how: Injection = OVERWRITE,
    what: str = "The activation",
) -> Iterator[None]:
    """While open, vectors are put into what `module` gives at `positions`, whenever it is called.

    Args:
        module: the input embedding or a block, as the model has it now (`Backbone.site`).
        positions: of the markers in the ids passed.
        vectors: [rows, d_model] or [rows, markers, d_model], as `normed` gives them; gradients flow into them if they
            need any, and through what stands there already.
        how: rule, and whether the norm is that of what stands there; the default overwrites.
        what: is injected, and into which half; a message begins with it.
    Raises:
        MarkerError: the ids passed have another number of rows, or are shorter than a position.
        InjectionError: `module` was never called, so nothing was injected, or gives no [rows, tokens, d_model].
    """
    calls = 0
    where, vectors = _aligned(positions, vectors)

    def put(module, args, output):
        nonlocal calls
        states = output[0] if isinstance(output, tuple) else output
        if states.ndim != 3:
            raise InjectionError(
                f"{what} was not injected: {_named(module, how)} gives states of shape {tuple(states.shape)}; expected "
                "[rows, tokens, d_model], so it is not known here which of them is the residual stream."
            )
        rows, tokens = states.shape[:2]
        if rows != len(vectors) or len(where) not in (1, rows) or int(where.max()) >= tokens:
            raise MarkerError(
                f"{len(vectors)} activations at position {_shown(where)} do not fit a batch of {rows} prompts of "
                f"{tokens} tokens."
            )
        calls += 1
        at = torch.arange(rows, device=states.device)[:, None], where.to(states.device).expand(rows, -1)
        states = states.clone()
        states[at] = placed(states[at], vectors.to(states.device), how)
        return (states, *output[1:]) if isinstance(output, tuple) else states

    handle = module.register_forward_hook(put)
    # Until version 5.20 transformers' checkpointing takes hooks to be part of a block: its backward would compute the
    # block again when the hook has gone. So this one block keeps what it computed.
    kept = type(module).__call__ is not nn.Module.__call__ and getattr(module, "gradient_checkpointing", False)
    if kept:
        module.gradient_checkpointing = False
    try:
        yield
    finally:
        handle.remove()
        if kept:
            module.gradient_checkpointing = True
    if not calls:
        raise InjectionError(
            f"{what} was not injected: {_named(module, how)} was never called, so every vector would have had one and "
            "the same text."
        )


def _aligned(positions: Positions, vectors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Positions as int64 [1 or rows, markers], vectors as [rows, markers, d_model]."""
    where = _places(positions)
    vectors = vectors[:, None] if vectors.ndim == 2 else vectors
    if where.shape[1] != vectors.shape[1]:
        raise MarkerError(f"{vectors.shape[1]} vectors a row do not fit {where.shape[1]} markers.")
    return where, vectors


def markers_of(positions: Positions) -> int:
    """How many of them a row has."""
    return _places(positions).shape[1]


def _places(positions: Positions) -> torch.Tensor:
    """int64 [1 or rows, markers]."""
    where = torch.as_tensor(positions)
    if where.ndim == 1:
        return where[:, None] if isinstance(positions, torch.Tensor) else where[None]
    return where.reshape(1, 1) if where.ndim == 0 else where


def _named(module: nn.Module, how: Injection) -> str:
    place = "the input embedding" if how.site == "embedding" else f"block {how.block}"
    return f"{place} ({type(module).__name__})"


def _shown(where: torch.Tensor) -> str:
    return str(int(where[0, 0]) if where.numel() == 1 else where.tolist())


def refuse_unseen(how: Injection, who: str, base: str, blocks: int, shared: int) -> None:
    """Refuse a block after which no other token would see a vector.

    Args:
        who: the half, and `base`, its model, for messages.
        blocks: how many the model has.
        shared: how many of its last blocks take their keys and values from earlier ones (Gemma 4).
    Raises:
        LayerError: there is no such block. InjectionError: what follows it reads earlier states only.
    """
    if how.block is None:
        return
    if how.block >= blocks:
        raise LayerError(
            f"{who} puts vectors in after block {how.block}; {base} has blocks 0 to {blocks - 1}. Correct "
            "`injection.block`, or load the base it was trained on."
        )
    if shared and how.block >= (last := blocks - shared - 1):
        raise InjectionError(
            f"{who} puts vectors in after block {how.block}; in {base} the blocks after {last} take their keys and "
            "values from earlier ones, so no other token would see it. Correct `injection.block`."
        )


def refuse_lost(
    enter: Callable[[torch.Tensor | None], torch.Tensor],
    d_model: int,
    rows: int,
    positions: Positions,
    what: str,
    how: Injection = OVERWRITE,
    seer: str = "the first block",
) -> None:
    """Have two vectors a marker injected and see that each reaches what comes next, at its own place.

    Args:
        enter: what enters the module after the site, [rows, tokens, d_model], with these vectors [rows, markers,
            d_model] injected; None: with none.
        positions: the markers', among the tokens.
        what: is injected, and into which half; a message begins with it.
        how: they are injected.
        seer: the module after the site, for messages.
    Raises:
        InjectionError: the state at a marker is its own, or the same for both vectors, or that of another vector.
    """
    where = _places(positions)
    markers = where.shape[1]

    def seen(vectors: torch.Tensor | None) -> torch.Tensor:
        state = enter(vectors)
        state = state if state.ndim == 3 else state[0]  # Gemma 3n stacks several versions of each state
        return state[torch.arange(rows)[:, None], where.to(state.device)]

    own = seen(None)
    given = _probes(markers, d_model).to(own.device)
    if how.norm == "match":
        given = rescale(given, 1.0)
    elif how.rule == "add":  # beside a state of norm 60,000 a small vector is rounded away
        given = rescale(given, float(own.float().norm(dim=-1).max()) or 1.0)
    one, other = (seen(vectors.expand(rows, -1, -1)) for vectors in (given, -given))
    apart = (one - other).float()
    towards = apart / apart.norm(dim=-1, keepdim=True).clamp(min=1e-30)
    nearest = (towards[0] @ given.T).argmax(dim=1).tolist() if apart.shape[-1] == d_model else list(range(markers))
    for at in range(markers):
        marker = "the marker" if markers == 1 else f"marker {at + 1}"
        if torch.equal(one[:, at], own[:, at]) or torch.equal(other[:, at], own[:, at]):
            seen_there = f"sees {marker}'s own {'embedding' if how.site == 'embedding' else 'state'} at its place"
        elif torch.equal(one[:, at], other[:, at]):
            seen_there = f"sees the same for two different vectors at {marker}'s place"
        elif (towards[:, at] - towards[:1, at]).abs().max() > 0.1 * towards[:, at].abs().max():
            seen_there = "sees different states in rows with the same vector"
        elif nearest[at] != at:
            seen_there = f"sees the vector of marker {nearest[at] + 1} at marker {at + 1}'s place"
        elif how.site == "block" and not _near(one[:, at], placed(own[:, at], given[at], how)):
            # A model may change embeddings before its first block; between two blocks there is nothing.
            seen_there = f"sees another state at {marker}'s place than is made there"
        else:
            continue
        raise InjectionError(
            f"{what} did not reach the model: {seer} {seen_there}. Every explanation would have been of nothing."
        )


def _probes(markers: int, d_model: int) -> torch.Tensor:
    """A vector [d_model] for each marker that no embedding is, of numbers that every float dtype holds exactly."""
    signs = torch.randint(2, (markers, d_model), generator=torch.Generator().manual_seed(0))
    signs[0] = torch.arange(d_model) % 2
    return 1.0 - 1.5 * signs


def _near(found: torch.Tensor, expected: torch.Tensor) -> bool:
    return bool((found.float() - expected.float()).abs().max() <= 0.02 * expected.float().abs().max())
