"""A decoding step of the AV: how long it takes, how much of that the card works, and the same as a CUDA graph."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from .run import NO_CUDA, Run, said

Step = Callable[[], Any]


@contextmanager
def decoding(verbalizer: Any, rows: int) -> Iterator[tuple[Step, Any]]:
    """`step()`, which writes one greedy token for each of `rows` copies of the prompt, and the cache that it grows."""
    import torch
    from transformers import DynamicCache

    backbone = verbalizer.backbone
    model, cache = backbone.model, DynamicCache(config=backbone.model.config)
    token = torch.tensor([verbalizer.prompt_ids], device=backbone.device).expand(rows, -1)

    def step() -> torch.Tensor:
        nonlocal token
        logits = model(input_ids=token, past_key_values=cache, use_cache=True, logits_to_keep=1).logits
        token = logits[:, -1:].argmax(dim=-1)
        return token

    with torch.no_grad(), backbone.using(verbalizer.adapter):
        for _ in range(3):
            step()
        yield step, cache


def step_times(run: Run, verbalizer: Any, rows: int) -> dict[str, Any]:
    """Milliseconds of a step: until its tokens are known, as the AV needs them; issued by the CPU; kernels alone."""
    count = 3 if run.small else 20
    with decoding(verbalizer, rows) as (step, _):
        waited = statistics.median(run.timed(lambda: step().tolist()) for _ in range(count)) * 1e3
        if not run.cuda:
            return {"step_ms": waited, "kernels": NO_CUDA}

        def issued() -> float:
            run.wait()
            start = time.perf_counter()
            step()
            return time.perf_counter() - start

        found: dict[str, Any] = {"step_ms": waited}
        found["issued_ms"] = statistics.median(issued() for _ in range(count)) * 1e3
        run.wait()
        try:  # the profiler needs CUPTI, which not every driver lets a user have
            found |= kernel_times(step, waited)
        except Exception as error:
            found["kernels"] = {"error": said(error)}
        return found


def kernel_times(step: Step, waited: float, count: int = 5) -> dict[str, float]:
    """Of a step: how many kernels and copies, their milliseconds, and the share of it in which the card had nothing to
    do.

    Args:
        waited: milliseconds of a step that is not profiled.
    """
    import torch
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]):  # the first one sets CUPTI up
        step()
        torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as profiled:
        for _ in range(count):
            step()
        torch.cuda.synchronize()
    on_card = [
        event
        for event in profiled.events()
        if event.device_type == DeviceType.CUDA and not getattr(event, "is_user_annotation", False)
    ]
    if not on_card:
        raise RuntimeError("the profiler saw no kernel")
    busy = sum(event.time_range.elapsed_us() for event in on_card) / count / 1e3
    return {"kernels": len(on_card) / count, "kernels_ms": busy, "launch_bound_share": max(0.0, 1 - busy / waited)}


def step_as_graph(run: Run, verbalizer: Any, rows: int) -> dict[str, float]:
    """Milliseconds of a step, and of the same kernels on the same numbers recorded once and issued by one call."""
    import torch

    with decoding(verbalizer, rows) as (step, cache):
        side = torch.cuda.Stream()  # what libraries set up at their first use must not be recorded
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                step()
        torch.cuda.current_stream().wait_stream(side)
        eager = statistics.median(run.timed(step) for _ in range(20)) * 1e3
        # The graph reads these where they are now; the cache puts longer ones in their place.
        read = [step(), *(tensor for layer in cache.layers for tensor in (layer.keys, layer.values))]
        run.wait()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            read.append(step())
        played = statistics.median(run.timed(graph.replay) for _ in range(20)) * 1e3
        del read
    return {"step_ms": eager, "graph_ms": played, "faster": eager / played}
