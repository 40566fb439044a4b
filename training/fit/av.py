"""AV supervised training: activation → explanation. `python -m training.fit.av --config training/configs/demo.yaml`

Next-token loss on response tokens only, and logits computed for those only; the activation goes in through the same
hook as at inference. Reads `<out>/av_sft.parquet` and `validation.parquet`, checkpoints every `save_interval` steps,
resumes where it was, logs the held-out loss with true vectors against the loss with vectors shuffled among rows (the
gap is the signal, not the loss), and leaves loadable halves in `<out>/av`, the best of them as `final/`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from nla_sdk.errors import InputError
from nla_sdk.model.backbone import Backbone
from nla_sdk.model.output import OPEN_TAG
from nla_sdk.model.verbalizer import Verbalizer, end_token_ids
from nla_sdk.model.weights.transforms import Transform

from ..configs.command import run_command, trainer_command
from ..configs.config import Config
from ..data.statistics import Statistics
from ..data.tables.columns import target_text
from .engine.base import add_adapter
from .engine.checkpoints import kept_on_stop
from .engine.losses import ResponseLoss, response_states
from .engine.rows import Layers, choosing_table, load_rows, load_written
from .engine.supervised import train

ADAPTER = "av"


class AVTrainer:
    """Holds the model, the rows and the loss; `python -m training.fit.av` runs it."""

    def __init__(self, config: Config, backbone: Backbone) -> None:
        self.config, self.backbone, settings = config, backbone, config.av
        self.statistics = Statistics.load(config.tables_from)
        self.contract = self.statistics.contract(config, backbone, ADAPTER)
        transform = Transform(backbone.d_model, {None: self.statistics.mean}) if config.centred else None
        self.verbalizer = Verbalizer(backbone, ADAPTER, self.contract, transform)
        self.tables = [config.tables_from / "av_sft.parquet"]
        vectors, rows = load_rows(self.tables[0], settings.sources, settings.max_rows, weights=settings.family_weights)
        self.chosen_by = choosing_table(config.tables_from)
        held_out, self.eval_rows = load_rows(self.chosen_by, settings.sources, settings.eval_rows)
        if "expert" in settings.sources:
            self.tables.append(config.out / "expert.parquet")
            own, apart = load_written(self.tables[-1], "expert", settings.eval_rows)
            vectors, rows = torch.cat([vectors, own[0]]), rows + own[1]
            held_out, self.eval_rows = torch.cat([held_out, apart[0]]), self.eval_rows + apart[1]
        layers = Layers(config)
        vectors, held_out = layers.stacked(vectors, rows), layers.stacked(held_out, self.eval_rows)
        targets, self.eval_targets = self._tokenize(rows), self._tokenize(self.eval_rows)
        room = settings.max_length - len(self.verbalizer.prompt_ids)
        fitting = [at for at, ids in enumerate(targets) if len(ids) <= room]
        if not fitting:
            raise InputError(f"No response fits into av.max_length ({settings.max_length}) beside the prompt.")
        self.rows, self.targets = [rows[at] for at in fitting], [targets[at] for at in fitting]
        self.left_out = len(rows) - len(fitting)
        self.inputs, self.eval_inputs = self.verbalizer.prepare(vectors[fitting]), self.verbalizer.prepare(held_out)
        seen = [token for ids in [*self.targets, *self.eval_targets] for token in ids]
        self.loss = ResponseLoss(backbone, seen, settings.sampled_negatives, settings.logit_slice)
        self.parameters = add_adapter(backbone, ADAPTER, settings, config.seed)
        self.groups = [{"params": list(self.parameters.values()), "lr": settings.lr}]
        self.lengths = [len(ids) for ids in self.targets]
        self.head = None

    def _tokenize(self, rows) -> list[list[int]]:
        texts = [target_text(row["response"], self.contract.av_template) for row in rows]
        ids = self.backbone.tokenizer(texts, add_special_tokens=False).input_ids
        if self.contract.av_template.endswith(OPEN_TAG):
            return ids
        end = min(end_token_ids(self.backbone))
        return [[*row, end] for row in ids]

    def batch_loss(
        self,
        inputs: torch.Tensor,
        targets: list[list[int]],
        generator: torch.Generator | None = None,
        exact: bool = False,
    ) -> torch.Tensor:
        """Summed loss over the response tokens of some rows.

        Args:
            inputs: prepared activations, [n, d] or [n, markers, d].
            targets: response tokens.
        """
        self.backbone.model.train(torch.is_grad_enabled())
        states, tokens, _ = response_states(self.verbalizer, inputs, targets)
        return self.loss(states, tokens, generator, exact)

    def share_of_loss(self, rows: Sequence[int], step: int, batch: Sequence[int]) -> torch.Tensor:
        """What `rows` contribute to the mean loss over all response tokens of `batch`."""
        draw = torch.Generator().manual_seed(self.config.seed * 1_000_003 + step)
        total = self.batch_loss(self.inputs[list(rows)], [self.targets[row] for row in rows], draw)
        return total / sum(len(self.targets[row]) for row in batch)

    def tokens(self, batch: Sequence[int]) -> int:
        """Tokens of a batch, prompts included, padding not."""
        return sum(len(self.verbalizer.prompt_ids) + len(self.targets[row]) for row in batch)

    def evaluate(self) -> dict[str, float]:
        """Exact held-out loss with true vectors and with vectors shuffled among rows, and the gap."""
        result = {}
        size = self.config.av.micro_batch or self.config.av.batch_size
        shuffled = self.eval_inputs.roll(1, dims=0)
        with torch.no_grad(), self.backbone.using(ADAPTER):
            for name, inputs in (("heldout_loss", self.eval_inputs), ("heldout_loss_shuffled", shuffled)):
                total = 0.0
                for start in range(0, len(inputs), size):
                    targets = self.eval_targets[start : start + size]
                    total += self.batch_loss(inputs[start : start + size], targets, exact=True).item()
                result[name] = total / sum(map(len, self.eval_targets))
        result["heldout_gap"] = result["heldout_loss_shuffled"] - result["heldout_loss"]
        return result


def run(config: Config, *, name: str = ADAPTER) -> Path:
    """Train the AV; returns the folder of the best half.

    Args:
        name: of the run, a folder in `config.out`.
    """
    with kept_on_stop(config.out / name):
        return train(config, ADAPTER, AVTrainer, name, metric=("heldout_loss", False))


if __name__ == "__main__":
    from .plan.estimate import show

    run_command(trainer_command(run, "av", show))
