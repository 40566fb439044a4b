"""What both trainers share: data order, schedule, checkpoints that resume exactly, telemetry to JSONL."""

from __future__ import annotations

import json
import math
import random
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from tqdm import tqdm

from nla_sdk.errors import NLAError

from .config import Train
from .files import atomic


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
    """Linear warm-up over `warmup_steps`, then constant, or linearly down to 5 % of the peak."""
    if step < settings.warmup_steps:
        return (step + 1) / settings.warmup_steps
    if settings.decay == "constant":
        return 1.0
    done = (step - settings.warmup_steps) / max(1, total - settings.warmup_steps)
    return 1.0 - 0.95 * done


class Loop:
    """Runs steps from the last checkpoint to the end.

    Args:
        out: the run's folder; holds `checkpoint/`, `log.jsonl`.
        identity: what makes a checkpoint this run's: resuming another run's is refused.
    """

    def __init__(
        self, out: Path, settings: Train, optimizer: torch.optim.Optimizer, parameters: dict, identity: dict, seed: int
    ):
        self.out, self.settings, self.optimizer, self.parameters = out, settings, optimizer, parameters
        self.identity = identity
        self.peaks = [group["lr"] for group in optimizer.param_groups]
        self.step = 0
        out.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(seed)
        if (out / "checkpoint").is_dir():
            self._resume()
        elif settings.continue_from is not None:
            self._take(_read(settings.continue_from))

    def run(
        self,
        batches: Sequence[Sequence[int]],
        loss_of: Callable[[Sequence[int], int], torch.Tensor],
        evaluate: Callable[[], dict],
        name: str,
    ) -> None:
        """Train over `batches`; `loss_of(rows, step)` gives a batch's loss, `evaluate()` what to log beside it."""
        total = len(batches)
        bar = tqdm(total=total, initial=self.step, unit="step", desc=name, mininterval=5)
        if self.step == 0:
            self.log({"step": 0, **evaluate()})
        while self.step < total:
            start = time.perf_counter()
            for group, peak in zip(self.optimizer.param_groups, self.peaks, strict=True):
                group["lr"] = peak * learning_rate_factor(self.step, total, self.settings)
            loss = loss_of(batches[self.step], self.step)
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(list(self.parameters.values()), self.settings.clip)
            if not torch.isfinite(loss) or not torch.isfinite(norm):
                raise TrainingError(
                    f"Step {self.step}: loss {loss.item()}, gradient norm {norm.item()}; "
                    f"rows {list(batches[self.step])}. "
                    f"The last good checkpoint is in {self.out / 'checkpoint'}."
                )
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            self.step += 1
            record = {
                "step": self.step,
                "loss": loss.item(),
                "lr": self.optimizer.param_groups[0]["lr"],
                "grad_norm": norm.item(),
                "seconds": time.perf_counter() - start,
            }
            if self.step % self.settings.eval_interval == 0 or self.step == total:
                record |= evaluate()
            self.log(record)
            bar.update(1)
            bar.set_postfix(loss=f"{record['loss']:.3f}", refresh=False)
            if self.step % self.settings.save_interval == 0 or self.step == total:
                self.save()
        bar.close()

    def log(self, record: dict) -> None:
        """Append one line to `log.jsonl`, flushed."""
        rounded = {key: round(value, 6) if isinstance(value, float) else value for key, value in record.items()}
        with (self.out / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(rounded) + "\n")

    def save(self) -> None:
        """Write `checkpoint/`: weights, optimizer, RNG, step."""
        state = {
            "parameters": {name: parameter.detach() for name, parameter in self.parameters.items()},
            "optimizer": self.optimizer.state_dict(),
            "rng": torch.get_rng_state(),
            "step": self.step,
            "identity": json.dumps(self.identity, sort_keys=True),
        }
        with atomic(self.out / "checkpoint") as sibling:
            sibling.mkdir()
            torch.save(state, sibling / "state.pt")

    def _take(self, state: dict) -> None:
        for name, parameter in self.parameters.items():
            parameter.data.copy_(state["parameters"][name])

    def _resume(self) -> None:
        state = _read(self.out / "checkpoint")
        if state["identity"] != json.dumps(self.identity, sort_keys=True):
            raise TrainingError(
                f"{self.out / 'checkpoint'} belongs to a run with other settings or data; give this one "
                "another `out:`, or remove that folder to start over."
            )
        self._take(state)
        self.optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["rng"])
        self.step = state["step"]
        log = self.out / "log.jsonl"
        if log.is_file():  # what was logged after the checkpoint will be logged again
            lines = [
                line for line in log.read_text(encoding="utf-8").splitlines() if json.loads(line)["step"] <= self.step
            ]
            with atomic(log) as sibling:
                sibling.write_text("".join(line + "\n" for line in lines), encoding="utf-8")


def _read(folder: Path) -> dict:
    try:
        return torch.load(folder / "state.pt", weights_only=True)
    except OSError as error:
        raise TrainingError(f"{folder} holds no checkpoint to start from: {error.strerror}.") from error


def finish(folder: Path, write: Callable[[Path], None]) -> Path:
    """Write the finished half into `folder` in one rename."""
    with atomic(folder) as sibling:
        shutil.rmtree(sibling, ignore_errors=True)
        sibling.mkdir(parents=True)
        write(sibling)
    return folder
