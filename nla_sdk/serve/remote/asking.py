"""What a client's methods are passed → the JSON of a request; refused here where a pair refuses it before it runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch

from ...calls.held import refuse_foreign
from ...calls.inputs import check_text_input, check_vector_input, is_text
from ...calls.rows import as_sets, layer_of_each, refuse_other_layer
from ...errors import EmptyBatchError, InputError
from ...io.origins import Origin, check_origin
from ...model.extraction import Conversation, is_chat
from ...model.injection import as_vectors
from ...results import Activations
from ...vectors.kinds import Kind, Vectors, as_kind
from .answers import ServedPair

MESSAGE = {"role", "content", "channel"}
"""What a message of a chat may hold; a template that reads more is asked in vain."""


@dataclass(frozen=True)
class Asked:
    """Rows that are asked about.

    Attributes:
        fields: of the request.
        single: whether the caller gave one by itself, and gets one result by itself; None: a matrix, which is one row
            of a prompt that takes several vectors.
        read: `extract` returned them, or they are texts: nothing is suspect in them.
        names: of vectors, where they have some.
    """

    fields: dict[str, Any]
    single: bool | None
    read: bool = False
    names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(next((self.fields[name] for name in _LISTS if name in self.fields), [None]))

    def parts(self, size: int) -> Iterator[tuple[int, dict[str, Any]]]:
        """The fields of as many rows at a time as one request may have, and the number of the first."""
        for first in range(0, len(self), size):
            part = dict(self.fields)
            for name in (*_LISTS, "layer"):
                if isinstance(part.get(name), list):
                    part[name] = part[name][first : first + size]
            yield first, part


_LISTS = ("vectors", "texts")


def text_fields(text: object, what: str = "text") -> dict[str, Any]:
    """One text or one chat.

    Raises:
        InputError: it is neither, or a message holds what a server does not take. TextError: it is no text.
        EmptyBatchError: it is empty.
    """
    check_text_input([text] if is_chat(text) else text, what)
    if isinstance(text, str):
        if not text:
            raise EmptyBatchError(f"The {what} is empty; expected at least one character.")
        return {"text": text}
    if not is_chat(text):
        raise InputError(f"The {what} is a {type(text).__name__}; expected a text, or a list of messages.")
    messages = [dict(one) for one in cast("Sequence[Mapping[str, Any]]", text)]
    for one in messages:
        if unknown := set(one) - MESSAGE:
            raise InputError(
                f"A message has the key {min(unknown)!r}; a served pair is sent {', '.join(sorted(MESSAGE))} only, and "
                "a template that reads others would write another prompt."
            )
    found: dict[str, Any] = {"messages": messages}
    if isinstance(text, Conversation):
        found |= {
            "add_generation_prompt": text.add_generation_prompt,
            "continue_final_message": text.continue_final_message,
            "enable_thinking": text.enable_thinking,
        }
    return found


def several_texts(text: object) -> tuple[list[Any], bool]:
    """Texts or chats, and whether a single one was given.

    Raises:
        InputError, EmptyBatchError, TextError.
    """
    if isinstance(text, str) or is_chat(text):
        return [text], True
    if not is_text(text):
        raise InputError(f"Expected a text, a chat or a list of them, got a {type(text).__name__}.")
    texts = list(cast("Sequence[Any]", text))
    if not all(isinstance(one, str) or is_chat(one) for one in texts):
        raise InputError("Every text must be a string or a list of {'role', 'content'} messages.")
    return texts, False


def asked(
    given: object,
    pair: ServedPair,
    *,
    layer: int | Sequence[int] | None = None,
    force: bool = False,
    kind: Kind | None = None,
    direction: str | None = None,
    mean: object = None,
    model_tag: str | None = None,
) -> Asked:
    """Vectors, what `extract` returned, `Vectors`, a text or texts.

    Args:
        layer, force, kind, direction, mean, model_tag: as of `NLAPair.explain`.
    Raises:
        as `NLAPair.explain` of what is wrong with vectors; InputError: `mean`, which a server has its own of.
    """
    if mean is not None:
        raise InputError("mean= is not sent to a served pair, which takes the mean that it knows; leave it out.")
    said: dict[str, Any] = {"layer": _plain_layer(layer), "model_tag": model_tag}
    if is_text(given):
        if kind not in (None, "activation") or direction is not None:
            raise InputError("kind= and direction= are said of vectors, and a text is read at its last token.")
        texts, single = several_texts(given)
        if single:
            return Asked(text_fields(given) | _stated(said), True, read=True)
        check_text_input(given)
        if not all(isinstance(one, str) for one in texts):
            raise InputError("A served pair is asked about one chat at a time; pass each by itself.")
        return Asked({"texts": texts} | _stated(said), False, read=True)
    vectors, own, names, read = _bare(given, pair, force)
    if own is not None and layer is not None and not force:
        for at, one in zip(own, layer_of_each(layer, len(own), "rows"), strict=True):
            refuse_other_layer(one, at, "the Activations were")
    if own is not None and layer is None:
        said["layer"] = own[0] if len(set(own)) == 1 else own
    of = given.kind if isinstance(given, Vectors) and kind is None else kind
    if read and kind not in (None, "activation"):
        raise InputError(f"kind={kind!r}, but what `extract` returned are activations; leave kind= out.")
    said |= {"kind": None if of is None else as_kind(of), "direction": direction, "force": force or None}
    numbers, depth = _numbers(vectors, pair.d_model)
    numbers = [numbers] if depth == 1 else numbers
    single = depth == 1 or (None if depth == 2 else False)
    return Asked({"vectors": numbers} | _stated(said), single, read, names)


def _stated(said: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in said.items() if value is not None}


def _plain_layer(layer: Any) -> Any:
    return [int(one) for one in layer] if hasattr(layer, "__iter__") and not isinstance(layer, str) else layer


def _origin(pair: ServedPair) -> Origin:
    layers = tuple(pair.layers) if isinstance(pair.layers, list) else pair.layers
    return Origin(layer=pair.layer, model=pair.base, precision=pair.precision, layers=layers)


def _bare(given: object, pair: ServedPair, force: bool) -> tuple[Any, list[int] | None, tuple[str, ...], bool]:
    """The vectors; of each the layer, as it is said to a pair that reads several; their names; whether they were read.

    Raises:
        ForeignActivationError: they are of another layer or model.
    """
    if isinstance(given, Vectors):
        refuse_foreign(given, _origin(pair), pair.facts.get("model_types") or (), force=force)
        return given.vectors, _spoken(given.layers, pair), given.labels, False
    if isinstance(given, (list, tuple)) and given and isinstance(given[0], Activations):
        if not all(isinstance(one, Activations) for one in given):
            raise InputError("A list holds Activations and something else; expected Activations only.")
        parts = [_bare(one, pair, force) for one in given]
        layers = [layer for _, of, _, _ in parts for layer in of or ()]
        vectors = torch.cat([one.vectors for one in cast("Sequence[Activations]", given)])
        names = tuple(name for _, _, of, _ in parts for name in of)
        return vectors, layers if len(layers) == len(vectors) else None, names, True
    if isinstance(given, Activations):
        facts = {name: getattr(given, name) for name in ("layer", "model", "precision")}
        check_origin([("all rows", facts)], _origin(pair), "The Activations", force=force)
        return given.vectors, _spoken([given.layer] * len(given), pair), tuple(given.tokens), True
    check_vector_input(given)
    return given, None, (), False


def _spoken(layers: Sequence[int], pair: ServedPair) -> list[int] | None:
    """Layers as they are said to a pair that reads several; None to one that does not."""
    if pair.layers is None or (pair.layers != "any" and not set(layers) <= set(pair.layers)):
        return None
    return list(layers)


def _numbers(vectors: Any, width: int) -> tuple[Any, int]:
    """Nested lists of numbers and their depth, held against what a pair takes; float32, which JSON holds to the last
    digit."""
    depth = getattr(vectors, "ndim", None)
    depth = _depth(vectors) if depth is None else depth
    if depth >= 3:
        sets, _ = as_sets(vectors, width)
        return [one.tolist() for one in sets], 3
    rows, single = as_vectors(vectors, width)
    return (rows[0] if single else rows).tolist(), 1 if single else 2


def _depth(value: Any) -> int:
    if isinstance(value, (list, tuple)):
        return 1 + max(map(_depth, value[:2]), default=0)
    return int(getattr(value, "ndim", 0))
