"""Policy optimisation of the pair: the AV learns to write what the AR inverts. `python -m training.fit.grpo --config …`

Group-relative policy optimisation (Shao et al. 2024, DeepSeekMath) as NLAs are trained: for each activation the AV
samples a group of explanations; the reward of one is −mse of the AR's reconstruction (directions, `metrics`), its
advantage that reward less the group's mean, over the group's deviation; the loss is −advantage · log-likelihood, per
token, plus `kl` times the divergence from the AV that training started from (the k3 estimator: Schulman 2020). One
update a sampling, so no ratios are clipped. The AR is trained alongside on the same explanations.

With `reward: {mse: 1, support: w}` the reward is −mse + w · (mean calibrated probability of the explanation's claims,
by the `claims.json` of the pair that training starts from): what the AR inverts is worth less where it is invented.

Starts from `<out>/av/final` and `<out>/ar/final` (or `grpo.av`, `grpo.ar`), reads `<out>/rl.parquet`, which has no
labels, and leaves a pair in `<out>/grpo/final`, the best by its round trip on `validation.parquet`. Resumes to the same
weights.

What the reward does not see is watched, because every known collapse scores well on it for a while: the share of
different explanations, outputs without an end, and nats a token from the start. Past a limit the run stops, and says
so; `final/` and the checkpoints stay.

Where the contract says `output.no_repeats`, a token that would say an item again is drawn, refused and drawn anew among
the others. The refusal is the sampling's, not the AV's, so every draw is one of its actions and has its log-likelihood,
a refused one too, and those after it among what was left: then the expected gradient is that of the reward of what is
really written, without a pass over the vocabulary to find all that would be refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch.nn import functional

from nla_sdk import metrics
from nla_sdk.checking.parts import Parts
from nla_sdk.claims.calibration import Calibration
from nla_sdk.cli.options import expand
from nla_sdk.contract import Contract
from nla_sdk.errors import InputError
from nla_sdk.halves.half import Half
from nla_sdk.io.progress import say
from nla_sdk.model.backbone import Backbone
from nla_sdk.model.reconstructor import Reconstructor
from nla_sdk.model.verbalizer import Verbalizer, row_generator
from nla_sdk.model.weights.heads import read_heads
from nla_sdk.model.weights.transforms import Transform
from nla_sdk.results import UNTAGGED, Explanation
from nla_sdk.sampling import Sampling

from ..configs.command import ConfigOptions, run_command
from ..configs.config import Config
from ..configs.fit import Grpo, Reward
from ..data.statistics import Statistics
from .engine.base import compile_blocks, load_base, processes, uncompiled
from .engine.checkpoints import kept_on_stop, parent_facts, run_facts, save_half
from .engine.collapse import Seen, Watch, total
from .engine.loop import fit
from .engine.losses import direction_loss, in_turn, response_states
from .engine.rows import choosing_table, evenly, label_texts, label_tokens, load_vectors, refuse_several
from .reward.support import PARTNERS, Support, find_calibration

REFERENCE = "reference"


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


@dataclass(frozen=True)
class Group:
    """What was sampled for some activations, and how it was rewarded.

    Attributes:
        inputs: [n, d], what was injected for each sample.
        targets: tokens of each sample, with the one that ended it.
        outputs: the explanations.
        activations: [n, d], raw, each as often as it has samples.
        refused: of each sample what was drawn and not taken before each target, by its number; () where nothing was.
    """

    inputs: torch.Tensor
    targets: list[list[int]]
    outputs: list[Explanation]
    activations: torch.Tensor
    refused: Sequence[Mapping[int, list[int]]] = ()


class GRPOTrainer:
    """Holds both halves on one base, the activations and the loss; `python -m training.fit.grpo` runs it.

    Args:
        accelerator: of a run in several processes; None: this is the only one.
        calibration: of the halves; None: it is looked for where support is rewarded.
    """

    def __init__(
        self,
        config: Config,
        backbone: Backbone,
        halves: Mapping[str, Half],
        accelerator: Any = None,
        calibration: Calibration | None = None,
    ) -> None:
        self.config, self.settings, self.backbone, self.accelerator = config, _settings(config), backbone, accelerator
        refuse_several(config, "training.fit.grpo")
        self.statistics = Statistics.load(config.tables_from)
        self.contracts: dict[str, Contract] = {
            role: half.contract.verify(backbone.tokenizer, backbone.vocabulary) for role, half in halves.items()
        }
        av, ar = self.contracts["av"], self.contracts["ar"]
        backbone.load_adapter("av", halves["av"].folder)
        backbone.load_adapter("ar", halves["ar"].folder, num_blocks_run=ar.ar_num_blocks)
        if self.settings.kl:
            backbone.load_adapter(REFERENCE, halves["av"].folder)
        self.verbalizer = Verbalizer(backbone, "av", av, Transform.load(halves["av"].folder, av))
        if self.settings.vocabulary == "labels":
            self.verbalizer.restrict(label_tokens(label_texts(config), backbone.tokenizer))
        head, transform = read_heads(halves["ar"].folder, ar), Transform.load(halves["ar"].folder, ar)
        self.reconstructor = Reconstructor(backbone, "ar", ar, head, transform)
        self.end = min(self.verbalizer.end_ids)
        self.layer = halves["av"].contract.layer
        self.tables = [config.tables_from / "rl.parquet"]
        self.vectors = load_vectors(self.tables[0], self.settings.max_rows)
        self.chosen_by = choosing_table(config.tables_from)
        self.eval_vectors = load_vectors(self.chosen_by, self.settings.eval_rows)
        self.lengths = [0] * len(self.vectors)
        lora = {"av": backbone.adapter_parameters("av"), "ar": backbone.adapter_parameters("ar")}
        self.parameters = dict(lora["av"])
        self.groups = [{"params": list(lora["av"].values()), "lr": self.settings.lr}]
        if self.settings.ar_lr:
            trained = lora["ar"] | {f"head.{key}": value for key, value in self.reconstructor.head.named_parameters()}
            self.parameters |= trained
            self.groups.append({"params": list(trained.values()), "lr": self.settings.ar_lr})
        for parameter in self.parameters.values():
            parameter.data = parameter.data.float()
            parameter.requires_grad_(True)
        self.notes: dict[str, float] = {}
        self.watch = Watch(self.settings)
        self.support = None
        if self.settings.reward.support:
            self.support = self._supporter(calibration or find_calibration("grpo", self.settings.claims, halves))

    def _supporter(self, calibration: Calibration) -> Support:
        """What tells how well claims are supported, by the starting pair's calibration; claims that stand in for others
        are of its own words, so that a run that is gone on with has the same."""
        av, ar = self.contracts["av"], self.contracts["ar"]
        read_of_base = av.source_model is None
        parts = Parts(
            reconstructor=self.reconstructor,
            source=self.backbone if read_of_base else None,
            layer=self.layer,
            baseline_mse=ar.baseline_mse if ar.baseline_mse is not None else av.baseline_mse,
            known=self.verbalizer.transform,
            why={"source": f"the activations are of {av.source_model}, which is not in memory"},
        )
        if "replacement" not in calibration.needed:
            return Support(calibration, parts)
        vectors = self.vectors[evenly(len(self.vectors), PARTNERS)]
        self.backbone.model.eval()
        return Support(calibration, parts, (vectors.float(), [_words(one) for one in self.verbalizer(vectors)]))

    # --- one step -----------------------------------------------------------------------------------------------
    def accumulate(self, rows: Sequence[int], step: int, batch: Sequence[int]) -> float:
        """Sample for `rows`, add to the gradients of both halves what they contribute, and return their loss.

        All is sampled before anything is learnt: the loss is a mean over all tokens of the batch, whatever process and
        micro-batch they are of, and how many there are is known only then. The gradients are taken here, each with its
        own adapter on: where blocks are computed again in the backward, another adapter would answer.
        """
        self.verbalizer.reset()  # its weights have changed
        self.backbone.model.eval()
        size = self.settings.micro_batch or max(1, len(rows))
        groups = [self._sample(rows[start : start + size], step) for start in range(0, len(rows), size)]
        tokens = total([sum(len(ids) for group in groups for ids in group.targets)], self.accelerator)[0]
        supports = [self._support(group) for group in groups]
        seen = Seen(self.support is not None)
        loss = 0.0
        for group, support in zip(groups, supports, strict=True):
            error, read = self._learn_to_read(group, len(batch))
            reward = self._reward(group, error, support)
            gain = advantages(reward.view(-1, self.settings.samples)).flatten()
            policy, divergence = self._learn_to_write(group, gain, tokens)
            loss += policy + self.settings.kl * divergence + read
            seen.add(group.outputs, reward, error, divergence, support)
        self.notes = seen.notes(self.accelerator)
        self.watch.look(self.notes, step)
        return loss

    def _sample(self, rows: Sequence[int], step: int) -> Group:
        """A group of explanations for each of some rows, keyed on the activation, not on the rows beside it."""
        samples = self.settings.samples
        vectors = self.vectors[list(rows)]
        inputs = self.verbalizer.prepare(vectors).repeat_interleave(samples, dim=0)
        draws = [row_generator(vector, self.config.seed + step, n) for vector in vectors for n in range(samples)]
        with uncompiled():
            written = self.verbalizer.draws(inputs, Sampling(temperature=self.settings.temperature), draws)
        outputs = [self.verbalizer.parse(tokens, finished) for tokens, finished, _ in written]
        targets = [self._with_end(tokens, finished) for tokens, finished, _ in written]
        refused = [refused for _, _, refused in written]
        return Group(inputs, targets, outputs, vectors.repeat_interleave(samples, dim=0), refused)

    def _support(self, group: Group) -> torch.Tensor | None:
        """[n], how well each explanation's claims are supported; None where that is not rewarded."""
        if self.support is None:
            return None
        return self.support([_words(output) for output in group.outputs], group.activations)

    def _reward(self, group: Group, error: torch.Tensor, support: torch.Tensor | None) -> torch.Tensor:
        weights = self.settings.reward
        lengths = torch.tensor([float(output.tokens) for output in group.outputs])
        cut = torch.tensor([float(output.status in ("truncated", UNTAGGED)) for output in group.outputs])
        reward = -weights.mse * error - self.settings.truncation_penalty * cut - self.settings.length_penalty * lengths
        return reward if support is None else reward + weights.support * support

    def _learn_to_read(self, group: Group, batch_size: int) -> tuple[torch.Tensor, float]:
        """mse [n] of the AR's reconstructions, and the loss whose gradient it was given (0 where it is not trained)."""
        texts = [_words(output) for output in group.outputs]
        prompts = [ids for ids, _ in self.contracts["ar"].ar_prompt_ids_batch(self.backbone.tokenizer, texts)]
        learns = bool(self.settings.ar_lr)
        with self.backbone.using("ar"), torch.set_grad_enabled(learns):
            self.backbone.model.train(learns)
            predicted = self.reconstructor.forward(prompts)
            self.reconstructor.refuse_lost(predicted.detach(), prompts)  # NaN would be an advantage of 0 below
            wanted = group.activations.to(predicted.device)
            if self.reconstructor.mean is not None:
                wanted = wanted - self.reconstructor.mean.to(wanted.device)
            loss = direction_loss(predicted, wanted).sum() / (batch_size * self.settings.samples)
            if learns:
                loss.backward()
        made = self.reconstructor.finish(predicted.detach())
        return direction_loss(made, group.activations.to(made.device)).cpu(), loss.item() if learns else 0.0

    def _learn_to_write(self, group: Group, gain: torch.Tensor, tokens: float) -> tuple[float, float]:
        """Gradients of −advantage · log-likelihood and of the divergence, each a sum over this group's tokens, over the
        `tokens` of the whole batch; returns both."""
        reference = None
        if self.settings.kl:
            with torch.no_grad(), self.backbone.using(REFERENCE):
                self.backbone.model.eval()
                reference, _ = self._log_likelihood(group)
        with self.backbone.using("av"):
            self.backbone.model.train()
            own, rows = self._log_likelihood(group)
            policy = -(gain.to(own.device)[rows] * own).sum() / tokens
            divergence = k3(own, reference).sum() / tokens if reference is not None else own.new_zeros(())
            (policy + self.settings.kl * divergence).backward()
        return policy.item(), divergence.item()

    def _log_likelihood(self, group: Group) -> tuple[torch.Tensor, torch.Tensor]:
        """Of each token drawn, at the temperature it was drawn at, and the sample it is of: [tokens] each."""
        states, tokens, rows = response_states(self.verbalizer, group.inputs, group.targets)
        logits = self.verbalizer.logits_of(states).float() / self.settings.temperature
        places = self.verbalizer.places_of(tokens)
        if any(group.refused):
            each = zip(group.targets, group.refused, strict=True)
            before = [torch.tensor(of.get(at, []), dtype=torch.long) for ids, of in each for at in range(len(ids))]
            drawn = [
                [*self.verbalizer.places_of(ids.to(places.device)), place]
                for ids, place in zip(before, places, strict=True)
            ]
            rows = rows.repeat_interleave(torch.tensor([len(ids) for ids in drawn], device=rows.device))
            logits, places = in_turn(logits, [torch.stack(ids) for ids in drawn])
        return -functional.cross_entropy(logits, places, reduction="none"), rows

    def _with_end(self, tokens: list[int], finished: bool) -> list[int]:
        """The tokens with the one that ended them, which is not among what was written."""
        closed = self.verbalizer.stop.closes(tokens, self.backbone.tokenizer.decode)
        return [*tokens, self.end] if finished and not closed else tokens

    # --- what is measured ---------------------------------------------------------------------------------------
    def tokens(self, batch: Sequence[int]) -> int:
        """Tokens written in the step just done."""
        return round(self.notes.get("tokens", 0.0) * len(batch) * self.settings.samples)

    def evaluate(self) -> dict[str, float]:
        """Greedy round trips of held-out rows: FVE with own words, with other rows' words, and how many differ."""
        self.verbalizer.reset()
        self.reconstructor.reset()
        self.backbone.model.eval()
        with uncompiled():
            texts = self.verbalizer(self.eval_vectors)
        read = [_words(one) for one in texts]
        baseline = metrics.mean_baselines(self.eval_vectors).mean_norm
        result = {}
        for name, given in (("round_trip", read), ("shuffled", [*read[1:], read[0]])):
            mse = metrics.direction_mse(self.reconstructor(given), self.eval_vectors)
            result[f"heldout_fve_{name}"] = float(metrics.fve(mse, baseline).mean())
        if self.support is not None:
            result["heldout_support"] = float(self.support(read, self.eval_vectors).mean())
        result["heldout_unique"] = len(set(texts)) / len(texts)
        result["heldout_truncated"] = sum(one.status == "truncated" for one in texts) / len(texts)
        result["heldout_untagged"] = sum(one.status == UNTAGGED for one in texts) / len(texts)
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


