"""Our own API, under /v1: the pair itself, its texts, scores and reconstructions, comparing, steering."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
from fastapi import APIRouter, Request, Response

from ...contract.releases.catalogue import releases
from ...errors import InputError
from ..about import about
from ..requests.gates import Ticket
from ..requests.streams import Answer
from ..requests.texts import read, reading, require_source, wanted_positions
from ..served import Served, noted, served
from ..shapes import answers
from ..shapes import own as shapes
from ..shapes.common import Tokenized
from .common import StrictRoute, able, need, refusals, streamed
from .completing import Going, completed
from .given import as_array, given, one_layer, scoring
from .own import VECTORS, writing

router = APIRouter(prefix="/v1", route_class=StrictRoute, responses=refusals("own"), tags=["v1"])


@router.get("/pair", response_model=answers.Pair)
async def pair(request: Request) -> Response:
    """The pair that is served, what was measured of it, and what must be said beside its words."""
    of = served(request)
    return Answer(await of.gate.apart(lambda: about(of)))


@router.get("/releases", response_model=answers.Releases)
async def list_releases(request: Request) -> Response:
    """Published releases that are known, and whether they load; none of them is loaded here."""
    names = ("repo", "subfolder", "family", "kind", "runnable", "missing", "faults")
    found = await served(request).gate.apart(lambda: list(releases()))
    return Answer({"releases": [{name: getattr(one, name) for name in names} for one in found]})


@router.post("/tokenize", response_model=Tokenized)
async def tokenize(body: shapes.Text, request: Request) -> Response:
    """A text or a chat in the source's tokens."""
    of = served(request)
    text = await of.do(request, lambda ticket: reading(of.pair, of.settings, body))
    return Answer(text.shown())


@router.post("/extract", response_model=answers.Extracted)
async def extract(body: shapes.ExtractRequest, request: Request) -> Response:
    """Activations of a text, raw."""
    of = served(request)

    def work(ticket: Ticket) -> dict[str, Any]:
        text = reading(of.pair, of.settings, body)
        wanted = wanted_positions(body.positions, len(text), of.limits.positions)
        acts, tokens = of.pair.extract([text.given], wanted, body.layer), text.tokens.tokens
        rows = [
            {**tokens[at].to_row(), "l2_norm": norm, "activation_vector": vector}
            for at, norm, vector in zip(wanted, acts.norms.tolist(), acts.vectors, strict=True)
        ]
        return {"layer": acts.layer, "prompt_length": len(text), "rows": rows}

    found = await of.do(request, work)
    noted(request, rows=len(found["rows"]))
    return Answer(found)


@router.post("/score", response_model=answers.Scores)
async def score(body: shapes.ScoreRequest, request: Request) -> Response:
    """How near the reconstructor comes to rows from any words: as many as there are rows, or all against one row."""
    of = served(request)

    def work(ticket: Ticket) -> list[dict[str, Any]]:
        need(of.pair, "ar", "score")
        rows = given(of, body, look=False)
        if len(rows) * len(body.explanations) > of.limits.positions and len(rows) != len(body.explanations) != 1:
            raise InputError(f"{len(body.explanations)} explanations against {len(rows)} rows are too many at once.")
        scores = of.pair.score(list(body.explanations), rows.take(range(len(rows))), **scoring(rows))
        return [{**one.to_row(), "index": at} for at, one in enumerate(scores)]

    found = await of.do(request, work)
    noted(request, rows=len(found))
    return Answer({"rows": found})


@router.post("/reconstruct", response_model=answers.Reconstructions)
async def reconstruct(body: shapes.ReconstructRequest, request: Request) -> Response:
    """Explanations back into vectors; of a text, the tokens whose activations are nearest to them."""
    of = served(request)

    def work(ticket: Ticket) -> dict[str, Any]:
        need(of.pair, "ar", "reconstruct")
        layer = {} if body.layer is None else {"layer": body.layer}
        vectors = of.pair.reconstruct(list(body.explanations), **layer)
        rows: list[dict[str, Any]] = [
            {"index": at, "l2_norm": float(vector.norm()), "nearest": []} for at, vector in enumerate(vectors)
        ]
        if body.vectors_out:
            rows = [{**row, "reconstruction": vector} for row, vector in zip(rows, vectors, strict=True)]
        centred = False
        if (body.text is not None or body.messages) and body.nearest:
            near, centred = nearest(of, body, ticket)
            rows = [{**row, "nearest": found} for row, found in zip(rows, near, strict=True)]
        return {"centred": centred, "rows": rows}

    found = await of.do(request, work)
    noted(request, rows=len(found["rows"]))
    return Answer(found)


def nearest(of: Served, body: shapes.ReconstructRequest, ticket: Ticket) -> tuple[list[list[dict[str, Any]]], bool]:
    """Of each explanation the tokens of a text that come nearest, and whether the mean was taken off both.

    Without the mean every activation lies near every other: what is left over it tells them apart.
    """
    text = reading(of.pair, of.settings, body)
    wanted = wanted_positions(None, len(text), of.limits.positions)
    acts, _ = read(of.pair, [text.given], wanted, body.layer)
    tokens = text.tokens.tokens
    mean = mean_of(of, acts.layer)
    vectors = acts.vectors if mean is None else acts.vectors - mean
    how: dict[str, Any] = {"kind": "activation" if mean is None else "difference"}
    if body.layer is not None:
        how["layer"] = body.layer
    found = []
    for words in body.explanations:
        ticket.check()
        scores = of.pair.score([words], vectors, **how)
        order = sorted(range(len(scores)), key=lambda at: -scores[at].cosine)[: body.nearest]
        found.append([{"position": at, "token": tokens[at].token, "cosine": scores[at].cosine} for at in order])
    return found, mean is not None


