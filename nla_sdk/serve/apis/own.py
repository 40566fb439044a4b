"""Our own API, under /v1: what rows say, what their words are worth, and what an oracle answers."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from fastapi import APIRouter, Request, Response

from ...calls.comparing import signs_of
from ...calls.rows import by_layer
from ...claims.cutting import claims_of
from ...claims.telling import told
from ...errors import InputError
from ..about import placeless
from ..requests.gates import Ticket
from ..requests.rows import Alive, Failed, Grown, OnText, through
from ..requests.streams import Answer, Frames, error_of
from ..served import Served, noted, served
from ..shapes import answers
from ..shapes import own as shapes
from .common import StrictRoute, able, need, refusals, streamed, watched
from .given import Given, checking, given, known, sets_given

router = APIRouter(prefix="/v1", route_class=StrictRoute, responses=refusals("own"), tags=["v1"])
VECTORS = ("activation_vector", "reconstruction")
MOST_CLAIMS = 4096  # of one request: each is a text that the AR reads
MOST_OTHERS = 16  # rows' explanations that each row is scored with, beside its own


@router.post("/explain", response_model=answers.Rows, responses=streamed("Rows, or their stream."))
async def explain(body: shapes.ExplainRequest, request: Request) -> Response:
    """Activations and directions in words."""
    of = served(request)
    able(of.pair, "explain")
    if body.best_of > 1:
        need(of.pair, "ar", "best_of")
        if body.n > 1:
            raise InputError(f"n={body.n} and best_of={body.best_of}: ask for several explanations or the best one.")
    each = body.n * (2 if body.signs == "±" else 1)

    def write(rows: Given, at: list[int], ticket: Ticket, on_text: OnText | None) -> Sequence[Any]:
        how = {"n": body.n, "best_of": body.best_of, "signs": body.signs, **writing(body)}
        found = of.pair.explain(rows.take(at), **how, **rows.options_of(at), **watched(ticket, on_text))
        return found if each > 1 else [[one] for one in found]

    return await answered(of, request, body, write, each=each, samples=body.n, costs=each * body.best_of)


@router.post("/round-trip", response_model=answers.Rows, responses=streamed("Rows, or their stream."))
async def round_trip(body: shapes.RoundTripRequest, request: Request) -> Response:
    """Activations in words and back, scored beside no words, the mean direction and other rows' words.

    In a stream what other rows' words score comes after the rows: `{index, sample, shuffled_…}`.
    """
    of = served(request)
    able(of.pair, "round_trip")
    need(of.pair, "ar", "round_trip")

    def write(rows: Given, at: list[int], ticket: Ticket, on_text: OnText | None) -> Sequence[Any]:
        how = {"best_of": body.best_of, **writing(body)}
        how |= {**rows.options_of(at), **watched(ticket, on_text)}
        return [[one] for one in of.pair.round_trip(rows.take(at), **how)]

    def compare(rows: Given, found: dict[int, Sequence[Any]], ticket: Ticket) -> dict[int, dict[str, Any]]:
        return shuffled(of, ticket, rows, {row: one[0] for row, one in found.items()}, body.others)

    after = compare if body.shuffled else None
    return await answered(of, request, body, write, costs=body.best_of, after=after)


@router.post("/ask", response_model=answers.Rows, responses=streamed("Rows, or their stream."))
async def ask(body: shapes.AskRequest, request: Request) -> Response:
    """An activation oracle's answers. All positions of a text, and all vectors of a matrix, stand in one prompt."""
    of = served(request)
    able(of.pair, "ask")
    questions = [body.question] if isinstance(body.question, str) else body.question

    def write(rows: Given, at: list[int], ticket: Ticket, on_text: OnText | None) -> Sequence[Any]:
        how = {"n": body.n, **writing(body), **rows.options_of(at), **watched(ticket, on_text)}
        found = of.pair.ask(rows.take(at), [rows.facts[row]["question"] for row in at], **how)
        return found if body.n > 1 else [[one] for one in found]

    rows = partial(sets_given, of, body, questions)
    return await answered(of, request, body, write, each=body.n, samples=body.n, costs=body.n, rows=rows)


