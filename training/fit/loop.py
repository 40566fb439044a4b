"""What both trainers share: data order, schedule, accumulation, several processes, exact resumption, telemetry.

A batch is a list of rows for one optimizer step, the same however many processes there are and however few rows fit
into one forward: each process takes its share of the batch in micro-batches, whose losses are fractions of the batch's
loss, and the gradients are summed over all of them. So two processes (`accelerate launch --multi_gpu --num_processes 2
-m training.fit.av …`) walk the same loss curve as one. Gradients are summed by hand and not by a wrapper around the
model, because the AR's forward is abandoned after its last block.
"""

from __future__ import annotations

import json
import math
import random
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path

import psutil
import torch

from nla_sdk.errors import NLAError
from nla_sdk.io.files import atomic
from nla_sdk.io.logs import read_losses
from nla_sdk.io.progress import progress_bar, say

from ..configs.fit import Train
from ..runs.log import Telemetry
from ..runs.verdict import Trend, trend

STEP = re.compile(r"step_(\d+)")
STATE = Path("trainer") / "state.pt"


class TrainingError(NLAError):
    """Training cannot go on: NaN, or a checkpoint of another run."""


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


class Loop:
    """Runs steps from the last checkpoint to the end.

    Args:
        folder: the run's folder: `step_NNNNNN/` (loadable halves with the trainer's state), `final/`, `log.jsonl`.
        parameters: what is trained, by name.
        identity: what makes a checkpoint this run's: resuming another run's is refused.
        save: `save(folder, facts)` writes the half as it is now into an empty folder.
        metric: the held-out figure that decides what is best, and whether more is better.
        accelerator: of a run in several processes; None: this is the only one.
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
        accelerator=None,
    ) -> None:
        self.folder, self.settings, self.optimizer, self.parameters = folder, settings, optimizer, parameters
        self.identity, self.save_half, self.metric, self.accelerator = identity, save, metric, accelerator
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

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def run(
        self,
        batches: Sequence[Sequence[int]],
        loss_of: Callable[[Sequence[int], int, Sequence[int]], torch.Tensor],
        evaluate: Callable[[], dict],
        name: str,
        tokens_of: Callable[[Sequence[int]], int] = len,
        notes_of: Callable[[], dict] = dict,
    ) -> None:
        """Train over `batches`.

        Args:
            loss_of: `loss_of(rows, step, batch)`: what `rows` contribute to the loss of `batch`; contributions add up.
            evaluate: held-out figures, logged beside the loss.
            tokens_of: how many tokens a batch has.
            notes_of: more figures of the step just done, for the log.
        Raises:
            TrainingError: the loss or a gradient is not finite.
            KeyboardInterrupt: after Ctrl-C, with everything saved.
        """
        total = len(batches)
        bar = progress_bar(total, "step", name, done=self.step, shown=self.is_main)
        if self.step == 0:
            self._evaluated({"step": 0}, evaluate)
        with self._interrupts_wait():
            while self.step < total:
                record = self._one_step(batches[self.step], loss_of, total)
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

    def _one_step(self, batch: Sequence[int], loss_of, total: int) -> dict:
        start = time.perf_counter()
        for group, peak in zip(self.optimizer.param_groups, self.peaks, strict=True):
            group["lr"] = peak * learning_rate_factor(self.step, total, self.settings)
        own, loss = batch[self.rank :: self.world], 0.0
        size = self.settings.micro_batch or len(batch)
        # Every process makes as many forwards: where the base is sharded, each of them is a joint one.
        for at in range(0, -(-len(batch) // self.world), size):
            rows = own[at : at + size]
            part = loss_of(rows, self.step, batch) if rows else 0.0 * loss_of(batch[:1], self.step, batch)
            part.backward()
            loss += part.item()
        loss = self._summed(loss)
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
        verdict = {"loss_trend": recent.verdict} if self.is_main and (recent := self._trend()) else {}
        self._log(record | found | verdict)
        if self.is_main and (value := found.get(self.metric[0])) is not None and math.isfinite(value):
            sign = 1 if self.metric[1] else -1
            if self.best is None or sign * value > sign * self.best["value"]:
                self.best = {"metric": self.metric[0], "value": value, "step": self.step}
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
        log = self.folder / "log.jsonl"
        losses = read_losses(log) if log.is_file() else {}
        return trend(losses) if len(losses) > 2 else None

    def _log(self, record: dict) -> None:
        if self.telemetry is not None:
            self.telemetry.log(record)

    def checkpoint(self) -> Path:
        """Write `step_NNNNNN/`: the half, and what the trainer needs to go on; then drop all but the latest ones."""
        path = self.folder / f"step_{self.step:06d}"
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
                "identity": json.dumps(self.identity, sort_keys=True),
            }
            with atomic(path) as sibling:
                sibling.mkdir()
                self.save_half(sibling, self.facts())
                (sibling / STATE).parent.mkdir()
                torch.save(state, sibling / STATE)
            for old in checkpoints(self.folder)[: -self.settings.keep_checkpoints]:
                shutil.rmtree(old)
            if self.telemetry.path.is_file():
                self.telemetry.render()
        self._wait()
        return path

    def _wait(self) -> None:
        if self.world > 1:
            self.accelerator.wait_for_everyone()

    def _resume(self, path: Path) -> None:
        try:
            state = torch.load(path / STATE, weights_only=True, map_location="cpu")
        except (OSError, RuntimeError, EOFError) as error:
            raise TrainingError(
                f"{path / STATE} cannot be read ({error}); remove {path} to go on without it."
            ) from error
        if state["identity"] != json.dumps(self.identity, sort_keys=True):
            raise TrainingError(
                f"{path} belongs to a run with other settings or data; give this one another `out:` or --name, or "
                f"remove {self.folder} to start over."
            )
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


def checkpoints(folder: Path) -> list[Path]:
    """The finished checkpoints of a run, oldest first."""
    found = [path for path in folder.glob("step_*") if STEP.fullmatch(path.name) and (path / STATE).is_file()]
    return sorted(found, key=lambda path: int(STEP.fullmatch(path.name)[1]))


def latest_checkpoint(folder: Path) -> Path | None:
    return next(iter(reversed(checkpoints(folder))), None)


def peak_memory_gib() -> float:
    """The most memory used so far, in GiB: of the GPU where there is one, else of the process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    try:
        import resource
    except ImportError:  # Windows keeps it elsewhere
        return psutil.Process().memory_info().peak_wset / 2**30
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB, on macOS bytes
    return peak / 2**30 if sys.platform == "darwin" else peak / 2**20
