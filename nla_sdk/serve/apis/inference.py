"""The inference server's API, at the root: what clients of that server speak."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, TypeAlias

from fastapi import APIRouter, Request, Response

from ...results import Explanation, RoundTrip
from ..requests.gates import Ticket
from ..requests.rows import Alive, Failed, Grown, OnText, through
from ..requests.streams import Answer, Frames, error_of
from ..requests.texts import read, reading, wanted_positions
from ..served import Served, any_seed, noted, served
from ..shapes import inference as shapes
from ..shapes.common import Text, Tokenized
from ..tokens import Tokens
from .common import StrictRoute, able, refusals, streamed, watched
from .completing import Going, completed
from .given import as_array

Words: TypeAlias = AsyncGenerator[tuple[str, int, Any], None]
NEW_TOKENS = shapes.Generation().max_new_tokens
DROPPED = ("position", "generated")  # of a row that is no token
router = APIRouter(route_class=StrictRoute, responses=refusals("inference"), tags=["inference"])


@router.post("/tokenize", response_model=Tokenized)
async def tokenize(body: Text, request: Request) -> Response:
    """A text or a chat in the source's tokens."""
    of = served(request)
    text = await of.do(request, lambda ticket: reading(of.pair, of.settings, body))
    return Answer(text.shown())


@router.post("/extract", response_model=shapes.Extracted)
async def extract(body: Text, request: Request) -> Response:
    """The activations of a text, at every token."""
    of = served(request)

    def work(ticket: Ticket) -> dict[str, Any]:
        text = reading(of.pair, of.settings, body)
        positions = wanted_positions(None, len(text), of.limits.positions)
        acts, _ = read(of.pair, [text.given], positions, None)
        rows = zip(text.tokens.tokens, acts.vectors, acts.norms.tolist(), strict=True)
        found = [
            {
                "token": token.token,
                "token_id": token.token_id,
                "position": token.position,
                "activation": vector,
                "l2_norm": norm,
            }
            for token, vector, norm in rows
        ]
        return {"layer_index": acts.layer, "tokens": found}

    found = await of.do(request, work)
    noted(request, rows=len(found["tokens"]))
    return Answer(found)


@router.post("/explain", response_model=shapes.Explanations, responses=streamed("Explanations, or their stream."))
async def explain(body: shapes.ExplainRequest, request: Request) -> Response:
    """A text's activations in words, token by token, with how near the words come where there is a reconstructor."""
    of = served(request)
    ticket = await of.gate.enter(request)
    try:
        found = await prepared(of, ticket, body, body.positions)
        order = sorted(range(len(found.facts)), key=lambda row: found.facts[row]["position"], reverse=body.reverse)
        words = described(of, request, ticket, found, order, body)
        if body.stream:
            frames = _explain_frames(found, words)
            return Frames(frames, of.gate, ticket, request.url.path)
        results = await collected(words)
    except BaseException:
        of.leave(request, ticket)
        raise
    of.leave(request, ticket)
    return Answer({"layer_index": found.layer, "results": results})


@dataclass(frozen=True)
class Prepared:
    """A text that was read: what its rows are, and what of it is put to the pair."""

    layer: int
    length: int
    text: Tokens
    facts: list[dict[str, Any]]
    take: Callable[[Sequence[int]], Any]


async def prepared(of: Served, ticket: Ticket, body: Any, positions: Sequence[int] | None) -> Prepared:
    """A text read at positions, for `explain`."""
    able(of.pair, "explain")

    def work() -> Prepared:
        text = reading(of.pair, of.settings, body)
        wanted = wanted_positions(positions and list(positions), len(text), of.limits.positions)
        acts, take = read(of.pair, [text.given], wanted, None)
        norms, tokens = acts.norms.tolist(), text.tokens.tokens
        facts = [{**tokens[at].to_row(), "l2_norm": norm} for at, norm in zip(wanted, norms, strict=True)]
        return Prepared(acts.layer, len(text), text.tokens, facts, take)

    return await of.gate.run(ticket, work)


async def described(
    of: Served, request: Request, ticket: Ticket, found: Prepared, order: Sequence[int], body: Any
) -> Words:
    """Rows in words as they come, each as a kind, its number and a frame; of "failed" with its error."""
    seed = any_seed()

    def call(rows: list[int], on_text: OnText | None) -> Sequence[Any]:
        return words_of(of, found.take([order[row] for row in rows]), body, seed, ticket, on_text)

    async for event in through(of.gate, ticket, len(order), call, stream=body.stream):
        if isinstance(event, Alive):
            yield "alive", 0, None
            continue
        facts = found.facts[order[event.row]]
        if isinstance(event, Grown):
            yield "text", event.row, {"position": facts["position"], "text": event.text, "done": False}
        elif isinstance(event, Failed):
            noted(request, failed=1)
            frame = {"position": facts["position"], **error_of(request.url.path, event.error)}
            yield "failed", event.row, (frame, event.error)
        else:
            noted(request, rows=1, tokens=event.result[0].tokens)
            yield "row", event.row, {**facts, **as_description(event.result), "generated": False}


