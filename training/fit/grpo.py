"""Policy optimisation of the pair: the AV learns to write what the AR inverts. `python -m training.fit.grpo --config …`

Group-relative policy optimisation (Shao et al. 2024, DeepSeekMath) as NLAs are trained: for each activation the AV
samples a group of explanations; the reward of one is −mse of the AR's reconstruction (directions, `metrics`), its
advantage that reward less the group's mean, over the group's deviation; the loss is −advantage · log-likelihood, per
token, plus `kl` times the divergence from the AV that training started from (the k3 estimator: Schulman 2020). One
update a sampling, so no ratios are clipped. The AR is trained alongside on the same explanations.

Starts from `<out>/av/final` and `<out>/ar/final` (or `grpo.av`, `grpo.ar`), reads `<out>/rl.parquet`, which has no
labels, and leaves a pair in `<out>/grpo/final`, the best by its held-out round trip. Resumes to the same weights.

What the reward does not see is watched, because every known collapse scores well on it for a while: the share of
different explanations, outputs without an end, and nats a token from the start. Past a limit the run stops, and says
so; `final/` and the checkpoints stay.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow.parquet as pq
import torch
import typer
from torch.nn import functional

from nla_sdk import metrics
from nla_sdk.cli.options import expand
from nla_sdk.contract import Contract
from nla_sdk.errors import InputError
from nla_sdk.halves.half import Half
from nla_sdk.io.files import read_vectors, sha256_of
from nla_sdk.io.progress import say
from nla_sdk.model.backbone import Backbone
from nla_sdk.model.reconstructor import Reconstructor, last_token_states, load_head
from nla_sdk.model.verbalizer import CLOSE_TAG, Verbalizer, parse_output, row_generator
from nla_sdk.pair import load_mean

from ..configs.config import Config
from ..configs.fit import Grpo
from ..data.statistics import Statistics
from ..runs.command import ConfigOptions, run_command
from .ar import direction_loss
from .av import response_states
from .checkpoints import identity_of_run, load_base, processes, run_facts, save_half
from .loop import Loop, TrainingError, data_order, make_optimizer
from .on_policy import label_tokens

REFERENCE = "reference"
WATCHED_STEPS = 5
"""The limits are held against the mean of this many steps: one step's groups are few."""


class CollapseError(TrainingError):
    """The explanations stopped being explanations."""


def advantages(rewards: torch.Tensor) -> torch.Tensor:
    """[groups, samples] rewards less their group's mean, over its deviation; 0 where all of a group are alike.

    Example:
        >>> advantages(torch.tensor([[-1.0, -3.0], [-2.0, -2.0]]))
        tensor([[ 0.7071, -0.7071],
                [ 0.0000,  0.0000]])
    """
    centred = rewards - rewards.mean(dim=1, keepdim=True)
    return torch.nan_to_num(centred / rewards.std(dim=1, keepdim=True).clamp(min=1e-6))