def _words(output: Explanation) -> str:
    """An output's explanation: what is in another form than the contract's is none."""
    return str(output) if output.parsed else ""


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
        InputError: a half or table is missing, or a half is a whole model; a calibration is another pair's.
        MissingFileError: support is rewarded, and there is no calibration.
    """
    settings = _settings(config)
    if settings.shard_base:
        raise InputError("grpo.shard_base: every process samples texts of its own length, so blocks cannot be shared.")
    accelerator, device = processes()
    halves = {role: Half.find(str(getattr(settings, role) or config.half_before(role)), role) for role in ("av", "ar")}
    for half in halves.values():
        if not half.is_adapter:
            raise InputError(f"{half.ref} is a whole model; GRPO trains adapters on one base.")
    calibration = find_calibration("grpo", settings.claims, halves) if settings.reward.support else None
    backbone = load_base(config, settings, device, halves["av"].contract.tokenizer)
    trainer = GRPOTrainer(config, backbone, halves, accelerator, calibration)
    if settings.compile:
        compile_blocks(backbone)
    parents = {role: parent_facts(half, half.folder) for role, half in halves.items()}
    facts = run_facts(settings, backbone, parents, trainer.tables, len(trainer.vectors)) | {"method": "grpo"}
    if settings.reward == Reward():
        del facts["settings"]["reward"]  # a run that began before there was another reward is gone on with
    if trainer.support is not None:
        facts["claims_sha256"] = trainer.support.calibration.digest()
    if accelerator.is_main_process and len(trainer.vectors) < settings.batch_size:
        say(f"{len(trainer.vectors)} activations are less than one step's")
    return fit(
        config,
        settings,
        trainer,
        trainer.accumulate,
        adapter="av",
        name=name,
        title="grpo",
        facts=facts,
        save=lambda folder, measured: trainer.save(folder, {**facts, **measured}),
        metric=("heldout_fve_round_trip", True),
        accelerator=accelerator,
        notes_of=lambda: trainer.notes,
    )


@expand
def main(
    config: ConfigOptions,
    name: Annotated[str, typer.Option(help="Of the run: its folder inside the config's `out:`.")] = "grpo",
) -> None:
    loaded = config.load()
    with kept_on_stop(loaded.out / name):
        print(run(loaded, name=name))


main.__doc__ = __doc__

if __name__ == "__main__":
    run_command(main)