def words_of(
    of: Served, given: Any, body: Any, seed: int, ticket: Ticket, on_text: OnText | None, **more: Any
) -> list[tuple[Explanation, RoundTrip | None]]:
    """What the AV writes for vectors, and how near the AR comes, if there is one."""
    pair = of.pair
    tokens = getattr(body, "max_new_tokens", NEW_TOKENS)  # which the public site's API does not name
    how = {"temperature": body.temperature, "max_new_tokens": tokens, "seed": seed, **more}
    if pair.reconstructor is None:
        return [(text, None) for text in pair.explain(given, **how, **watched(ticket, on_text))]
    trips = pair.round_trip(given, **how, **watched(ticket, on_text))
    return [(trip.explanation, trip) for trip in trips]


def as_description(result: tuple[Explanation, RoundTrip | None]) -> dict[str, Any]:
    """What was written, as this API tells it."""
    text, trip = result
    score = {} if trip is None else {"mse": trip.mse, "cosine_similarity": trip.cosine}
    return {"description": str(text), **score}


async def collected(words: Words) -> list[Any]:
    """The rows in their order of asking; where one failed, its error: a list cannot say which is missing."""
    found: dict[int, Any] = {}
    async with aclosing(words):
        async for kind, row, one in words:
            if kind == "failed":
                raise one[1]
            if kind == "row":
                found[row] = one
    return [found[row] for row in sorted(found)]


async def _explain_frames(found: Prepared, words: Words) -> AsyncGenerator[Any, None]:
    yield {"layer_index": found.layer, "total": len(found.facts), "prompt_length": found.length}
    async for kind, _, one in words:
        yield one[0] if kind == "failed" else one


@router.post("/describe", response_model=shapes.Descriptions, responses=streamed("Descriptions, or their stream."))
async def describe(body: shapes.DescribeRequest, request: Request) -> Response:
    """Activations in words."""
    of = served(request)
    vectors = as_array(body.activations)
    facts = [{"position": at} for at in range(len(vectors))]
    found = Prepared(of.pair.layer, 0, Tokens("", [], []), facts, lambda rows: vectors[list(rows)])
    able(of.pair, "explain")
    ticket = await of.gate.enter(request)
    words = described(of, request, ticket, found, range(len(vectors)), body)
    if body.stream:
        return Frames(_describe_frames(words), of.gate, ticket, request.url.path)
    try:
        results = await collected(words)
    finally:
        of.leave(request, ticket)
    return Answer({"results": [{name: one[name] for name in one if name not in DROPPED} for one in results]})


async def _describe_frames(words: Words) -> AsyncGenerator[Any, None]:
    async for kind, _, one in words:
        if kind == "alive":
            yield None
            continue
        of = one[0] if kind == "failed" else one
        yield {"index": of["position"], **{name: value for name, value in of.items() if name not in DROPPED}}


@router.post("/score", response_model=shapes.Scored)
async def score(body: shapes.ScoreRequest, request: Request) -> Response:
    """How near the reconstructor comes to an activation from a description."""
    of, vectors = served(request), as_array([body.activation])

    def work(ticket: Ticket) -> dict[str, float]:
        found = of.pair.score([body.description], vectors)[0]
        return {"mse": found.mse, "cosine_similarity": found.cosine}

    found = await of.do(request, work)
    noted(request, rows=1)
    return Answer(found)


@router.post("/compare", response_model=shapes.Compared)
async def compare(body: shapes.CompareRequest, request: Request) -> Response:
    """The difference of two activations, a − b, in words."""
    of, (a, b) = served(request), as_array([body.activation_a, body.activation_b])
    between = (a.double() - b.double()).float()[None]

    def work(ticket: Ticket) -> dict[str, Any]:
        written = words_of(of, between, body, any_seed(), ticket, None, kind="difference")[0]
        return {**as_description(written), "diff_norm": float(between.double().norm())}

    found = await of.do(request, work)
    noted(request, rows=1)
    return Answer(found)


@router.post("/completion", response_model=Tokenized, responses=streamed("The text and its tokens, or their stream."))
async def complete(body: shapes.CompletionRequest, request: Request) -> Response:
    """What the source goes on with."""
    of = served(request)
    tokens = min(max(1, body.completion_tokens), of.limits.completion_tokens)
    return await completed(of, request, body, Going(tokens, body.temperature, any_seed(), body.stream))