@router.post("/check", response_model=answers.CheckedRows)
async def check(body: shapes.CheckRequest, request: Request) -> Response:
    """The claims of explanations, each with what speaks for it and, of a calibrated pair, how probable it is.

    As many explanations as rows. Of rows that are read in a text the text is known: receipts of it are among them.
    """
    of = served(request)
    if body.steering:
        of.allow("steer")

    def work(ticket: Ticket) -> dict[str, Any]:
        rows = given(of, body)
        if len(body.explanations) != len(rows):
            raise InputError(f"{len(body.explanations)} explanations of {len(rows)} rows; expected as many of each.")
        refuse_more(of, len(rows), 1 + body.samples + 2 * body.nearby)
        if (count := sum(len(claims_of(one)) for one in body.explanations)) > MOST_CLAIMS:
            raise InputError(f"{count:,} claims; expected at most {MOST_CLAIMS:,} in one request. Ask for fewer rows.")
        how = {name: getattr(body, name) for name in ("samples", "nearby", "steering", "seed")}
        how |= {**checking(rows), **known(of, body, rows), "cancel": ticket.cancel}
        found = of.pair.check(list(body.explanations), rows.take(range(len(rows))), **how)
        made = [{"index": at, **told(one)} for at, one in enumerate(found)]
        say = placeless(of.pair)  # why there is no probability may name the folder that holds none
        for one in (each for row in made for each in (row, *row["claims"])):
            one["why_no_support"] = say(one["why_no_support"])
        return {"layer": rows.layer, "warning": rows.warning, "rows": made}

    found = await of.do(request, work)
    noted(request, rows=len(found["rows"]))
    return Answer(found)


def writing(body: shapes.Writing) -> dict[str, Any]:
    """How words are written, as the pair's methods take it."""
    return {name: getattr(body, name) for name in ("temperature", "max_new_tokens", "seed")}


Write = Callable[[Given, list[int], Ticket, "OnText | None"], Sequence[Any]]
After = Callable[[Given, dict[int, Sequence[Any]], Ticket], dict[int, dict[str, Any]]]


async def answered(
    of: Served,
    request: Request,
    body: Any,
    write: Write,
    *,
    each: int = 1,
    samples: int = 1,
    costs: int = 1,
    after: After | None = None,
    rows: Callable[[], Given] | None = None,
) -> Response:
    """Rows written, as one answer or as a stream.

    Args:
        write: some of the rows → a list of results of each.
        each: texts of a row; samples: of these, with one sign.
        costs: texts that are written of a row, for the limit.
        after: what is added to rows once all are there.
        rows: what is written of; None: the body, read as an Input.
    """
    ticket = await of.gate.enter(request)
    try:
        found = await of.gate.run(ticket, rows or (lambda: given(of, body)))
        refuse_more(of, len(found), costs)
        events = _events(of, request, ticket, found, write, each, samples, body, after)
        if body.stream:
            return Frames(_frames(found, events), of.gate, ticket, request.url.path)
        made = [one async for kind, one in events if kind != "text"]
    except BaseException:
        of.leave(request, ticket)
        raise
    of.leave(request, ticket)
    return Answer({"layer": found.layer, "warning": found.warning, "rows": _whole(made)})


