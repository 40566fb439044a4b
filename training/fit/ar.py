"""AR supervised training: explanation → activation. `python -m training.fit.ar --config training/configs/demo.yaml`

The forward stops after block B − 1; the state at the prompt's last token goes through an fp32 linear head started at a
multiple of the identity (the default initialisation would shrink it by √3). The loss is the mse of directions, both
scaled to √d. Reads the `tables` of its settings (`<out>/ar_sft.parquet`), `validation.parquet` and, if `sources` asks
for on_policy rows, what the AV wrote (`<out>/on_policy.parquet`); leaves loadable halves in `<out>/ar`, the best of
them as `final/`.

Telemetry: held-out FVE with true labels, with empty text and with the labels shuffled among rows.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from nla_sdk import metrics
from nla_sdk.model.backbone import Backbone
from nla_sdk.model.batches import token_states
from nla_sdk.model.reconstructor import Reconstructor
from nla_sdk.model.weights.heads import load_head
from nla_sdk.model.weights.transforms import Transform

from ..configs.command import run_command, trainer_command
from ..configs.config import Config
from ..data.statistics import Statistics
from ..label.extractive import prose
from .engine.base import add_adapter
from .engine.checkpoints import kept_on_stop
from .engine.losses import contrastive_loss, direction_loss
from .engine.rows import choosing_table, load_rows, load_written, without
from .engine.supervised import train

ADAPTER = "ar"


def drop_words(text: str, share: float, key: str) -> str:
    """`text` without a random `share` of its words, the same for the same `key`."""
    rng = random.Random(key)
    return " ".join(word for word in text.split(" ") if rng.random() >= share)


class ARTrainer:
    """Holds the model, the rows and the loss; `python -m training.fit.ar` runs it."""

    def __init__(self, config: Config, backbone: Backbone) -> None:
        self.config, self.backbone, settings = config, backbone, config.ar
        self.statistics = Statistics.load(config.tables_from)
        self.contract = self.statistics.contract(config, backbone, ADAPTER)
        mean = self.statistics.mean if settings.centred else None
        means = {} if mean is None else {None: mean}
        transform = Transform(backbone.d_model, means, centred_norm=self.contract.centred_norm)
        self.reconstructor = Reconstructor(backbone, ADAPTER, self.contract, self._head(), transform)
        self.head = self.reconstructor.head
        self.tables = [config.tables_from / f"{name}.parquet" for name in settings.tables]
        drawn = {"max_rows": settings.max_rows, "weights": settings.family_weights}
        parts = [load_rows(table, settings.sources, **drawn) for table in self.tables]
        self.chosen_by = choosing_table(config.tables_from)
        chosen = [load_rows(self.chosen_by, settings.sources, settings.eval_rows)]
        if "on_policy" in settings.sources:
            self.tables.append(config.out / "on_policy.parquet")
            own, apart = load_written(self.tables[-1], "on_policy", settings.eval_rows)
            # Of the same documents there are labels, which would have shown the activations that it is chosen by.
            parts = [without(part, {row["doc_id"] for row in apart[1]}) for part in [*parts, own]]
            chosen.append(apart)
        vectors = torch.cat([part[0] for part in parts])
        self.rows = [row for part in parts for row in part[1]]
        self.targets = vectors if mean is None else vectors - mean
        self.prompts = self._tokenize([row["api_explanation"] for row in self.rows])
        self.eval_vectors = torch.cat([part[0] for part in chosen])
        self.eval_rows = [row for part in chosen for row in part[1]]
        lora = add_adapter(backbone, ADAPTER, settings, config.seed, self.contract.ar_num_blocks)
        head = {"head.weight": self.head.weight, "head.bias": self.head.bias}
        for parameter in head.values():
            parameter.requires_grad_(True)
        self.parameters = {**lora, **head}
        self.groups = [
            {"params": list(lora.values()), "lr": settings.lr},
            {"params": list(head.values()), "lr": settings.head_lr},
        ]
        self.lengths = [len(ids) for ids in self.prompts]
        self.left_out = 0  # explanations that are too long are cut, as at inference

    def _head(self) -> nn.Linear:
        """Float32; at the start a multiple of the identity (the default initialisation would shrink it by √3)."""
        settings, width = self.config.ar, self.backbone.d_model
        if settings.continue_from is not None:
            return load_head(settings.continue_from, width, bias=True)
        head = nn.Linear(width, width)
        nn.init.eye_(head.weight)
        head.weight.data *= settings.head_init
        nn.init.zeros_(head.bias)
        return head

    def _tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        return [ids for ids, _ in self.contract.ar_prompt_ids_batch(self.backbone.tokenizer, list(texts))]

    def predict(self, prompts: Sequence[Sequence[int]]) -> torch.Tensor:
        """[n, d] float32 predictions for tokenised prompts, differentiable."""
        self.backbone.model.train(torch.is_grad_enabled())
        return self.head(token_states(self.backbone, prompts, self.contract.ar_num_blocks - 1).float())

    def share_of_loss(self, rows: Sequence[int], step: int, batch: Sequence[int]) -> torch.Tensor:
        """What `rows` contribute to the mean loss over `batch`."""
        settings, rows = self.config.ar, list(rows)
        if settings.explanation_dropout or settings.prose_share:
            prompts = self._tokenize([self._as_read(row, step) for row in rows])
        else:
            prompts = [self.prompts[row] for row in rows]
        predicted = self.predict(prompts)
        loss = direction_loss(predicted, self.targets[rows].to(predicted.device)).sum()
        if settings.contrastive:
            own = torch.tensor([list(batch).index(row) for row in rows], device=predicted.device)
            everyone = self.targets[list(batch)].to(predicted.device)
            loss = loss + settings.contrastive * (
                contrastive_loss(predicted, own, everyone, settings.contrastive_temperature).sum()
            )
        return loss / len(batch)

    def _as_read(self, row: int, step: int) -> str:
        """A row's explanation with what is left out of it at this step."""
        settings, key = self.config.ar, f"{self.config.seed}|{step}|{row}"
        text = self.rows[row]["api_explanation"]
        if random.Random(f"{key}|prose").random() < settings.prose_share:
            text = prose(text)
        return drop_words(text, settings.explanation_dropout, key) if settings.explanation_dropout else text

    def tokens(self, batch: Sequence[int]) -> int:
        """Tokens of a batch, padding not included."""
        return sum(len(self.prompts[row]) for row in batch)

    def evaluate(self) -> dict[str, float]:
        """FVE on held-out rows with their own, empty and shuffled texts, against both baselines of those rows."""
        texts = [row["api_explanation"] for row in self.eval_rows]
        baselines = metrics.mean_baselines(self.eval_vectors)
        self.backbone.model.eval()
        self.reconstructor.reset()  # its weights have changed
        result = {}
        for name, given in (("true", texts), ("empty", [""]), ("shuffled", [*texts[1:], texts[0]])):
            predicted = self.reconstructor(given)
            mse = metrics.direction_mse(predicted, self.eval_vectors)
            result[f"heldout_fve_{name}"] = float(metrics.fve(mse, baselines.mean_norm).mean())
            result[f"heldout_fve_{name}_raw_variance"] = float(metrics.fve(mse, baselines.raw_variance).mean())
        return result


def run(config: Config, *, name: str = ADAPTER) -> Path:
    """Train the AR; returns the folder of the best half.

    Args:
        name: of the run, a folder in `config.out`.
    """
    with kept_on_stop(config.out / name):
        return train(config, ADAPTER, ARTrainer, name, metric=("heldout_fve_true", True))


if __name__ == "__main__":
    from .plan.estimate import show

    run_command(trainer_command(run, "ar", show))
