"""Whether explanations are still explanations: what policy optimisation does not reward, watched over whole steps.

Every known collapse scores well for a while: all activations get one text, texts have no end, words leave the language.
A step's figures are of all its explanations, whatever micro-batch and process they were sampled in.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

import torch

from nla_sdk.results import UNTAGGED, Explanation

from ...configs.fit import Grpo
from .checkpoints import TrainingError

WATCHED_STEPS = 5
"""The limits are held against the mean of this many steps: one step's explanations are few."""


class CollapseError(TrainingError):
    """The explanations stopped being explanations."""

    remedy = "Go on from final/, the best before, with more kl or a lower lr, under another --name."


def total(values: Sequence[float], accelerator: Any = None) -> list[float]:
    """Each value summed over all processes; the values themselves where there is one."""
    if accelerator is None or accelerator.num_processes == 1:
        return list(values)
    shares = torch.tensor(values, dtype=torch.float64, device=accelerator.device)
    return accelerator.reduce(shares, reduction="sum").tolist()


class Seen:
    """Sums over the explanations of one step in this process.

    Args:
        supported: whether `add` is told their support.
    """

    def __init__(self, supported: bool = False) -> None:
        self.texts: list[str] = []
        self.divergence = 0.0
        counted = ("reward", "reward_mse", "sampled_mse", "truncated", "empty", "untagged", "tokens")
        self.sums = dict.fromkeys((*counted, "reward_support") if supported else counted, 0.0)

    def add(
        self,
        outputs: Sequence[Explanation],
        reward: torch.Tensor,
        error: torch.Tensor,
        divergence: float,
        support: torch.Tensor | None = None,
    ) -> None:
        """Count some explanations.

        Args:
            reward, error: [n] each; the error is the mse of the AR's reconstructions.
            divergence: their share of the step's nats a token from the start.
            support: [n], the mean probability of their claims.
        """
        if support is not None:
            self.sums["reward_support"] += float(support.sum())
        self.sums["reward_mse"] -= float(error.sum())
        self.texts += [str(output) for output in outputs]
        self.divergence += divergence
        self.sums["reward"] += float(reward.sum())
        self.sums["sampled_mse"] += float(error.sum())
        self.sums["truncated"] += sum(output.status == "truncated" for output in outputs)
        self.sums["empty"] += sum(output.status == "empty" for output in outputs)
        self.sums["untagged"] += sum(output.status == UNTAGGED for output in outputs)
        self.sums["tokens"] += sum(output.tokens for output in outputs)

    def notes(self, accelerator: Any = None) -> dict[str, float]:
        """Means over the step's explanations in all processes, its divergence, and the share of different texts."""
        count, divergence, *sums = total([len(self.texts), self.divergence, *self.sums.values()], accelerator)
        texts = self.texts
        if accelerator is not None and accelerator.num_processes > 1:
            from accelerate.utils import gather_object

            texts = gather_object(texts)
        means = {name: value / count for name, value in zip(self.sums, sums, strict=True)}
        return means | {"kl": divergence, "unique": len(set(texts)) / count}


class Watch:
    """Stops a run whose last steps have passed a limit of its settings."""

    def __init__(self, settings: Grpo) -> None:
        self.settings = settings
        self.recent: deque[dict[str, float]] = deque(maxlen=WATCHED_STEPS)

    def look(self, notes: dict[str, float], step: int) -> None:
        """Take note of a step.

        Args:
            notes: see `Seen.notes`; the same in every process, so that all of them stop together.
        Raises:
            CollapseError: a limit is passed on average over the last steps.
        """
        self.recent.append(notes)
        if len(self.recent) < WATCHED_STEPS:
            return
        mean = {key: sum(step_notes[key] for step_notes in self.recent) / len(self.recent) for key in notes}
        settings, problem = self.settings, ""
        if mean["unique"] < settings.min_unique:
            problem = f"{mean['unique']:.0%} of the explanations differ (grpo.min_unique is {settings.min_unique:.0%})"
        elif mean["kl"] > settings.max_kl:
            problem = f"the AV is {mean['kl']:.2f} nats a token from its start (grpo.max_kl is {settings.max_kl})"
        elif mean["truncated"] > settings.max_truncated:
            limit = f"grpo.max_truncated is {settings.max_truncated:.0%}"
            problem = f"{mean['truncated']:.0%} of the outputs have no end ({limit})"
        elif mean["untagged"] > settings.max_truncated:
            limit = f"grpo.max_truncated is {settings.max_truncated:.0%}"
            problem = f"{mean['untagged']:.0%} of the outputs are not in the contract's output.form ({limit})"
        if problem:
            raise CollapseError(
                f"Step {step}: over the last {WATCHED_STEPS} steps {problem}. What was best before stays in final/; go "
                "on with more kl, a lower lr or more different activations, and another --name."
            )