def k3(own: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """Each token's share of KL(own ‖ reference), from log-likelihoods of tokens that `own` drew: e^d − d − 1 ≥ 0."""
    difference = reference - own
    return difference.exp() - difference - 1


class Trainer:
    """Holds both halves on one base, the activations and the loss; `python -m training.fit.grpo` runs it."""

    def __init__(self, config: Config, backbone: Backbone, halves: Mapping[str, Half]) -> None:
        self.config, self.settings, self.backbone = config, _settings(config), backbone
        self.statistics = Statistics.load(config.out)
        self.contracts: dict[str, Contract] = {
            role: half.contract.verify(backbone.tokenizer) for role, half in halves.items()
        }
        av, ar = self.contracts["av"], self.contracts["ar"]
        backbone.load_adapter("av", halves["av"].folder)
        backbone.load_adapter("ar", halves["ar"].folder, num_blocks_run=ar.ar_num_blocks)
        if self.settings.kl:
            backbone.load_adapter(REFERENCE, halves["av"].folder)
        self.verbalizer = Verbalizer(backbone, "av", av, load_mean(halves["av"].folder, av))
        if self.settings.vocabulary == "labels":
            self.verbalizer.restrict(label_tokens(config, backbone.tokenizer))
        head = load_head(halves["ar"].folder, backbone.d_model, bias=ar.head_bias)
        self.reconstructor = Reconstructor(backbone, "ar", ar, head, load_mean(halves["ar"].folder, ar))
        self.end = min(self.verbalizer.end_ids)
        self.tables = [config.out / "rl.parquet"]
        for path in (*self.tables, config.out / "eval.parquet"):
            if not path.is_file():
                raise InputError(f"{path} does not exist: run `python -m training.data.build` first.")
        self.vectors = torch.from_numpy(read_vectors(pq.read_table(self.tables[0])).copy())
        if self.settings.max_rows is not None:
            picked = np.linspace(0, len(self.vectors) - 1, min(self.settings.max_rows, len(self.vectors)))
            self.vectors = self.vectors[picked.astype(int)]
        held_out = torch.from_numpy(read_vectors(pq.read_table(config.out / "eval.parquet")).copy())
        evenly = np.linspace(0, len(held_out) - 1, min(self.settings.eval_rows, len(held_out))).astype(int)
        self.eval_vectors = held_out[evenly]
        self.lora = {"av": backbone.adapter_parameters("av"), "ar": backbone.adapter_parameters("ar")}
        self.parameters = dict(self.lora["av"])
        self.groups = [{"params": list(self.lora["av"].values()), "lr": self.settings.lr}]
        if self.settings.ar_lr:
            trained = self.lora["ar"] | {
                f"head.{key}": value for key, value in self.reconstructor.head.named_parameters()
            }
            self.parameters |= trained
            self.groups.append({"params": list(trained.values()), "lr": self.settings.ar_lr})
        for parameter in self.parameters.values():
            parameter.data = parameter.data.float()
            parameter.requires_grad_(True)
        self.notes: dict[str, float] = {}
        self.recent: deque[dict[str, float]] = deque(maxlen=WATCHED_STEPS)

    # --- one step -----------------------------------------------------------------------------------------------
    def share_of_loss(self, rows: Sequence[int], step: int, batch: Sequence[int]) -> torch.Tensor:
        """Sample groups for `rows`, add to the gradients of both halves, and return the loss that `Loop` reports.

        The gradients are taken here, each with its own adapter on: where blocks are computed again in the backward,
        another adapter would answer.
        """
        settings, group = self.settings, self.settings.samples
        vectors = self.vectors[list(rows)]
        self.verbalizer.reset()  # its weights have changed
        prepared = self.verbalizer.prepare(vectors).repeat_interleave(group, dim=0)
        draws = [
            row_generator(vector, self.config.seed + step, sample) for vector in vectors for sample in range(group)
        ]
        self.backbone.model.eval()
        written = self.verbalizer.tokens(prepared, temperature=settings.temperature, generators=draws)
        outputs = [
            parse_output(self.backbone.tokenizer.decode(tokens, skip_special_tokens=True), finished, len(tokens))
            for tokens, finished in written
        ]
        targets = vectors.repeat_interleave(group, dim=0)
        share = len(rows) / len(batch)
        error, ar_loss = self._learn_to_read([one.text for one in outputs], targets, share)
        lengths = torch.tensor([float(one.tokens) for one in outputs])
        cut = torch.tensor([float(one.status == "truncated") for one in outputs])
        reward = -error - settings.truncation_penalty * cut - settings.length_penalty * lengths
        gain = advantages(reward.view(len(rows), group)).flatten()
        policy, divergence = self._learn_to_write(prepared, written, gain, share)
        texts = [one.text for one in outputs]
        self._watch(
            {
                "reward": float(reward.mean()),
                "sampled_mse": float(error.mean()),
                "kl": divergence,
                "unique": len(set(texts)) / len(texts),
                "truncated": float(cut.mean()),
                "empty": sum(one.status == "empty" for one in outputs) / len(outputs),
                "tokens": float(lengths.mean()),
            },
            step,
        )
        return torch.tensor(policy + settings.kl * divergence * share + ar_loss, requires_grad=True)

    def _learn_to_read(self, texts: list[str], targets: torch.Tensor, share: float) -> tuple[torch.Tensor, float]:
        """mse [n] of the AR's reconstructions, and the loss whose gradient it was given (0 where it is not trained)."""
        prompts = [ids for ids, _ in self.contracts["ar"].ar_prompt_ids_batch(self.backbone.tokenizer, texts)]
        learns = bool(self.settings.ar_lr)
        with self.backbone.using("ar"), torch.set_grad_enabled(learns):
            self.backbone.model.train(learns)
            states = last_token_states(self.backbone, prompts, self.contracts["ar"].ar_num_blocks - 1)
            predicted = self.reconstructor.head(states.float())
            wanted = targets.to(predicted.device)
            if self.reconstructor.mean is not None:
                wanted = wanted - self.reconstructor.mean.to(wanted.device)
            loss = direction_loss(predicted, wanted).mean() * share
            if learns:
                loss.backward()
        made = self.reconstructor.finish(predicted.detach())
        return direction_loss(made, targets.to(made.device)).cpu(), loss.item() if learns else 0.0

    def _learn_to_write(self, prepared, written, gain: torch.Tensor, share: float) -> tuple[float, float]:
        """Gradients of −advantage · log-likelihood and of the divergence; returns both, the second in nats a token."""
        settings = self.settings
        targets = [self._with_end(tokens, finished) for tokens, finished in written]
        reference = None
        if settings.kl:
            with torch.no_grad(), self.backbone.using(REFERENCE):
                self.backbone.model.eval()
                reference, _ = self._log_likelihood(prepared, targets)
        with self.backbone.using("av"):
            self.backbone.model.train()
            own, rows = self._log_likelihood(prepared, targets)
            policy = -(gain.to(own.device)[rows] * own).mean() * share
            divergence = k3(own, reference).mean() if reference is not None else own.new_zeros(())
            (policy + settings.kl * divergence * share).backward()
        return policy.item(), divergence.item()

    def _log_likelihood(self, prepared: torch.Tensor, targets: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Of each target token, at the temperature it was drawn at, and the row it is of: [tokens] each."""
        states, tokens, rows = response_states(self.verbalizer, prepared, targets)
        logits = self.verbalizer.logits_of(states).float() / self.settings.temperature
        return -functional.cross_entropy(logits, self.verbalizer.places_of(tokens), reduction="none"), rows

    def _with_end(self, tokens: list[int], finished: bool) -> list[int]:
        """The tokens with the one that ended them, which is not among what was written."""
        closed = CLOSE_TAG in self.backbone.tokenizer.decode(tokens[-len(CLOSE_TAG) :])
        return [*tokens, self.end] if finished and not closed else tokens

    def _watch(self, notes: dict[str, float], step: int) -> None:
        self.notes = notes
        self.recent.append(notes)
        if len(self.recent) < WATCHED_STEPS:
            return
        mean = {key: sum(one[key] for one in self.recent) / len(self.recent) for key in notes}
        settings, found = self.settings, ""
        if mean["unique"] < settings.min_unique:
            found = f"{mean['unique']:.0%} of the explanations differ (grpo.min_unique is {settings.min_unique:.0%})"
        elif mean["kl"] > settings.max_kl:
            found = f"the AV is {mean['kl']:.2f} nats a token from its start (grpo.max_kl is {settings.max_kl})"
        elif mean["truncated"] > settings.max_truncated:
            limit = f"grpo.max_truncated is {settings.max_truncated:.0%}"
            found = f"{mean['truncated']:.0%} of the outputs have no end ({limit})"
        if found:
            raise CollapseError(
                f"Step {step}: over the last {WATCHED_STEPS} steps {found}. What was best before stays in final/; go "
                "on with more kl, a lower lr or more different activations, and another --name."
            )

    # --- what is measured ---------------------------------------------------------------------------------------
    def tokens(self, batch: Sequence[int]) -> int:
        """Tokens written in the step just done: as many as the last part of the batch had, for all of it."""
        return int(self.notes.get("tokens", 0.0) * len(batch) * self.settings.samples)

    def evaluate(self) -> dict[str, float]:
        """Greedy round trips of held-out rows: FVE with own words, with other rows' words, and how many differ."""
        self.verbalizer.reset()
        self.backbone.model.eval()
        written = self.verbalizer(self.eval_vectors)
        texts = [one.text for one in written]
        baseline = metrics.mean_baselines(self.eval_vectors).mean_norm
        result = {}
        for name, given in (("round_trip", texts), ("shuffled", [*texts[1:], texts[0]])):
            mse = metrics.direction_mse(self.reconstructor(given), self.eval_vectors)
            result[f"heldout_fve_{name}"] = float(metrics.fve(mse, baseline).mean())
        result["heldout_unique"] = len(set(texts)) / len(texts)
        result["heldout_truncated"] = sum(one.status == "truncated" for one in written) / len(written)
        return result

    def save(self, folder: Path, facts: Mapping[str, Any]) -> None:
        """Both halves, as `folder/av` and `folder/ar`."""
        heads = {"av": None, "ar": self.reconstructor.head}
        for role, head in heads.items():
            (folder / role).mkdir()
            save_half(
                folder / role,
                self.backbone,
                role,
                self.contracts[role],
                self.statistics,
                {**facts, "parent": facts["parent"][role]},
                dtype=self.settings.save_dtype,
                head=head,
            )


def _settings(config: Config) -> Grpo:
    if config.grpo is None:
        raise InputError("The config has no section grpo: (an empty one, `grpo: {}`, takes every default).")
    return config.grpo


def run(config: Config, *, name: str = "grpo") -> Path:
    """Train the pair; returns the folder of the best one.

    Args:
        name: of the run, a folder in `config.out`.
    Raises:
        CollapseError: a limit was passed.
        InputError: a half or table is missing, or a half is a whole model.
    """
    settings = _settings(config)
    accelerator, device = processes()
    halves = {role: Half.find(str(getattr(settings, role) or config.half(role)), role) for role in ("av", "ar")}
    for half in halves.values():
        if not half.is_adapter:
            raise InputError(f"{half.ref} is a whole model; GRPO trains adapters on one base.")
    backbone = load_base(config, settings, device)
    trainer = Trainer(config, backbone, halves)
    parents = {
        role: {
            "name": "/".join(half.folder.parts[-2:]),
            "commit": half.commit,
            "adapter_sha256": sha256_of(half.folder / "adapter_model.safetensors"),
        }
        for role, half in halves.items()
    }
    facts = run_facts(settings, backbone, parents, trainer.tables, len(trainer.vectors)) | {"method": "grpo"}
    if accelerator.is_main_process and len(trainer.vectors) < settings.batch_size:
        say(f"{len(trainer.vectors)} activations are less than one step's")
    with backbone.using("av"):
        loop = Loop(
            config.out / name,
            settings,
            make_optimizer(trainer.groups, settings, backbone.device),
            trainer.parameters,
            identity_of_run(facts) | {"layer": config.layer, "seed": config.seed},
            config.seed,
            save=lambda folder, measured: trainer.save(folder, {**facts, **measured}),
            metric=("heldout_fve_round_trip", True),
            accelerator=accelerator,
        )
        batches = data_order([0] * len(trainer.vectors), settings.batch_size, settings.epochs, config.seed)
        loop.run(
            batches, trainer.share_of_loss, trainer.evaluate, "grpo", trainer.tokens, notes_of=lambda: trainer.notes
        )
    accelerator.end_training()
    return config.out / name / "final"


@expand
def main(
    config: ConfigOptions,
    name: Annotated[str, typer.Option(help="Of the run: its folder inside the config's `out:`.")] = "grpo",
) -> None:
    print(run(config.load(), name=name))


main.__doc__ = __doc__

if __name__ == "__main__":
    run_command(main)
