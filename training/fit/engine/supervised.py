"""A supervised run from beginning to end: what `av` and `ar` do alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from nla_sdk.io.progress import say
from nla_sdk.model.backbone import Backbone

from ...configs.config import Config
from .base import compile_blocks, load_base, processes, shard_base
from .checkpoints import run_facts, save_half, with_parent
from .loop import fit, in_micro_batches


def train(
    config: Config, role: str, trainer_of: Callable[[Config, Backbone], Any], name: str, metric: tuple[str, bool]
) -> Path:
    """Train one half; returns the folder of the best one.

    Args:
        role: "av" or "ar": which settings, and the adapter's name.
        trainer_of: makes the trainer from config and base: `av.AVTrainer` or `ar.ARTrainer`.
        name: of the run, a folder in `config.out`.
        metric: the held-out figure that decides which is the best, and whether more is better.
    """
    accelerator, device = processes()
    config, parent = with_parent(config, role)
    settings = getattr(config, role)
    backbone = load_base(config, settings, device, (parent or {}).get("tokenizer"))
    trainer = trainer_of(config, backbone)
    if settings.shard_base:
        shard_base(backbone, trainer.parameters, settings)
    if settings.compile:
        compile_blocks(backbone)
    if trainer.left_out and accelerator.is_main_process:
        say(f"{trainer.left_out} rows are longer than {role}.max_length and are left out")
    facts = run_facts(settings, backbone, parent, trainer.tables, len(trainer.rows))

    def save(folder: Path, measured: Mapping[str, Any]) -> None:
        save_half(
            folder,
            backbone,
            role,
            trainer.contract,
            trainer.statistics,
            {**facts, **measured},
            dtype=settings.save_dtype,
            head=trainer.head,
        )

    accumulate = in_micro_batches(trainer.share_of_loss, settings.micro_batch, accelerator.num_processes)
    return fit(
        config,
        settings,
        trainer,
        accumulate,
        adapter=role,
        name=name,
        title=f"sft_{role}",
        facts=facts,
        save=save,
        metric=metric,
        accelerator=accelerator,
    )
