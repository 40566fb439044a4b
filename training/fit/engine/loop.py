"""What all trainers share: steps, accumulation, several processes, exact resumption, telemetry.

A batch is a list of rows for one optimizer step, the same however many processes there are and however few rows fit
into one forward: each process accumulates the gradients of its share of the batch, and they are summed over all of
them. So two processes (`accelerate launch --multi_gpu --num_processes 2 -m training.fit.av …`) walk the same loss curve
as one. Gradients are summed by hand and not by a wrapper around the model, because the AR's forward is abandoned after
its last block.
"""

from __future__ import annotations

import math
import signal
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from nla_sdk.io.files import atomic, sha256_of
from nla_sdk.io.logs import read_losses
from nla_sdk.io.progress import progress_bar, say

from ...configs.config import Config
from ...configs.fit import Train
from ...runs.log import LOG, Telemetry
from ...runs.machine import peak_memory_gib
from ...runs.verdict import Trend, trend
from .checkpoints import (
    TrainingError,
    identity_of_run,
    identity_text,
    latest_checkpoint,
    read_state,
    write_checkpoint,
)
from .schedule import data_order, learning_rate_factor, make_optimizer

Accumulate = Callable[[Sequence[int], int, Sequence[int]], float]
"""`accumulate(rows, step, batch)`: add what `rows` (of this process; there may be none) contribute to the gradient of
`batch`'s loss to the parameters' gradients, and return their contribution to the loss. Contributions add up."""


