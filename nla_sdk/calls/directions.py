"""Directions for an AV that has read activations only: put where activations lie, or as they are; and read back.

A direction (a dictionary's row, a steering vector, a difference) has no mean in it, an activation v = μ + (v − μ) has.
A centred AV is shown v − μ, of which a direction is an example: it is shown as it is, and no mean is subtracted. An AV
that is not centred has only ever seen v, whose direction is mostly μ's: a bare direction is nothing that it knows, μ +
centred norm · û is an activation like any other, that differs from the mean in this direction (`mean+`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal, TypeAlias, cast, get_args

import torch

from ..contract.injection import Injection
from ..errors import InputError, MissingMeanError
from ..io.origins import Origin, check_origin
from ..model.injection import rescale
from ..model.reconstructor import Reconstructor
from ..model.statistics.means import ActivationMean
from ..model.statistics.states import ActivationStatistics
from ..model.verbalizer import Verbalizer
from ..model.weights.transforms import Transform
from ..vectors.kinds import Kind
from .inputs import Mean
from .rows import Rows, by_layer

Shown: TypeAlias = Literal["raw", "mean+"]
"""How a direction is shown: raw: itself; mean+: μ + centred norm · û. Without it: raw to a centred AV, else mean+."""
MeanOf: TypeAlias = Callable[[int | None], ActivationMean]
"""The mean of a layer (None: the pair's). Raises MissingMeanError: nobody knows it."""


def as_shown(direction: object, kind: Kind, mean: object = None) -> Shown | None:
    """How directions are to be shown, as the caller says.

    Raises:
        InputError: there is no such way, or they are activations.
    """
    if mean is not None and kind == "activation":
        raise InputError(
            "mean= is what directions are shown over and scored without, and these are activations. Say "
            "kind='direction' (--kind direction), or leave it out."
        )
    if direction is None:
        return None
    if direction not in get_args(Shown):
        raise InputError(f"direction={direction!r}: expected {' or '.join(map(repr, get_args(Shown)))}.")
    if kind == "activation":
        raise InputError(
            f"direction={direction!r} says how directions are shown, and these are activations. Say kind='direction' "
            "(--kind direction), or 'difference', if that is what they are."
        )
    return cast(Shown, direction)


def beside(halves: Sequence[Verbalizer | Reconstructor], layer: int | None) -> ActivationMean | None:
    """The mean of a layer that lies beside one of the halves, the first that has one; None: none does.

    Raises:
        UnseenValueError: there are means, and none of this layer.
    """
    norm = next((half.contract.centred_norm for half in halves if half.contract.centred_norm), None)
    for half in halves:
        if (found := half.transform.mean(layer)) is not None:
            return ActivationMean(found, norm, layer, origin=f"the mean of {half.ref}")
    return None


def means(
    given: Mean,
    halves: Sequence[Verbalizer | Reconstructor],
    origin: Origin,
    width: int,
    statistics: Callable[[], tuple[ActivationStatistics | None, str]],
    *,
    force: bool = False,
) -> MeanOf:
    """Means by layer: the one that was given, else what lies beside the halves, else what was measured on the base.

    Args:
        halves: the AR first.
        origin: what the pair reads; width: its d_model.
        statistics: of the pair's layer, or None and why there are none.
        force: take one of another layer or model, with a warning.
    Raises:
        InputError, DamagedFileError: the one that was given cannot be read, or is of another width.
        ForeignActivationError: when asked, the one that was given is of another layer or model.
    """
    if given is not None and not isinstance(given, ActivationMean):
        given = ActivationMean.load(given)
    if given is not None and len(given.vector) != width:
        raise InputError(f"{given.origin} is of d_model {len(given.vector)}; this pair reads {width}.")

    def mean_of(layer: int | None) -> ActivationMean:
        layer = origin.layer if layer is None else layer
        if given is not None:
            said = {"layer": given.layer, "model": given.model}
            wanted = replace(origin, layer=layer, layers=None)
            check_origin([("as it says", said)], wanted, given.origin, force=force, what="a mean")
            return given
        if (own := beside(halves, layer)) is not None:
            return own
        why = f"statistics are of layer {origin.layer}"
        if layer == origin.layer:
            measured, why = statistics()
            if measured is not None:
                return measured.as_mean()
        raise MissingMeanError(
            f"The mean activation of layer {layer} is not known: no file of it lies beside the pair, and {why}. "
            "Measure it (nla mean REF -o mean.safetensors) and pass mean='mean.safetensors' (--mean)."
        )

    return mean_of


def shown(rows: Rows, how: Shown | None, transform: Transform, injection: Injection, mean_of: MeanOf) -> Rows:
    """Rows of directions as the AV is to see them.

    Args:
        how: None: raw to a centred AV, else mean+.
        transform, injection: the AV's.
    Returns:
        The rows; `shown` is what is given to the AV in place of `vectors`.
    Raises:
        MissingMeanError: the mean, or the length of an activation, is needed and not known.
    """
    if rows.kind == "activation":
        return rows
    centred = bool(transform.means)
    how = how or ("raw" if centred else "mean+")

    def over(layer: int | None) -> ActivationMean:
        try:
            mean = mean_of(layer)
            _ = mean.spread
        except MissingMeanError as error:
            raise MissingMeanError(
                f"{error} This AV has read vectors with the mean in them only, so directions are shown as mean + "
                "centred norm × direction; direction='raw' (--direction raw) shows them as they are."
            ) from None
        return mean

    def made(vectors: torch.Tensor, layer: int | None) -> torch.Tensor:
        if how == "mean+" and injection.layers is not None:
            each = [over(at).point(vectors[:, place]) for place, at in enumerate(injection.layers)]
            return torch.stack(each, dim=1)
        if how == "mean+":
            return over(layer).point(vectors)
        if injection.norm not in ("raw", "multiply"):
            return rescale(vectors, 1.0)
        if rows.kind == "difference":  # whose length means something
            return vectors
        mean = mean_of(layer)
        return rescale(vectors, mean.spread if centred else mean.norm)

    if isinstance(rows.vectors, torch.Tensor):
        found = torch.empty_like(rows.vectors)
        for layer, at in by_layer(rows.layers):
            found[at] = made(rows.vectors[at], layer)
    else:
        found = [made(one, layer) for one, layer in zip(rows.vectors, rows.layers, strict=True)]
    return replace(rows, shown=found, directions=how == "raw")


def centred(
    outputs: torch.Tensor, layers: Sequence[int | None], reconstructor: Reconstructor, mean_of: MeanOf
) -> torch.Tensor:
    """What is left over the mean of an AR's vectors: directions to compare directions with, or to steer by.

    Of a centred AR it is what it predicts; of another one, whose outputs are directions of raw activations, n · ŷ − μ,
    with n the length of an activation.

    Args:
        outputs: float32 [n, d_model], as `reconstruct` gives them.
        layers: the block that each is of; None: the pair's.
    Raises:
        MissingMeanError: nobody knows the mean.
    """
    if reconstructor.gives_rest:
        return outputs
    made, transform = torch.empty_like(outputs), reconstructor.transform
    for layer, at in by_layer(layers):
        own = transform.mean(layer) if transform.centred_norm is not None else None
        made[at] = mean_of(layer).rest(outputs[at]) if own is None else outputs[at] - own.cpu()
    return made