def refuse_more(of: Served, rows: int, texts: int) -> None:
    """Refuse more texts than one request may have written.

    Raises:
        InputError: says how many it may.
    """
    if rows * texts > (most := of.limits.positions * of.limits.samples // 16):
        raise InputError(f"{rows} rows × {texts} texts; expected at most {most:,} texts in one request.")


def _whole(made: Sequence[dict[str, Any] | None]) -> list[dict[str, Any]]:
    """Rows in their order, what came after them added."""
    rows: dict[tuple[int, int, int], dict[str, Any]] = {}
    for one in made:
        if one is not None:
            key = (one["index"], one.get("sample", 0), one.pop("number", 0))
            rows[key] = rows.get(key, {}) | {name: value for name, value in one.items() if name != "done"}
    return [rows[key] for key in sorted(rows, key=lambda key: (key[0], key[2], key[1]))]


async def _frames(found: Given, events: AsyncGenerator[tuple[str, Any], None]) -> AsyncGenerator[Any, None]:
    head = {"total": len(found), "layer": found.layer, "warning": found.warning}
    yield head if found.length is None else {**head, "prompt_length": found.length}
    async for _, one in events:
        yield one if one is None else {name: value for name, value in one.items() if name != "number"}


async def _events(
    of: Served,
    request: Request,
    ticket: Ticket,
    found: Given,
    write: Write,
    each: int,
    samples: int,
    body: Any,
    after: After | None,
) -> AsyncGenerator[tuple[str, Any], None]:
    path, done = request.url.path, dict[int, Sequence[Any]]()
    vectors_out = getattr(body, "vectors_out", False)

    def call(rows: list[int], on_text: OnText | None) -> Sequence[Any]:
        return write(found, rows, ticket, on_text)

    errors: list[Failed] = []
    async for event in through(of.gate, ticket, len(found), call, each=each, stream=body.stream):
        if isinstance(event, Alive):
            yield "text", None
        elif isinstance(event, Grown):
            which: dict[str, Any] = {"index": event.row, "sample": event.number % samples}
            if getattr(body, "signs", "+") == "±":  # two texts of one index and sample
                which["sign"] = signs_of("±")[event.number // samples]
            yield "text", {**which, "text": event.text, "done": False}
        elif isinstance(event, Failed):
            errors.append(event)
            noted(request, failed=1)
            if len(errors) == len(found) and not body.stream:
                raise errors[0].error  # all of them: it is the request that fails
            yield "row", {"index": event.row, **error_of(path, event.error)}
        else:
            done[event.row] = event.result
            for number, one in enumerate(event.result):
                row = row_of(one, found.facts[event.row], found, event.row, vectors_out)
                noted(request, rows=1, tokens=row["tokens_written"])
                more = {"index": event.row, "sample": number % samples, "number": number // samples, "done": True}
                yield "row", {**row, **more}
    if after is not None and done:
        added = await of.gate.run(ticket, lambda: after(found, done, ticket))
        for row, columns in added.items():
            yield "row", {"index": row, "sample": 0, **columns}


def row_of(one: Any, facts: dict[str, Any], found: Given, row: int, vectors_out: bool) -> dict[str, Any]:
    """A result's columns, and where it is of; vectors only where they are asked for."""
    columns = one.to_row() | facts
    if not vectors_out:
        return {name: value for name, value in columns.items() if name not in VECTORS}
    if "activation_vector" not in columns and found.vectors is not None:
        columns["activation_vector"] = found.vectors[row]
    return columns


def shuffled(
    of: Served, ticket: Ticket, rows: Given, trips: dict[int, Any], others: Sequence[str]
) -> dict[int, dict[str, Any]]:
    """What other rows' explanations score against each row, a mean over at most `MOST_OTHERS` of them.

    Of more rows those are taken that lie evenly among them, so that an answer does not hang on chance. Rows of the very
    same vector are no others: what is written of one is written of all.
    """
    numbers = list(trips)
    step = max(1, -(-len(numbers) // MOST_OTHERS))
    vectors = torch.stack([trips[row].activation for row in numbers])
    layers = [rows.layers[row] for row in numbers]
    same = [(layer, vector.numpy().tobytes()) for layer, vector in zip(layers, vectors, strict=True)]
    texts = [(key, str(trips[row].explanation)) for key, row in zip(same[::step], numbers[::step], strict=True)]
    texts += [(None, text) for text in list(others)[: max(0, MOST_OTHERS - len(texts))]]
    options = {name: value for name, value in rows.options.items() if name in ("kind", "force")}
    scores: list[dict[int, Any]] = []
    for _, text in texts:
        scores.append({})
        for layer, at in by_layer(layers):
            ticket.check()
            scores[-1].update(zip(at, of.pair.score([text], vectors[at], layer=layer, **options), strict=True))
    found = {}
    for place, row in enumerate(numbers):
        mine = [one[place] for one, (whose, _) in zip(scores, texts, strict=True) if whose != same[place]]
        columns = {name: [value for one in mine if (value := getattr(one, name)) is not None] for name in _SHUFFLED}
        means = {f"shuffled_{name}": float(np.mean(values)) if values else None for name, values in columns.items()}
        found[row] = {**means, "shuffled_of": len(mine)}
    return found


_SHUFFLED = ("cosine", "mse", "gain")
