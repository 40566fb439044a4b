"""The source steered: texts and vectors as a caller has them → what is added to its stream; and what it writes then."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..contract.prompts.tokens import check_embedded
from ..errors import (
    EmptyBatchError,
    InputError,
    LayerError,
    NLAError,
    NonFiniteOutputError,
    SuspectActivationsWarning,
    ZeroActivationError,
)
from ..model.backbone import Backbone
from ..model.decoding.steering import Ask, write, write_both
from ..model.extraction import is_chat, tokenize
from ..model.faults import no_numbers
from ..model.injection import as_vectors, rescale
from ..model.running.watching import Watch
from ..results import Activations, Results
from ..sampling import Sampling, whole_number
from ..vectors.kinds import Kind, Vectors, as_kind
from .directions import MeanOf
from .inputs import OnToken, check_text_input, check_vector_input, is_text
from .steered import Completion, Moved, Steered

ALIKE = 0.5  # cosine with the mean of activations from which a vector is taken for one: of other directions it is small


CONTEXT = 32  # tokens before what is written that say how it is spelt


@dataclass(frozen=True)
class Known:
    """What a pair knows of its source's activations; each raises what names the missing fact.

    Attributes:
        width, layer: of the pair.
        rest_of_texts: texts and a layer (None: the pair's) → float32 [n, d_model], what they say is left over the mean.
        mean_of: a layer → the mean of its activations, and how long what is left over it is typically.
    """

    width: int
    layer: int
    rest_of_texts: Callable[[Sequence[str], int | None], torch.Tensor]
    mean_of: MeanOf


@dataclass(frozen=True)
class Direction:
    """What is added at strength 1.

    Attributes:
        name: the text, or the vector's label.
        vector: float32 [d_model].
        layer: the block after which it goes in.
    """

    name: str
    vector: torch.Tensor
    layer: int


def steer(
    prompt: Any,
    towards: Any,
    strength: Any,
    *,
    layer: int | None,
    kind: Kind | None,
    sampling: Sampling,
    source: Backbone,
    adapter: str | None,
    known: Known,
    watch: Watch,
) -> Steered | Results[Steered]:
    """Arguments, errors and warnings are those of `NLAPair.steer`.

    Args:
        source, adapter: the model that is steered, and what is on it meanwhile.
        sampling: with a number of tokens.
        watch: may call it off.
    """
    if source.d_model != known.width:
        raise InputError(
            f"The pair reads vectors of {known.width} numbers, which a map of its contract takes from another model: "
            f"nothing says how they are added to the {source.d_model} of {source.ref}."
        )
    prompts, one_prompt = _prompts(prompt)
    ids = [_ids(source, text, row) for row, text in enumerate(prompts)]
    strengths, one_strength = _strengths(strength)
    layer = None if layer is None else whole_number("layer", layer)
    said = [layer]
    if isinstance(towards, (Vectors, Activations)):
        own = towards.layers if isinstance(towards, Vectors) else [towards.layer]
        said = [at if layer is None else layer for at in own]
    _refuse_no_block([known.layer if at is None else at for at in said], source)
    ways, one_way = directions(towards, kind, layer, known)
    rows = _spread(prompts=list(zip(prompts, ids, strict=True)), directions=ways, strengths=strengths)
    asks = [Ask(tuple(tokens), way.layer, way.vector * by if by else None) for (_, tokens), way, by in rows]
    with torch.no_grad(), source.using(adapter):
        written = write_both(source, asks, sampling, sampling.max_new_tokens or 1, watch)
    name = source.tokenizer.decode
    results = Results(
        Steered(
            prompt=text,
            towards=way.name,
            strength=by,
            layer=way.layer,
            plain=_continuation(source, tokens, both.plain),
            steered=_continuation(source, tokens, both.steered),
            moved=tuple(Moved(str(name([token])), before, after) for token, before, after in both.moved),
        )
        for ((text, tokens), way, by), both in zip(rows, written, strict=True)
    )
    return results[0] if one_prompt and one_strength and one_way else results


def complete(
    prompt: Any, *, sampling: Sampling, source: Backbone, adapter: str | None, on_token: OnToken | None, watch: Watch
) -> Completion:
    """Arguments and errors are those of `NLAPair.complete`.

    Args:
        source, adapter: the model that writes, and what is on it meanwhile.
        sampling: with a number of tokens.
        watch: may call it off.
    """
    if on_token is not None and not callable(on_token):
        raise InputError(f"on_token is a {type(on_token).__name__}; expected a function.")
    prompts, _ = _prompts(prompt)
    if len(prompts) != 1:
        raise InputError(f"The prompt is a list of {len(prompts)} texts; complete goes on from one at a time.")
    ids, limit = _ids(source, prompts[0], 0), sampling.max_new_tokens or 1
    written: list[int] = []
    pieces: list[str] = []

    def tell(row: int, token: int) -> None:
        written.append(token)
        text, told = _continuation(source, ids[-CONTEXT:], written), "".join(pieces)
        text = text if len(written) == limit else text.rstrip("\ufffd")  # half a character
        pieces.append(text[len(told) :] if text.startswith(told) else "")
        if on_token is not None:
            on_token(pieces[-1], token)

    with torch.no_grad(), source.using(adapter):
        try:
            write(source, [ids], None, sampling, limit, on_token=tell, watch=watch)
        except NonFiniteOutputError:
            raise no_numbers(f"What {source.ref} computes", [0], source, ids) from None
    return Completion(prompts[0], "".join(pieces), tuple(pieces), tuple(written), len(written) < limit)


def directions(towards: Any, kind: Kind | None, layer: int | None, known: Known) -> tuple[list[Direction], bool]:
    """What is added at strength 1 for each text or vector, and whether a single one was given.

    Args:
        kind: of vectors; default: what they say themselves, of a bare array "direction".
        layer: where they go in; default: where vectors say they are from, else the pair's.
    Raises:
        InputError, EmptyBatchError, ActivationShapeError, NonFiniteActivationError, ZeroActivationError, TextError; and
        what `known` raises.
    Warns:
        SuspectActivationsWarning: a bare vector that is said to be no activation looks like one.
    """
    kind = None if kind is None else as_kind(kind)
    if not isinstance(towards, (Vectors, Activations)) and is_text(towards):
        if kind is not None:
            raise InputError(f"kind={kind!r} is said of vectors; what to steer towards is a text.")
        check_text_input(towards, "text to steer towards")
        given = [towards] if isinstance(towards, str) else list(towards)
        if len(texts := [text for text in given if isinstance(text, str)]) < len(given):
            raise InputError("What to steer towards is a chat; expected a text, a list of texts, or vectors.")
        if not all(text.strip() for text in texts):
            raise EmptyBatchError("The text to steer towards is empty: no words say nothing to go to. Give it some.")
        at = known.layer if layer is None else layer
        made = rescale(known.rest_of_texts(texts, layer), known.mean_of(at).spread)
        named = zip(texts, made, strict=True)
        return [Direction(str(text), one, at) for text, one in named], isinstance(towards, str)
    rows, labels, layers, single = _rows(towards, known)
    said: Kind = "activation" if isinstance(towards, Activations) else "direction"
    said = kind or (towards.kind if isinstance(towards, Vectors) else said)
    if kind is None and not isinstance(towards, (Vectors, Activations)):
        _warn_of_activations(rows, known)
    ways = []
    for name, one, own in zip(labels, rows, layers, strict=True):
        at = own if layer is None else layer
        if said == "activation" and not (one := one - known.mean_of(own).vector).any():
            raise ZeroActivationError(f"The vector {name} is the mean activation itself: no direction is left of it.")
        ways.append(Direction(name, one if said == "difference" else rescale(one, known.mean_of(at).spread), at))
    return ways, single


def _rows(towards: Any, known: Known) -> tuple[torch.Tensor, list[str], list[int], bool]:
    """Vectors float32 [n, d_model] on the CPU, their names, the layers they are of, whether a single one was given."""
    what, said = "vector to steer along", isinstance(towards, (Vectors, Activations))
    if not said:
        check_vector_input(towards)
    rows, single = as_vectors(towards.vectors if said else towards, known.width, what=what)
    labels, layers = [f"#{at}" for at in range(len(rows))], [known.layer] * len(rows)
    if isinstance(towards, Vectors):
        labels, layers = list(towards.labels) or labels, list(towards.layers)
    elif isinstance(towards, Activations):
        labels, layers = list(towards.tokens), [towards.layer] * len(rows)
    return rows.cpu(), labels, layers, len(rows) == 1 if said else single


def _warn_of_activations(rows: torch.Tensor, known: Known) -> None:
    """Bare vectors are taken for directions: what points where all activations do would add mostly their mean."""
    try:
        mean = known.mean_of(known.layer).vector
    except NLAError:
        return
    cosine = float(torch.nn.functional.cosine_similarity(rows, mean[None]).max())
    if cosine > ALIKE:
        warnings.warn(
            f"The vector to steer along looks like an activation (cosine {cosine:.2f} with their mean), and is added "
            "as a direction, mean and all. kind='activation' takes the mean off first; kind='direction' says that it "
            "is meant so.",
            SuspectActivationsWarning,
            stacklevel=5,
        )


def _prompts(prompt: Any) -> tuple[list[Any], bool]:
    """Texts and chats, and whether a single one was given.

    Raises:
        InputError, EmptyBatchError, TextError: there is none, or one is something else.
    """
    if not isinstance(prompt, str) and not (isinstance(prompt, (list, tuple)) and is_text(prompt)):
        raise InputError(f"The prompt is a {type(prompt).__name__}; expected a text, a chat or a list of them.")
    check_text_input(prompt, "prompt")
    if isinstance(prompt, str) or is_chat(prompt):
        return [prompt], True
    if bad := [one for one in prompt if not isinstance(one, str) and not is_chat(one)]:
        raise InputError(f"One of the prompts is a {type(bad[0]).__name__}; expected texts or chats.")
    return list(prompt), False


def _ids(source: Backbone, prompt: Any, row: int) -> list[int]:
    """A prompt's tokens, BOS among them where there is one.

    Raises:
        EmptyBatchError: there is no other. TextError: one has no embedding.
    """
    ids = tokenize(source.tokenizer, prompt)
    if not ids or ids == [source.tokenizer.bos_token_id]:
        raise EmptyBatchError(f"The prompt in row {row} has no tokens; expected at least one to go on from.")
    check_embedded(source.tokenizer, ids, source.vocabulary, f"The prompt in row {row}")
    return ids


def _continuation(source: Backbone, prompt: Sequence[int], written: Sequence[int]) -> str:
    """What was written, as it stands behind its prompt: some tokenizers decode a first token without its space."""
    before, whole = (
        str(source.tokenizer.decode(list(ids), skip_special_tokens=True)) for ids in (prompt, [*prompt, *written])
    )
    if whole.startswith(before):
        return whole[len(before) :]
    return str(source.tokenizer.decode(list(written), skip_special_tokens=True))


def _refuse_no_block(layers: Sequence[int], source: Backbone) -> None:
    """Refuse layers that the source has not.

    Raises:
        LayerError: says which it has.
    """
    if bad := [layer for layer in layers if not 0 <= layer < source.num_blocks]:
        raise LayerError(
            f"Nothing can be added after layer {bad[0]}: {source.ref} has layers 0 to {source.num_blocks - 1}. Say "
            "another (layer=)."
        )


def _strengths(strength: Any) -> tuple[list[float], bool]:
    """One strength or several, and whether it is one.

    Raises:
        InputError: it is no finite number. EmptyBatchError: there is none.
    """
    several = hasattr(strength, "__iter__") and not isinstance(strength, (str, bytes)) and getattr(strength, "ndim", 1)
    numbers = []
    for one in list(strength) if several else [strength]:
        try:
            number = math.nan if isinstance(one, (str, bytes, bool)) else float(one)
        except (TypeError, ValueError, RuntimeError, OverflowError):
            number = math.nan
        if not math.isfinite(number):
            raise InputError(f"strength={one!r:.60}: expected a finite number; 0 adds nothing, below 0 the opposite.")
        numbers.append(number)
    if not numbers:
        raise EmptyBatchError("The list of strengths is empty; expected at least one.")
    return numbers, not several


def _spread(**lists: list[Any]) -> list[tuple[Any, ...]]:
    """Rows of lists that are as long as each other, or of one item that all rows have.

    Raises:
        InputError: their lengths differ.
    """
    count = max(map(len, lists.values()))
    if {len(one) for one in lists.values()} - {1, count}:
        said = ", ".join(f"{len(one)} {name}" for name, one in lists.items())
        raise InputError(f"{said}: expected as many of each, or one.")
    return list(zip(*(one * (count // len(one)) for one in lists.values()), strict=True))
