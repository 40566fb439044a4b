"""A pair on a base of Gemma-4-E2B's geometry in NF4: what it takes of the card, and whether it runs at all."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from passage import TEXT

from .made import e2b_config, random_base, random_pair
from .run import GIB, ROOT, Run, four_bits
from .steps import step_times


def recipe(run: Run, base: Path) -> Any:
    """`training/configs/gemma4_e2b.yaml` on the random base; in bfloat16 where bitsandbytes is not installed."""
    from training.configs.config import Config

    changes: dict[str, Any] = {"base": str(base), "out": str(run.folder / "run")}
    for role in ("av", "ar"):
        if four_bits() is None:
            changes |= {f"{role}.quantization": None, f"{role}.optimizer": "adamw"}
        if run.small:
            changes |= {f"{role}.lora.r": 8, f"{role}.batch_size": 2}
    if run.small:
        changes |= {"layer": 4, "ar.num_blocks": 5}
    return Config.load(ROOT / "training" / "configs" / "gemma4_e2b.yaml", changes)


def planned_memory(
    run: Run, config: Any, role: str, backbone: Any, *, batch: int, length: int, response_tokens: int
) -> dict[str, Any]:
    """What `training.fit.plan` says of a training step; `tensors_gib` is without what it guesses beside them."""
    from training.fit.plan.estimate import plan, settings_of

    settings = settings_of(config, role) | {"batch": batch, "length": length, "response_tokens": response_tokens}
    where = {"device": run.device, "dtype": backbone.dtype, "base_config": backbone.model.config}
    made = plan(config, role, **where, **settings)
    lines = {line.name: line.bytes / GIB for line in made.lines}
    guessed = sum(lines.get(name, 0.0) for name in ("allocator slack", "CUDA context"))
    return {"total_gib": made.total / GIB, "tensors_gib": made.total / GIB - guessed, "lines_gib": lines}


def geometry(run: Run) -> None:
    """Make it, load it, look where its table is, and go a round trip."""
    import psutil
    import torch

    from nla_sdk import NLAPair
    from nla_sdk.model.weights.loading import PER_LAYER_TABLE
    from nla_sdk.sampling import Sampling
    from tests import tiny

    start = time.perf_counter()
    base, model, facts = random_base(run, "base", e2b_config(run.small))
    config = recipe(run, base)
    shape: dict[str, Any] = {"layer": config.layer, "blocks": config.ar.num_blocks, "rank": config.av.lora.r}
    halves = random_pair(run, base, model, **shape, template=config.av.template)
    run.note(base=facts, made_in_seconds=time.perf_counter() - start, quantization=four_bits() or "none")
    if four_bits() is None:
        run.note(nf4="skipped: needs bitsandbytes; bfloat16 instead")
    run.tidy()
    start = time.perf_counter()
    pair = NLAPair.from_pretrained(*halves, quantization=four_bits(), device=run.device, dtype="bfloat16")
    backbone = pair.source
    run.note(load_seconds=time.perf_counter() - start, memory_loaded=run.memory())
    table = next(m for name, m in backbone.model.named_modules() if name.endswith(PER_LAYER_TABLE)).weight
    run.note(
        per_layer_table={"device": table.device.type, "gib": table.nbytes / GIB},
        ram_used_gib=psutil.Process().memory_info().rss / GIB,
        adapters_gib=sum(p.nbytes for name in backbone.reports for p in backbone.adapter_parameters(name).values())
        / GIB,
    )
    step = {"batch": 1, "length": config.av.max_length, "response_tokens": config.av.max_new_tokens}
    lines = planned_memory(run, config, "av", backbone, **step)["lines_gib"]
    run.note(planned_weights_gib={name: size for name, size in lines.items() if "weights" in name or "scales" in name})
    if table.device.type != "cpu":
        raise RuntimeError(f"the per-layer table is on {table.device}; expected it in the CPU's RAM")
    vectors = tiny.random(1, backbone.d_model, seed=3, scale=4.0)
    tokens = 4 if run.small else 48

    def explain() -> dict[str, Any]:
        seconds = run.median(lambda: pair.verbalizer(vectors, Sampling(tokens, ignore_end=True)), 1)
        return {"new_tokens": tokens, "seconds": seconds, "memory": run.memory()}

    def reconstruct() -> dict[str, Any]:
        seconds = run.median(lambda: pair.reconstruct([TEXT]))
        finite = bool(torch.isfinite(pair.reconstruct([TEXT])).all())
        return {"seconds": seconds, "finite": finite, "memory": run.memory()}

    run.attempt("explain_1_row", explain)
    run.attempt("reconstruct_1_row", reconstruct)
    for rows in (1, 32):
        run.attempt(f"{rows}_rows", lambda rows=rows: step_times(run, pair.verbalizer, rows))