def in_micro_batches(
    share_of_loss: Callable[[Sequence[int], int, Sequence[int]], torch.Tensor], size: int | None, processes: int = 1
) -> Accumulate:
    """Accumulation of a loss whose shares can be computed and differentiated one micro-batch after the other.

    Args:
        share_of_loss: `share_of_loss(rows, step, batch)`, a scalar with a gradient; shares add up to the batch's loss.
        size: rows of one forward; None: all of a process's.
        processes: how many share a batch.
    """

    def accumulate(rows: Sequence[int], step: int, batch: Sequence[int]) -> float:
        loss, width = 0.0, size or len(batch)
        # Every process makes as many forwards: where the base is sharded, each of them is a joint one.
        for start in range(0, -(-len(batch) // processes), width):
            part = rows[start : start + width]
            share = share_of_loss(part, step, batch) if part else 0.0 * share_of_loss(batch[:1], step, batch)
            share.backward()
            loss += share.item()
        return loss

    return accumulate


def refuse_other_runs(folder: Path, step: int, identity: Mapping[str, Any]) -> None:
    """See that all processes are about to go on with the same run from the same step.

    Machines that do not share the folder `out` would: one resumes, the others begin, and their gradients, of
    different weights, add up without an error.

    Raises:
        TrainingError: in every process, naming the first that differs and in what.
    """
    from accelerate.utils import gather_object

    first, *others = gather_object([(socket.gethostname(), step, dict(identity))])
    for rank, (host, at, other) in enumerate(others, 1):
        names = sorted(name for name in first[2].keys() | other.keys() if first[2].get(name) != other.get(name))
        if names or at != first[1]:
            found = f"has another {', '.join(names)}" if names else f"stands at step {at}, process 0 at {first[1]}"
            raise TrainingError(
                f"Process {rank} on {host} {found} (process 0 is on {first[0]}). All machines must read the same "
                f"tables and see the same {folder}: put `out:` on storage that they share, and run the same commit."
            )


class Loop:
    """Runs steps from the last checkpoint to the end.

    Args:
        folder: the run's folder: `step_NNNNNN/` (loadable halves with the trainer's state), `final/`, `log.jsonl`.
        parameters: what is trained, by name.
        identity: what makes a checkpoint this run's: resuming another run's is refused.
        save: `save(folder, facts)` writes the half as it is now into an empty folder.
        metric: the held-out figure that decides what is best, and whether more is better.
        chosen_by: the table that it is of.
        accelerator: of a run in several processes; None: this is the only one.
    Raises:
        TrainingError: the last checkpoint is of another run, or processes would go on with different ones.
    """

    def __init__(
        self,
        folder: Path,
        settings: Train,
        optimizer: torch.optim.Optimizer,
        parameters: dict[str, torch.nn.Parameter],
        identity: dict,
        seed: int,
        *,
        save: Callable[[Path, dict], None] = lambda folder, facts: None,
        metric: tuple[str, bool] = ("", True),
        chosen_by: Path | None = None,
        accelerator: Any = None,
    ) -> None:
        self.folder, self.settings, self.optimizer, self.parameters = folder, settings, optimizer, parameters
        self.identity, self.save_half, self.metric, self.accelerator = identity, save, metric, accelerator
        self.table = {} if chosen_by is None else {"table": chosen_by.name, "table_sha256": sha256_of(chosen_by)}
        self.rank = accelerator.process_index if accelerator is not None else 0
        self.world = accelerator.num_processes if accelerator is not None else 1
        self.peaks = [group["lr"] for group in optimizer.param_groups]
        self.step, self.seconds, self.best = 0, 0.0, None
        self.telemetry = Telemetry(folder, settings.log_interval, settings.trackers) if self.rank == 0 else None
        torch.manual_seed(seed + self.rank)  # of dropout; weights are there already, the same in every process
        self._stop = False
        if (latest := latest_checkpoint(folder)) is not None:
            self._resume(latest)
        elif self.telemetry is not None:
            self.telemetry.truncate(-1)  # of a run that died before its first checkpoint
        if self.world > 1:
            refuse_other_runs(folder, self.step, self.identity)

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that writes and speaks."""
        return self.rank == 0

    def run(
        self,
        batches: Sequence[Sequence[int]],
        accumulate: Accumulate,
        evaluate: Callable[[], dict],
        name: str,
        tokens_of: Callable[[Sequence[int]], int] = len,
        notes_of: Callable[[], dict] = dict,
    ) -> None:
        """Train over `batches`.

        Args:
            accumulate: adds up the gradients of this process's rows of a batch.
            evaluate: held-out figures, logged beside the loss.
            tokens_of: how many tokens a batch has.
            notes_of: more figures of the step just done, for the log.
        Raises:
            TrainingError: the loss, a gradient or a held-out figure is not finite.
            InjectionError: an AV's activations do not reach its model, seen at the first batch.
            KeyboardInterrupt: after Ctrl-C, with everything saved.
        """
        total = len(batches)
        bar = progress_bar(total, "step", name, done=self.step, shown=self.is_main)
        if self.step == 0:
            self._evaluated({"step": 0}, evaluate)
        with self._interrupts_wait():
            while self.step < total:
                record = self._one_step(batches[self.step], accumulate, total)
                record["tokens_per_second"] = tokens_of(batches[self.step - 1]) / record["seconds"]
                record |= notes_of()
                if self.step % self.settings.eval_interval == 0 or self.step == total:
                    self._evaluated(record, evaluate)
                else:
                    self._log(record)
                bar.update(1)
                bar.set_postfix(loss=f"{record['loss']:.3f}", refresh=False)
                if self.step % self.settings.save_interval == 0 or self.step == total or self._stop:
                    self.checkpoint()
                if self._stop and self.step < total:
                    raise KeyboardInterrupt(
                        f"stopped after step {self.step} of {total}; {self.folder / f'step_{self.step:06d}'} is saved, "
                        "run the same command again to go on"
                    )
        bar.close()

    def _one_step(self, batch: Sequence[int], accumulate: Accumulate, total: int) -> dict:
        start = time.perf_counter()
        for group, peak in zip(self.optimizer.param_groups, self.peaks, strict=True):
            group["lr"] = peak * learning_rate_factor(self.step, total, self.settings)
        loss = self._summed(accumulate(batch[self.rank :: self.world], self.step, batch))
        norm = torch.nn.utils.clip_grad_norm_(list(self.parameters.values()), self.settings.clip)
        if not math.isfinite(loss) or not torch.isfinite(norm):
            last = latest_checkpoint(self.folder)
            raise TrainingError(
                f"Step {self.step}: loss {loss}, gradient norm {norm.item()}; rows {list(batch)}. "
                + (f"The last good checkpoint is {last}." if last else "There is no checkpoint yet.")
            )
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        seconds = time.perf_counter() - start
        self.seconds += seconds
        return {
            "step": self.step,
            "loss": loss,
            "lr": self.optimizer.param_groups[0]["lr"],
            "grad_norm": norm.item(),
            "seconds": seconds,
            "peak_memory_gib": peak_memory_gib(),
        }

    def _summed(self, loss: float) -> float:
        """Gradients and loss, summed over all processes; whoever was interrupted tells the others the same way."""
        if self.world == 1:
            return loss
        # By hand and in one tensor: DDP's wrapper expects whole forwards, and the AR's ends after its last block.
        # Sums, not means: every share is already divided by the whole batch, so no process counts for more.
        parameters = list(self.parameters.values())
        parts = [(torch.zeros_like(p) if p.grad is None else p.grad).flatten().float() for p in parameters]
        told = parts[0].new_tensor([loss, float(self._stop)])
        flat = self.accelerator.reduce(torch.cat([*parts, told]), reduction="sum")
        sizes = [parameter.numel() for parameter in parameters]
        *gradients, told = flat.split([*sizes, 2])
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient.view_as(parameter).to(parameter.dtype)
        self._stop = bool(told[1])
        return told[0].item()

    @contextmanager
    def _interrupts_wait(self) -> Iterator[None]:
        """The first Ctrl-C ends the run after the step in flight; a second one ends it at once."""

        def ask(number, frame) -> None:
            if self._stop:
                raise KeyboardInterrupt
            self._stop = True
            if self.is_main:
                say("stopping after this step; Ctrl-C again to stop at once")

        try:
            before = signal.signal(signal.SIGINT, ask)
        except ValueError:  # not the main thread: nobody can press Ctrl-C here
            yield
            return
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    # --- what is logged and kept ------------------------------------------------------------------------------------
    def _evaluated(self, record: dict, evaluate: Callable[[], dict]) -> None:
        """Evaluate, log, and keep the half as `final/` if it is the best so far."""
        found = evaluate() if self.is_main or self.settings.shard_base else {}
        if lost := [name for name, value in found.items() if isinstance(value, float) and not math.isfinite(value)]:
            last = latest_checkpoint(self.folder)
            raise TrainingError(
                f"Step {self.step}: {lost[0]} is {found[lost[0]]} on the held-out rows; there is nothing to choose by. "
                "The dtype may be too narrow (float16), or the base holds NaN (nla round-trip … --check-weights). "
                + (f"The last checkpoint is {last}." if last else "There is no checkpoint yet.")
            )
        verdict = {"loss_trend": recent.verdict} if self.is_main and (recent := self._trend()) else {}
        self._log(record | found | verdict)
        if self.is_main and (value := found.get(self.metric[0])) is not None:
            sign = 1 if self.metric[1] else -1
            if self.best is None or sign * value > sign * self.best["value"]:
                self.best = {"metric": self.metric[0], "value": value, "step": self.step} | self.table
                with atomic(self.folder / "final") as sibling:
                    sibling.mkdir()
                    self.save_half(sibling, self.facts() | {"chosen_by": self.best, **found})
        self._wait()

    def facts(self) -> dict:
        """What a checkpoint says of the run so far."""
        recent = self._trend()
        return {
            "step": self.step,
            "processes": self.world,
            "wall_seconds": round(self.seconds, 1),
            **({"loss_trend": asdict(recent)} if recent else {}),
        }

    def _trend(self) -> Trend | None:
        """What the raw loss of the last steps does; None before there are three."""
        log = self.folder / LOG
        losses = read_losses(log) if log.is_file() else {}
        return trend(losses) if len(losses) > 2 else None

    def _log(self, record: dict) -> None:
        if self.telemetry is not None:
            self.telemetry.log(record)

    def checkpoint(self) -> None:
        """Write `step_NNNNNN/`: the half, and what the trainer needs to go on; then drop all but the latest ones."""
        rng = [torch.get_rng_state()]
        if self.world > 1:
            from accelerate.utils import gather_object

            rng = gather_object(rng)
        if self.is_main:
            state = {
                "parameters": {name: parameter.detach().cpu() for name, parameter in self.parameters.items()},
                "optimizer": self.optimizer.state_dict(),
                "rng": rng,
                "cuda_rng": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
                "step": self.step,
                "seconds": self.seconds,
                "best": self.best,
                "identity": identity_text(self.identity),
            }
            keep = self.settings.keep_checkpoints
            write_checkpoint(self.folder, self.step, lambda half: self.save_half(half, self.facts()), state, keep)
            if self.telemetry.path.is_file():
                self.telemetry.render()
        self._wait()

    def _wait(self) -> None:
        if self.world > 1:
            self.accelerator.wait_for_everyone()

    def _resume(self, path: Path) -> None:
        state = read_state(path, self.identity)
        for name, parameter in self.parameters.items():
            parameter.data.copy_(state["parameters"][name])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.rank < len(state["rng"]):  # more processes than before: the new ones keep their own seeds
            torch.set_rng_state(state["rng"][self.rank])
        if state["cuda_rng"] and torch.cuda.is_available():
            with suppress(IndexError):
                torch.cuda.set_rng_state_all(state["cuda_rng"])
        self.step, self.seconds, self.best = state["step"], state["seconds"], state["best"]
        if self.telemetry is not None:
            self.telemetry.truncate(self.step)  # what was logged after the checkpoint will be logged again


def fit(
    config: Config,
    settings: Train,
    trainer: Any,
    accumulate: Accumulate,
    *,
    adapter: str,
    name: str,
    title: str,
    facts: Mapping[str, Any],
    save: Callable[[Path, dict], None],
    metric: tuple[str, bool],
    accelerator: Any,
    notes_of: Callable[[], dict] = dict,
) -> Path:
    """Run a trainer's loop from its last checkpoint to the end; returns the folder of the best half.

    Args:
        trainer: has `backbone`, `parameters`, `groups`, the rows' `lengths`, `evaluate()`, of what table that is
            (`chosen_by`), and `tokens(batch)`.
        adapter: the one that is on while the loop runs.
        name: of the run, a folder in `config.out`.
        title: of the progress bar.
        facts: see `checkpoints.run_facts`; what of them changes the result is the run's identity.
        save, metric, accelerator: see `Loop`.
    """
    table = trainer.chosen_by
    identity = identity_of_run(facts) | {"layer": config.layer, "seed": config.seed}
    if table.stem == "validation":  # a run that began before there was one is gone on with
        identity["chosen_by_sha256"] = sha256_of(table)
    elif accelerator.is_main_process:
        say(
            f"warning: there is no {table.with_name('validation.parquet')}, so final/ is chosen by {table.name}: "
            "figures reported on that table are a little too good. split.validation gives a table to choose by."
        )
    with trainer.backbone.using(adapter):
        loop = Loop(
            config.out / name,
            settings,
            make_optimizer(trainer.groups, settings, trainer.backbone.device),
            trainer.parameters,
            identity,
            config.seed,
            save=save,
            metric=metric,
            chosen_by=table,
            accelerator=accelerator,
        )
        batches = data_order(trainer.lengths, settings.batch_size, settings.epochs, config.seed)
        loop.run(batches, accumulate, trainer.evaluate, title, trainer.tokens, notes_of)
    accelerator.end_training()  # a process group left to the interpreter's exit aborts it now and then
    return config.out / name / "final"