def mean_of(of: Served, layer: int) -> torch.Tensor | None:
    """The mean activation of the pair's layer, where it is known."""
    if layer != of.pair.layer:
        return None
    for half in (of.pair.reconstructor, of.pair.verbalizer):
        if half is not None and half.mean is not None:
            return half.mean.float().cpu()
    statistics, _ = of.pair.activation_statistics()
    return None if statistics is None else statistics.as_mean().vector.float().cpu()


@router.post("/steer", response_model=answers.SteeredRows)
async def steer(body: shapes.SteerRequest, request: Request) -> Response:
    """What the source writes with a direction in its stream, beside what it writes without."""
    of = served(request)
    of.allow("steer")

    def work(ticket: Ticket) -> list[dict[str, Any]]:
        require_source(of.settings)
        text = None if body.prompts is not None else reading(of.pair, of.settings, body)
        texts = [text.given] if text is not None else list(body.prompts or ())
        towards: Any = [body.towards] if isinstance(body.towards, str) else body.towards
        towards = towards if body.vectors is None else as_array(body.vectors)
        strengths = body.strength if isinstance(body.strength, list) else [body.strength]
        how = {"layer": body.layer, "kind": body.kind, **writing_of(body), "cancel": ticket.cancel}
        found = of.pair.steer(texts, towards, strengths, **how)
        shown = text.tokens.text if text is not None else None
        return [{**one.to_row(), "prompt": shown or one.prompt, "index": at} for at, one in enumerate(found)]

    found = await of.do(request, work)
    noted(request, rows=len(found))
    return Answer({"rows": found})


def writing_of(body: shapes.SteerRequest) -> dict[str, Any]:
    """How the source writes."""
    return {name: getattr(body, name) for name in ("max_new_tokens", "temperature", "seed")}


@router.post("/compare", response_model=answers.Comparisons)
async def compare(body: shapes.CompareRequest, request: Request) -> Response:
    """Two rows in words, and what lies between them."""
    of = served(request)

    def work(ticket: Ticket) -> list[dict[str, Any]]:
        able(of.pair, "compare")
        sides = [given(of, side, look=False) for side in (body.a, body.b)]
        refuse_unlike(of, body.a, body.b)
        how = {**sides[0].options, **sides[1].options, **writing(body), "signs": body.signs, "cancel": ticket.cancel}
        taken = [side.take(range(len(side))) for side in sides]
        found = of.pair.compare(*taken, **how)
        return [compared(one, at, body.vectors_out) for at, one in enumerate(found)]

    found = await of.do(request, work)
    noted(request, rows=len(found))
    return Answer({"rows": found})


def refuse_unlike(of: Served, a: shapes.Input, b: shapes.Input) -> None:
    """Refuse sides of which two things are said, or something of one only: the pair's method takes it for both.

    Raises:
        InputError: names it.
    """
    vectors = a.vectors is not None and b.vectors is not None
    for name in ("kind", "layer", "model_tag", *(("direction", "force") if vectors else ())):
        default = {"kind": "activation", "layer": of.pair.layer}.get(name)
        said = [one_layer(side) if name == "layer" else getattr(side, name) for side in (a, b)]
        said = [default if one is None else one for one in said]
        if said[0] != said[1]:
            raise InputError(f"Of a {name} is {said[0]!r}, of b {said[1]!r}; expected the same of both.")


def compared(one: Any, at: int, vectors_out: bool) -> dict[str, Any]:
    """A comparison's columns, and which words are in which explanation."""
    a, b = words_in(one.a), words_in(one.b)
    words = {
        "words_only_a": [word for word in a if word not in b],
        "words_only_b": [word for word in b if word not in a],
        "words_both": [word for word in a if word in b],
    }
    columns = {name: value for name, value in one.to_row().items() if vectors_out or name not in VECTORS}
    texts = {"a": one.a, "b": one.b, "difference": one.difference, "reverse": one.reverse}
    columns |= {f"{name}_raw": text and text.raw for name, text in texts.items()}
    columns |= {f"{name}_tokens_written": None if text is None else text.tokens for name, text in texts.items()}
    return {"index": at, **columns, **words}


def words_in(text: str) -> Sequence[str]:
    """The words of a text in small letters, each once, in their order."""
    return list(dict.fromkeys(word.lower() for word in re.findall(r"\w+(?:['’-]\w+)*", text)))


@router.post("/complete", response_model=answers.Completed, responses=streamed("Text and tokens, or their stream."))
async def complete(body: shapes.CompleteRequest, request: Request) -> Response:
    """What the source goes on with."""
    how = Going(body.max_new_tokens, body.temperature, body.seed, body.stream)
    return await completed(served(request), request, body, how)
