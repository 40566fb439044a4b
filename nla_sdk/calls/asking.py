"""Questions to an activation oracle: vectors or texts as a caller has them → sets of vectors, a question each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

import torch

from ..contract import Contract
from ..errors import EmptyBatchError, InputError, MissingHalfError, NotAnOracleError, PositionError
from ..io.origins import Origin
from ..model.injection import as_vectors
from ..results import Activations, Answer, Explanation, Results
from ..sampling import whole_number
from .inputs import check_vector_input
from .rows import Rows, as_sets, bare, stacked

Half = TypeVar("Half")


def needed(half: Half | None, method: str, role: str, missing: str) -> Half:
    """The half that a method works with.

    Args:
        missing: why the pair has none.
    Raises:
        MissingHalfError: it has none.
    """
    if half is None:
        raise MissingHalfError(f"{method} needs an {role}, and this pair has none: {missing}")
    return half


def require_oracle(contract: Contract, ref: str) -> None:
    """Refuse questions to an AV whose prompt has no place for one.

    Raises:
        NotAnOracleError: says what to call in its place.
    """
    if not contract.asks:
        raise NotAnOracleError(
            f"{ref} takes no question: its prompt has no {{question}}, so it is a verbalizer, not an activation "
            "oracle. pair.explain (nla explain) says what it reads; `nla releases --family oracle` lists oracles."
        )


def require_default(contract: Contract, ref: str) -> None:
    """Refuse to explain with an oracle that has no question of its own.

    Raises:
        InputError: says how to ask one.
    """
    if contract.asks and contract.fields["question"].default is None:
        raise InputError(
            f"{ref} is an activation oracle, and its contract has no question to explain with "
            "(fields.question.default). Ask one: pair.ask(vectors, 'What is the text about?') (nla ask)."
        )


def asked(vectors: object, contract: Contract, origin: Origin, *, width: int, force: bool = False) -> Rows:
    """What `ask` takes: all vectors of a matrix stand in one prompt, a marker each.

    Args:
        vectors: one set: [d_model], [n, d_model], or Activations; or several: [sets, n, d_model], or a list of
            [n, d_model] or Activations, of which n may differ.
        origin, width, force: as for `explained`.
    Returns:
        Rows, a set each: float32 [sets, n, d_model], or a list of [n, d_model].
    Raises:
        as `explained`; InputError: a prompt of this oracle takes another number of vectors.
    """
    layers: list[int | None]
    several = isinstance(vectors, (list, tuple)) and any(isinstance(one, Activations) for one in vectors)
    if several or isinstance(vectors, Activations):
        read = vectors if isinstance(vectors, (list, tuple)) else [vectors]
        if not all(isinstance(one, Activations) for one in read):
            raise InputError("A list holds Activations and something else; expected Activations only.")
        found = [bare(one, contract, origin, force) for one in read]
        sets = [as_vectors(one, width, what=f"activation set {at}")[0] for at, (one, _) in enumerate(found)]
        layers = [layer for _, layer in found]
    else:
        check_vector_input(vectors)
        sets, single = as_sets(vectors, width)
        several = not single
        layers = [None for _ in sets]
    most = contract.injection_markers
    if most != "any" and (wrong := [one for one in sets if len(one) != most]):
        raise InputError(
            f"{len(wrong[0])} vectors are put to one prompt; it takes {most} (`injection.markers`). Of several vectors "
            "with a question each pass [n, 1, d_model]."
        )
    return Rows(stacked(sets), layers, not several)


def questions_for(question: str | Sequence[str], sets: int) -> list[str]:
    """A question for each set: one question is put to every set, one set gets every question.

    Args:
        sets: how many there are.
    Raises:
        InputError: their numbers differ, or a question is no text. EmptyBatchError: there is none.
    """
    if not isinstance(question, (str, list, tuple)):
        raise InputError(f"The question is a {type(question).__name__}; expected a text, or a list of texts.")
    questions = [question] if isinstance(question, str) else list(question)
    if not questions:
        raise EmptyBatchError("The list of questions is empty; expected at least one.")
    if bad := [text for text in questions if not isinstance(text, str)]:
        raise InputError(f"A question is a {type(bad[0]).__name__}; expected a text.")
    count = max(sets, len(questions))
    if {sets, len(questions)} - {1, count}:
        raise InputError(
            f"{len(questions)} questions and {sets} sets of vectors; expected as many of each, or one of either."
        )
    return questions * (count // len(questions))


def spread(rows: Rows, question: str | Sequence[str]) -> tuple[Rows, list[str]]:
    """Rows and a question for each of them, see `questions_for`."""
    one = isinstance(question, str)
    questions = questions_for(question, len(rows))
    count = len(questions)
    if len(rows) == 1 and count > 1:
        vectors = [rows.vectors[0]] * count
        rows = replace(rows, vectors=torch.stack(vectors), layers=rows.layers * count, single=False)
    return replace(rows, single=rows.single and one), questions


def slice_of(positions: object, length: int) -> object:
    """`(a, b)` as the positions a … b − 1 of a text of so many tokens; anything else as it is.

    Raises:
        PositionError: it reaches beyond the text, or holds no token.
    """
    if not isinstance(positions, tuple) or len(positions) != 2:
        return positions
    first, end = (whole_number("positions", one) for one in positions)
    within = -length <= first < length and -length <= end <= length
    wanted = range(first % length, end if end >= 0 else end + length) if within else range(0)
    if not wanted:
        raise PositionError(
            f"positions=({first}, {end}): the tokens {first} to {end - 1} are none of a text of {length} tokens; "
            "(a, b) is a slice, b not included."
        )
    return list(wanted)


def answers(
    written: Sequence[Explanation], questions: Sequence[str], layers: Sequence[int], n: int
) -> Results[Answer] | Results[Results[Answer]]:
    """What was written for each question, `n` times each, with the question."""
    made = [Answer.of(text, questions[at // n], layers[at // n]) for at, text in enumerate(written)]
    if n == 1:
        return Results(made)
    return Results(Results(made[start : start + n]) for start in range(0, len(made), n))
