"""A run's log: `<run>/log.jsonl`, one JSON object per line; TensorBoard and Weights & Biases get the same numbers.

TensorBoard gets them wherever it is installed, wandb where a run's `trackers:` asks for it. Keys of the log, all but
`step` optional:

    step  loss  lr  grad_norm  seconds  tokens_per_second  peak_memory_gib
    heldout_loss  heldout_loss_shuffled                       AV: with the true vectors, with vectors of other rows
    heldout_fve_true  heldout_fve_empty  heldout_fve_shuffled AR: the mean-norm baseline is 0
    heldout_fve_true_raw_variance …                           AR: the same against the stricter baseline (metrics)

The AV's loss alone says little: learning how labels are written lowers it whether or not the vector is read. Its signal
is the gap between the two held-out curves. The AR's is FVE with true text over FVE with no text, or with false text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nla_sdk.errors import InputError
from nla_sdk.io.files import atomic, hash64
from nla_sdk.io.logs import log_lines

from . import curves

if TYPE_CHECKING:
    from accelerate.tracking import GeneralTracker

LOG = "log.jsonl"
DIGITS = 6


class Telemetry:
    """The log of one run: `<folder>/log.jsonl`.

    Args:
        folder: the run's folder; made if it isn't there.
        every: log the steps that this number divides, and any step with held-out values. With more than 1, `trend` has
            fewer losses to go by.
        trackers: "tensorboard" (left out where it isn't installed) and "wandb" (project nla, set up by its own
            environment variables), besides the log.
    Raises:
        InputError: `every` is less than 1, or wandb is asked for and not installed.
    Example:
        >>> telemetry = Telemetry(Path("runs/demo/run_av"))
        >>> telemetry.log({"step": 1, "loss": 5.15, "lr": 2.5e-05})
    """

    def __init__(self, folder: Path, every: int = 1, trackers: Sequence[str] = ("tensorboard",)) -> None:
        if every < 1:
            raise InputError(f"Telemetry every {every} steps was asked for; the least is 1.")
        if "wandb" in trackers and find_spec("wandb") is None:
            raise InputError("trackers: wandb is not installed: pip install wandb, or take it out of `trackers:`.")
        self.folder, self.every = Path(folder), every
        self.folder.mkdir(parents=True, exist_ok=True)
        self.path = self.folder / LOG
        self._whole = False  # whether the log is known to end in a whole line
        self._wanted = trackers
        self._trackers: list[GeneralTracker] | None = None  # started with the first record
        self._purge: int | None = None

    def log(self, record: Mapping[str, Any]) -> None:
        """Append one line, flushed; floats are rounded to six significant digits (a learning rate of 1e-7 stays one).

        Args:
            record: numbers by name; `step` must be among them.
        """
        heldout = any(key.startswith("heldout_") for key in record)
        if record["step"] % self.every and not heldout:
            return
        rounded = {key: _rounded(value) for key, value in record.items()}
        line = json.dumps(rounded) + "\n"
        if not self._whole:
            self._cut_torn_line()
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line)
        numbers = {key: value for key, value in rounded.items() if key != "step" and isinstance(value, int | float)}
        if self._trackers is None:
            self._trackers = self._started()
        for tracker in self._trackers:
            tracker.log(numbers, step=rounded["step"])

    def truncate(self, step: int) -> None:
        """Drop what was logged after `step`: a run resumed from that checkpoint will log it again. −1 drops everything.

        Raises:
            InputError: a line of the log is malformed; names it.
        """
        self._purge = step + 1
        if not self.path.is_file():
            return
        kept = [text for text, record in log_lines(self.path) if record["step"] <= step]
        with atomic(self.path) as sibling:
            sibling.write_text("".join(text + "\n" for text in kept), encoding="utf-8")

    def render(self, role: curves.Role | None = None) -> Path | None:
        """Draw `<folder>/training.png` from the log; see `training.runs.curves`."""
        return curves.render(self.path, self.folder / curves.FIGURE, role)

    def close(self) -> None:
        """Finish what the trackers keep open. The log needs no closing."""
        for tracker in self._trackers or ():
            tracker.finish()
        self._trackers = None

    def _cut_torn_line(self) -> None:
        """A run killed while writing leaves half a line; the next one must not be glued to it."""
        self._whole = True
        if self.path.is_file() and not (there := self.path.read_bytes()).endswith(b"\n"):
            with atomic(self.path) as sibling:
                sibling.write_bytes(there[: there.rfind(b"\n") + 1])

    def _started(self) -> list[GeneralTracker]:
        """accelerate's trackers, one by one: only so can each say what becomes of steps that are taken again."""
        from accelerate import PartialState, tracking
        from accelerate.utils import is_tensorboard_available

        started: list[GeneralTracker] = []
        if "tensorboard" in self._wanted and is_tensorboard_available():
            # purge_step hides what an earlier process logged of the steps that are taken again
            started.append(tracking.TensorBoardTracker("tensorboard", self.folder, purge_step=self._purge))
        if "wandb" in self._wanted:
            identity = f"{hash64(str(self.folder.resolve())):016x}"  # the same run again when it is resumed
            options = {"name": "/".join(self.folder.parts[-2:]), "id": identity, "resume": "allow"}
            started.append(tracking.WandBTracker("nla", dir=str(self.folder), **options))
        if started:
            PartialState()  # trackers ask it who they are; a run's Accelerator has made it already
        for tracker in started:
            tracker.start()
        return started


def _rounded(value: Any) -> Any:
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value
