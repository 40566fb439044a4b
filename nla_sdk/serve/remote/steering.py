"""Prompts, directions and strengths as `NLAPair.steer` takes them → requests, and what comes back with their names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from ...calls.inputs import check_text_input, is_text
from ...calls.steered import Steered
from ...errors import EmptyBatchError, InputError
from ...results import Activations
from ...sampling import whole_number
from ...vectors.kinds import Kind, Vectors
from .answers import ServedPair, steered
from .asking import asked, several_texts, text_fields

MOST = 16
"""Prompts, directions and strengths of one request."""
Item = TypeVar("Item")


@dataclass(frozen=True)
class Steering:
    """One request: its fields, and what each of its rows goes on from and towards."""

    fields: dict[str, Any]
    prompts: list[Any]
    names: list[str]

    def results(self, answer: Any) -> list[Steered]:
        """What is made of its answer."""
        return [steered(*one) for one in zip(answer["rows"], self.prompts, self.names, strict=True)]


@dataclass(frozen=True)
class _Way:
    name: str
    fields: dict[str, Any]
    vector: list[float] | None = None


def asks(
    prompt: Any,
    towards: Any,
    strength: Any,
    pair: ServedPair,
    *,
    layer: int | None,
    kind: Kind | None,
    force: bool,
    mean: object,
) -> tuple[list[Steering], bool]:
    """Requests, and whether one thing was asked for.

    Raises:
        as `NLAPair.steer`.
    """
    prompts, one_prompt = several_texts(prompt)
    ways, one_way = _ways(towards, pair, layer, kind, force, mean)
    several = hasattr(strength, "__iter__") and not isinstance(strength, str)
    strengths = [float(one) for one in strength] if several else [float(strength)]
    if not strengths:
        raise EmptyBatchError("The list of strengths is empty; expected at least one.")
    lists: dict[str, list[Any]] = {"prompts": prompts, "directions": ways, "strengths": strengths}
    count = max(map(len, lists.values()))
    if {len(one) for one in lists.values()} - {1, count}:
        said = ", ".join(f"{len(one)} {name}" for name, one in lists.items())
        raise InputError(f"{said}: expected as many of each, or one.")
    prompts, ways, strengths = (one * (count // len(one)) for one in lists.values())
    made = []
    for first, end in _alike(prompts, ways):
        texts, part = prompts[first:end], ways[first:end]
        chat = not isinstance(texts[0], str)
        fields = (
            text_fields(texts[0], "prompt")
            if chat
            else {"prompts": [text_fields(one, "prompt")["text"] for one in texts]}
        )
        given = (
            {"towards": [one.name for one in part]}
            if part[0].vector is None
            else {"vectors": [one.vector for one in part]}
        )
        made.append(
            Steering(
                {**fields, **given, **part[0].fields, "strength": strengths[first:end]},
                texts,
                [one.name for one in part],
            )
        )
    return made, one_prompt and one_way and not several


def _alike(prompts: Sequence[Any], ways: Sequence[_Way]) -> list[tuple[int, int]]:
    """Rows that one request holds: of texts, or of one chat; of one layer; not too many."""
    parts, first = [], 0
    for at in range(1, len(prompts) + 1):
        alike = at < len(prompts) and at - first < MOST and ways[at].fields == ways[first].fields
        if alike and (
            prompts[at] is prompts[first] or isinstance(prompts[at], str) == isinstance(prompts[first], str) is True
        ):
            continue
        parts.append((first, at))
        first = at
    return parts


def _ways(
    towards: Any, pair: ServedPair, layer: int | None, kind: Kind | None, force: bool, mean: object
) -> tuple[list[_Way], bool]:
    at = {} if layer is None else {"layer": whole_number("layer", layer)}
    if not isinstance(towards, (Vectors, Activations)) and is_text(towards):
        if kind is not None:
            raise InputError(f"kind={kind!r} is said of vectors; what to steer towards is a text.")
        if mean is not None:
            asked([], pair, mean=mean)
        check_text_input(towards, "text to steer towards")
        texts = [towards] if isinstance(towards, str) else list(cast("Sequence[Any]", towards))
        if not all(isinstance(text, str) for text in texts):
            raise InputError("What to steer towards is a chat; expected a text, a list of texts, or vectors.")
        if not all(text.strip() for text in texts):
            raise EmptyBatchError("The text to steer towards is empty: no words say nothing to go to. Give it some.")
        return [_Way(text, at) for text in texts], isinstance(towards, str)
    of = asked(towards, pair, kind=kind, force=force, mean=mean)
    vectors = of.fields["vectors"]
    names = of.names or tuple(f"#{number}" for number in range(len(vectors)))
    own: list[dict[str, Any]] = [at] * len(vectors)
    said = of.fields.get("kind")
    if isinstance(towards, Activations):
        own, said = [{"layer": towards.layer} | at] * len(vectors), said or "activation"
    elif isinstance(towards, Vectors):
        own = [{"layer": one} | at for one in towards.layers]
    more = {} if said is None else {"kind": said}
    ways = [_Way(name, {**one, **more}, vector) for name, one, vector in zip(names, own, vectors, strict=True)]
    named = isinstance(towards, (Vectors, Activations))
    return ways, len(ways) == 1 if named else bool(of.single)
