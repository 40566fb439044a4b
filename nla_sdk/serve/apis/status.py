"""What is served, as the inference API tells it; health, and metrics."""

from __future__ import annotations

from typing import Any

import torch
from fastapi import APIRouter, Request, Response
from starlette.responses import JSONResponse

from ...model.backbone import Backbone
from ..about import called, without_folders
from ..served import Served, served
from ..shapes.inference import Status

router = APIRouter(tags=["server"])


def status_of_pair(of: Served) -> dict[str, Any]:
    """`GET /` of the inference API."""
    pair, limits, most = of.pair, of.limits, of.settings.concurrent
    base = pair.base.in_memory if of.settings.source else None
    parts = {
        "verbalizer": pair.verbalizer and pair.verbalizer.backbone,
        "source": base,
        "reconstructor": pair.reconstructor and pair.reconstructor.backbone,
    }
    status = Status(
        status="ok",
        verbalizer_model=called(pair.av),
        d_model=pair.d_model,
        extraction_layer=pair.layer,
        source_model=without_folders(pair.base.ref if pair.read_from is None else pair.read_from.ref),
        source_truncated=False,
        reconstructor_available=pair.reconstructor is not None,
        completion_available=of.settings.source and "complete" not in of.settings.switched_off,
        num_cuda_devices=torch.cuda.device_count(),
        max_concurrent=most,
        max_concurrent_explains=most,
        source_max_concurrent=most,
        reconstructor_max_concurrent=most,
        max_describe_requests=most,
        limits={
            "max_input_chars": limits.text,
            "max_positions_per_request": limits.positions,
            "max_new_tokens": limits.new_tokens,
            "max_describe_batch": limits.positions,
            "max_description_chars": limits.explanation,
            "max_completion_tokens": limits.completion_tokens,
        },
        **{f"{name}_{fact}": value for name, part in parts.items() for fact, value in facts(part).items()},
    )
    return status.model_dump()


def facts(part: Backbone | None) -> dict[str, str | None]:
    """Where and in what a model runs."""
    if part is None:
        return dict.fromkeys(("device", "dtype", "quantization"))
    stored = part.precision if part.precision in ("nf4",) else None
    return {"device": str(part.device), "dtype": part.precision, "quantization": stored}


@router.get("/healthz")
async def healthz(request: Request) -> Response:
    """Whether requests are taken."""
    of = served(request)
    return JSONResponse({"status": "stopping"}, 503) if of.gate.stopping else JSONResponse({"status": "ok"})


@router.get("/metrics")
async def metrics(request: Request) -> Response:
    """Counts and gauges, for Prometheus."""
    return Response(served(request).meters.text(), media_type="text/plain; version=0.0.4; charset=utf-8")
