"""Vectors of files held against the pair that is to read them: their site, layer and model."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path
from typing import Any

from ..contract import Contract
from ..errors import ForeignActivationError, ForeignActivationWarning, InputError
from ..io.origins import Origin, RowFacts, check_origin
from ..vectors.faults import SiteError
from ..vectors.kinds import RESIDUAL, Vectors
from .rows import Rows, spoken

ARCHITECTURES = {"llama": ("mistral", "mixtral")}
"""Model types that a GGUF file has under another's name, because they are built alike."""

SAME = "If that is the same model by another name, say model= (nla: --model)."


def refuse_foreign(vectors: Vectors, origin: Origin, types: Iterable[str], *, force: bool) -> None:
    """Hold what is known of vectors against what a pair reads.

    Args:
        types: the model types of the pair's base.
        force: warn where it would refuse.
    Raises:
        ForeignActivationError: they are of another layer or model. SiteError: they are not of the residual stream.
    """
    name, what = vectors.origin or "The Vectors", f"{vectors.kind}s"
    if vectors.site != RESIDUAL:
        raise SiteError(f"{name}: vectors of {vectors.site}; a pair reads the residual stream after a block only.")
    facts = facts_of(vectors)
    if vectors.model is not None and _is_bare(vectors.model):
        facts = [(where, {**said, "model": None}) for where, said in facts]
        refuse_other_type(vectors.model, origin, types, name, what=what, force=force)
    try:
        check_origin(facts, origin, name, force=force, what=what)
    except ForeignActivationError as error:
        if not any(origin.refuses("model", said.get("model")) for _, said in facts):
            raise
        raise ForeignActivationError(f"{error} {SAME}") from None


def facts_of(vectors: Vectors) -> list[RowFacts]:
    """What is said of which rows, neighbours alike together."""
    facts, at = [], 0
    for layer, rows in groupby(vectors.layers):
        end = at + len(list(rows)) - 1
        where = "all rows" if end - at + 1 == len(vectors) else f"row {at}" if end == at else f"rows {at} to {end}"
        facts.append((where, {"layer": layer, "model": vectors.model}))
        at = end + 1
    return facts


def refuse_other_type(model: str, origin: Origin, types: Iterable[str], name: str, *, what: str, force: bool) -> None:
    """Hold a model type, or a model's name without its owner, against the base's.

    Raises:
        ForeignActivationError: it is another; with `force` a warning.
    """
    names = [one.rpartition("/")[2] for one in (origin.model, *origin.also) if one]
    types = list(types)
    alike = [*types, *(gguf for gguf, built in ARCHITECTURES.items() if set(built) & set(types))]
    if _letters(model) in {_letters(one) for one in (*names, *alike)}:
        return
    message = f"{name}: {what} of model {model}; this pair reads {origin.model} ({', '.join(types)})."
    if not force:
        raise ForeignActivationError(f"{message} {SAME} force=True (nla: --force) takes them all the same.")
    warnings.warn(f"{message} Taken all the same, as asked.", ForeignActivationWarning, stacklevel=4)


def model_types(config: Any) -> tuple[str, ...]:
    """The model types that a transformers config has: of the whole, and of its text part."""
    found = [getattr(part, "model_type", None) for part in (config, getattr(config, "text_config", None))]
    return tuple(dict.fromkeys(one for one in found if one))


def _is_bare(model: str) -> bool:
    return "/" not in model and "\\" not in model and not Path(model).is_dir()


def _letters(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower().removesuffix("_text"))


def layers_of(vectors: Vectors, rows: Rows, contract: Contract) -> list[int | None]:
    """The block of each row's vectors, as it is said to its prompt.

    Raises:
        InputError: a prompt takes several vectors and theirs differ, or are not those of its markers.
    """
    several = len(vectors) // len(rows)
    how = contract.injection
    found: list[int | None] = []
    for row in range(len(rows)):
        layers = vectors.layers[row * several : (row + 1) * several]
        if how is not None and how.layers is not None:
            if layers != how.layers:
                raise InputError(
                    f"Its prompt takes a vector of each of the layers {', '.join(map(str, how.layers))}, in this "
                    f"order; given are vectors of {', '.join(map(str, layers))}."
                )
            found.append(None)
            continue
        if len(set(layers)) > 1:
            raise InputError(f"A prompt takes {several} vectors of one layer; row {row} has those of {set(layers)}.")
        found.append(spoken(layers[0], contract))
    return found


def one_layer(vectors: Vectors, contract: Contract) -> int | None:
    """The layer that all have, as an AR is told it.

    Raises:
        InputError: they have several.
    """
    if len(set(vectors.layers)) > 1:
        raise InputError(f"The Vectors are of the layers {sorted(set(vectors.layers))}; score those of one at a time.")
    return spoken(vectors.layers[0], contract)
