"""Questions about sets of vectors, as `NLAPair.ask` takes them: a prompt each, as many of them in a request as go."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ...calls.asking import questions_for
from ...calls.inputs import check_vector_input
from ...calls.rows import as_sets, layer_of_each
from ...errors import InputError
from ...results import Activations
from ...vectors.kinds import Vectors
from .answers import ServedPair
from .asking import Asked, asked


@dataclass(frozen=True)
class Questions:
    """Sets of vectors, as many in each, with a question for each; the number of the first."""

    of: Asked
    questions: list[str]
    first: int


def sets_of(
    given: object, pair: ServedPair, *, layer: int | Sequence[int] | None, **said: Any
) -> tuple[list[Asked], bool]:
    """Sets of vectors, each of which stands in one prompt, and whether a single one was given.

    Raises:
        as `asked`.
    """
    several = isinstance(given, (list, tuple)) and any(isinstance(one, Activations) for one in given)
    if several and not all(isinstance(one, Activations) for one in given):  # pyright: ignore[reportGeneralTypeIssues]
        raise InputError("A list holds Activations and something else; expected Activations only.")
    parts: list[Any] = list(given) if several else [given]  # pyright: ignore[reportArgumentType]
    if not several and not isinstance(given, (Activations, Vectors)):
        check_vector_input(given)
        sets, single = as_sets(given, pair.d_model)
        parts, several = list(sets), not single
    found = []
    for one, at in zip(parts, layer_of_each(layer, len(parts), "rows"), strict=True):
        of = asked(one, pair, layer=at, **said)
        own = of.fields.get("layer")
        if isinstance(own, list):
            raise InputError(f"A prompt takes vectors of one layer; these are of {sorted(set(own))}.")
        found.append(replace(of, fields={**of.fields, "vectors": [of.fields["vectors"]]}, single=False))
    return found, not several


def asks(sets: Sequence[Asked], question: str | Sequence[str]) -> list[Questions]:
    """A question for each set, or all of one set; neighbours of as many vectors in one request.

    Raises:
        InputError: their numbers differ, or a question is no text. EmptyBatchError: there is none.
    """
    questions = questions_for(question, len(sets))
    if len(sets) == 1:
        return [Questions(sets[0], questions, 0)]
    return list(_together(sets, questions))


def _together(sets: Sequence[Asked], questions: Sequence[str]) -> Iterator[Questions]:
    first = 0
    for at in range(1, len(sets) + 1):
        if at < len(sets) and len(sets[at].fields["vectors"][0]) == len(sets[first].fields["vectors"][0]):
            continue
        part = sets[first:at]
        fields = {**part[0].fields, "vectors": [one.fields["vectors"][0] for one in part]}
        layers = [one.fields.get("layer") for one in part]
        if layers[0] is not None:
            fields["layer"] = layers
        yield Questions(replace(part[0], fields=fields), list(questions[first:at]), first)
        first = at
