"""One optimizer step of sft_av and sft_ar: its seconds, and its peak memory against what the plan says."""

from __future__ import annotations

from typing import Any

from passage import TEXT

from .demo import heldout
from .geometry import planned_memory, recipe
from .made import demo_config, e2b_config, random_base
from .run import ROOT, Run, four_bits, said


def training(run: Run) -> None:
    """On the base of Gemma-4-E2B's geometry by its recipe, and on the demo base."""
    for name, steps in (("geometry", on_geometry), ("demo", on_demo)):
        run.attempt(name, lambda steps=steps: steps(run))


def on_geometry(run: Run) -> None:
    """16 rows one by one, in 4 bits: for the AV as long as its prompt makes them, for the AR as long as they may be."""
    from tests import tiny

    base, model, _ = random_base(run, "base", e2b_config(run.small))
    config = recipe(run, base)
    rows, width = config.av.batch_size, model.config.get_text_config().hidden_size
    labels = {"av_sft": TEXT[:100], "ar_sft": TEXT * 8, "eval": TEXT[:100]}  # the AR's are cut at its max_length
    vectors = tiny.random(rows, width, seed=7, scale=4.0)
    both(run, "geometry", config, vectors, {table: [text] * rows for table, text in labels.items()})


def on_demo(run: Run) -> None:
    """16 held-out rows at once, in bfloat16."""
    from nla_sdk.errors import DemoBaseError
    from nla_sdk.halves.demo_base import demo_base
    from training.configs.config import Config

    changes: dict[str, Any] = {"out": str(run.folder / "demo"), "ar.tables": ["ar_sft"]}
    try:
        demo_base()
    except DemoBaseError as error:
        run.note(demo_base=f"random weights of its geometry instead: {said(error)}")
        changes["base"] = str(random_base(run, "demo-base", demo_config())[0])
    changes["av.sampled_negatives"] = 0  # whole logits are what is planned
    for role in ("av", "ar"):
        changes[f"{role}.sources"] = ["written"]
        if four_bits() is None:
            changes[f"{role}.optimizer"] = "adamw"
        if run.small:
            changes[f"{role}.batch_size"] = 2
    config = Config.load(ROOT / "training" / "configs" / "demo.yaml", changes)
    vectors, texts = heldout(config.av.batch_size)
    both(run, "demo", config, vectors, dict.fromkeys(("av_sft", "ar_sft", "eval"), texts))


def both(run: Run, name: str, config: Any, vectors: Any, labels: dict[str, list[str]]) -> None:
    """A step of each half, on one base."""
    import torch

    from tests.fit.tables import write_tables
    from training.fit.engine.base import load_base

    write_tables(config.out, vectors.numpy(), labels)
    backbone = load_base(config, config.av, torch.device(run.device))
    for role in ("av", "ar"):
        run.attempt(f"{name}_{role}", lambda role=role: one_step(run, config, role, backbone))
        backbone.let_go(role)
        with backbone.using(None):  # which takes it off
            run.tidy()


def one_step(run: Run, config: Any, role: str, backbone: Any) -> dict[str, Any]:
    """Two of the trainer's own steps: the first makes the optimizer's states, the second is timed, peaks are both's."""
    import torch

    from training.fit import ar, av
    from training.fit.engine.loop import in_micro_batches
    from training.fit.engine.schedule import make_optimizer

    settings = getattr(config, role)
    trainer = (av.AVTrainer if role == "av" else ar.ARTrainer)(config, backbone)
    optimizer = make_optimizer(trainer.groups, settings, backbone.device)
    accumulate = in_micro_batches(trainer.share_of_loss, settings.micro_batch)
    rows = list(range(min(settings.batch_size, len(trainer.lengths))))
    lengths, losses = [trainer.lengths[row] for row in rows], []
    run.tidy()

    def step() -> None:
        losses.append(accumulate(rows, len(losses), rows))
        torch.nn.utils.clip_grad_norm_(list(trainer.parameters.values()), settings.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    with backbone.using(role):
        first, second = run.timed(step), run.timed(step)
    shape = {
        "batch": settings.micro_batch or len(rows),
        "length": max(lengths) + (len(trainer.verbalizer.prompt_ids) if role == "av" else 0),
        "response_tokens": -(-sum(lengths) // len(rows)),
    }
    memory, planned = run.memory(), planned_memory(run, config, role, backbone, **shape)
    found = {"rows": len(rows), **shape, "optimizer": type(optimizer).__name__, "quantization": backbone.quantization}
    found |= {"seconds": second, "seconds_of_the_first": first, "losses": losses, "memory": memory, "planned": planned}
    if isinstance(memory, dict):
        found["peak_over_planned_tensors"] = memory["peak_allocated_gib"] / planned["tensors_gib"]
        found["reserved_over_planned_total"] = memory["peak_reserved_gib"] / planned["total_gib"]
    return found
