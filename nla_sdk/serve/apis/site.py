"""The public site's API, under /api/nla: sources, explanations that are kept for a while, completion."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response

from ..about import called, warning_of
from ..guard.faults import SITE, Problem
from ..requests.keeping import HOUR, fingerprint
from ..requests.streams import Answer, Frames
from ..served import Served, any_seed, served
from ..shapes import site as shapes
from .common import StrictRoute, refusals, streamed
from .completing import Going, completed
from .inference import Prepared, Words, collected, described, prepared

router = APIRouter(prefix=SITE, route_class=StrictRoute, responses=refusals("site"), tags=["site"])


async def counted(request: Request) -> dict[str, str]:
    """Count a request of its address, where addresses have a limit: headers that say what is left."""
    of = served(request)
    if (limit := of.settings.per_hour) is None:
        return {}
    left = of.site.left(request.client.host if request.client else "", limit)
    headers = {"x-limit-remaining": str(max(0, left))}
    if left < 0:
        more = {"endpoint": request.url.path, "limitPerWindow": limit, "requestWindow": "1 hour"}
        raise Problem(
            429,
            f"{limit} requests an hour are answered, and these are used up.",
            "BusyError",
            {**headers, "Retry-After": str(int(HOUR))},
            **more,
            remainingRequests=0,
        )
    return headers


Left = Annotated[dict[str, str], Depends(counted)]


@router.get("/sources", response_model=shapes.Sources)
async def sources(request: Request) -> Response:
    """The pair that is served, as the only source."""
    of = served(request)
    return Answer({"sources": [await of.gate.apart(lambda: source_of(of))]})


def source_of(of: Served) -> dict[str, Any]:
    """The pair as a source: `norm` is the mse of predicting the mean, so that mse ÷ norm is a relative error."""
    pair = of.pair
    model = model_id(of)
    warning = warning_of(of.evaluation)
    hub = pair.av.repo_id if pair.av is not None and pair.av.commit else None
    return {
        "modelId": model,
        "id": source_id(of),
        "displayName": f"{of.name}, layer {pair.layer}",
        "description": warning or "Its explanations were seen to carry content of their own activation.",
        "url": f"https://huggingface.co/{hub}" if hub else None,
        "author": hub.partition("/")[0] if hub else None,
        "av": called(pair.av),
        "ar": called(pair.ar),
        "layerNum": pair.layer,
        "norm": pair.baseline_mse,
        "createdAt": of.began.isoformat(),
        "model": {"id": model, "displayName": model, "openRouterAvailable": False},
    }


def model_id(of: Served) -> str:
    """The base's name without its owner."""
    return of.pair.base.ref.rstrip("/").rpartition("/")[2]


def source_id(of: Served) -> str:
    """The pair's name and layer, as one word."""
    name = "".join(letter if letter.isalnum() else "-" for letter in of.name.rstrip("/").rpartition("/")[2])
    return f"{name}-{of.pair.layer}"


def require_source_id(of: Served, model: str, source: str | None) -> None:
    """Refuse another source than the one that is served.

    Raises:
        Problem: 404.
    """
    if model != model_id(of) or source not in (None, source_id(of)):
        known = f"modelId {model_id(of)!r}, nlaSourceId {source_id(of)!r}"
        raise Problem(404, f"There is no such source; this server has one: {known}.", "UnknownSourceError")


@router.post("/explain", response_model=shapes.Explanations, responses=streamed("Explanations, or their stream."))
async def explain(body: shapes.ExplainRequest, request: Request, headers: Left) -> Response:
    """A text's activations in words; those that `priorCacheId` knows are not written again."""
    of = served(request)
    require_source_id(of, body.modelId, body.nlaSourceId)
    ticket = await of.gate.enter(request)
    try:
        found = await prepared(of, ticket, body, sorted(set(body.positions)))
        text = fingerprint(found.text)
        known = of.site.known(body.priorCacheId, text)
        new = [row for row, facts in enumerate(found.facts) if facts["position"] not in known]
        if len(new) > (most := of.limits.site_positions):
            raise Problem(400, f"{len(new)} positions are not cached; expected at most {most} of these.", "InputError")
        words = described(of, request, ticket, found, new, body)
        if body.stream:
            return Frames(_frames(of, found, text, known, words), of.gate, ticket, request.url.path, headers)
        results = await collected(words)
    except BaseException:
        of.leave(request, ticket)
        raise
    of.leave(request, ticket)
    every = known | {one["position"]: one for one in results}
    key = of.site.keep(text, every)
    shown = [every[facts["position"]] for facts in found.facts]
    more = {"layer_index": found.layer, "prompt_length": found.length, "cacheId": key}
    return Answer({"results": shown, **more}, headers=headers)


async def _frames(
    of: Served, found: Prepared, text: str, known: dict[int, dict[str, Any]], words: Words
) -> AsyncGenerator[Any, None]:
    yield {"layer_index": found.layer, "total": len(found.facts), "prompt_length": found.length}
    for facts in found.facts:
        if facts["position"] in known:
            yield known[facts["position"]]
    every = dict(known)
    async for kind, _, one in words:
        if kind == "row":
            every[one["position"]] = one
        yield one[0] if kind == "failed" else one
    yield {"cacheId": of.site.keep(text, every)}


@router.post("/completion", response_model=shapes.Completion, responses=streamed("What was written, or its stream."))
async def complete(body: shapes.CompletionRequest, request: Request, headers: Left) -> Response:
    """What the source goes on with."""
    of = served(request)
    require_source_id(of, body.modelId, body.nlaSourceId)
    how = Going(body.completion_tokens, body.temperature, any_seed(), body.stream)
    response = await completed(of, request, body, how, site=True)
    response.headers.update(headers)
    return response
