"""What is decided before the first step: the order of the rows, the learning rate of each step, the optimizer."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import torch

from ...configs.fit import Train
from .checkpoints import TrainingError


def data_order(lengths: Sequence[int], batch_size: int, epochs: float, seed: int, group: int = 8) -> list[list[int]]:
    """Batches of row indices for the whole run, the same whenever it is asked for.

    Rows are shuffled anew each epoch; within every `group` batches they are sorted by length, so that little is padded,
    and the batches of a group are shuffled, so that length says nothing about time.
    """
    batches: list[list[int]] = []
    total = math.ceil(len(lengths) * epochs / batch_size)
    epoch = 0
    while len(batches) < total:
        rng = random.Random(f"{seed}|{epoch}")
        rows = list(range(len(lengths)))
        rng.shuffle(rows)
        for start in range(0, len(rows), batch_size * group):
            part = sorted(rows[start : start + batch_size * group], key=lambda row: lengths[row])
            grouped = [part[at : at + batch_size] for at in range(0, len(part), batch_size)]
            rng.shuffle(grouped)
            batches += grouped
        epoch += 1
    return batches[:total]


def learning_rate_factor(step: int, total: int, settings: Train) -> float:
    """Linear warm-up over `warmup_steps`, then constant, or down to 5 % of the peak along a line or a cosine."""
    if step < settings.warmup_steps:
        return (step + 1) / settings.warmup_steps
    if settings.decay == "constant":
        return 1.0
    done = (step - settings.warmup_steps) / max(1, total - settings.warmup_steps)
    if settings.decay == "linear":
        return 1.0 - 0.95 * done
    return 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * done))


def make_optimizer(groups: list[dict], settings: Train, device: torch.device) -> torch.optim.Optimizer:
    """AdamW without weight decay: bitsandbytes' 8-bit one on CUDA, torch's elsewhere, or as `optimizer` says.

    Raises:
        TrainingError: the 8-bit one is asked for where it does not run.
    """
    kind = settings.optimizer if settings.optimizer != "auto" else "adamw8bit" if device.type == "cuda" else "adamw"
    if kind == "adamw":
        return torch.optim.AdamW(groups, weight_decay=0.0)
    if device.type != "cuda":
        raise TrainingError(f"optimizer: adamw8bit runs on CUDA only, this is {device.type}; use auto or adamw.")
    from bitsandbytes.optim import AdamW8bit

    return AdamW8bit(groups, weight_decay=0.0)
