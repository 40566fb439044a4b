"""AR supervised training: explanation → activation. `python -m training.sft_ar --config training/configs/demo.yaml`

The forward stops after block B − 1; the state at the prompt's last token goes through an fp32 linear head started at a
multiple of the identity (the default initialisation would shrink it by √3). The loss is the mse of directions, both
scaled to √d. Reads the `tables` of its settings (`<out>/ar_sft.parquet`), `eval.parquet` and, if `sources` asks for
on_policy rows, what the AV wrote (`<out>/on_policy.parquet`); leaves a loadable half in `<out>/ar`.

Telemetry: held-out FVE with true labels, with empty text and with the labels shuffled among rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import typer
from torch import nn

from nla_sdk import metrics
from nla_sdk.backbone import Backbone
from nla_sdk.hub import fetch_base
from nla_sdk.reconstructor import Reconstructor, last_token_states

from .cli import run_stage
from .config import Config
from .files import sha256_of
from .loop import Loop, data_order
from .sft_av import load_rows, lora_config, save_half, training_facts
from .statistics import Statistics

ADAPTER = "ar"


def direction_loss(predicted: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Mean over rows of `metrics.direction_mse`, differentiable: 2 (1 − cos), [n, d] each."""
    return 2.0 * (1.0 - torch.cosine_similarity(predicted, target, dim=-1)).mean()


class Trainer:
    """Holds the model, the rows and the loss; `python -m training.sft_ar` runs it."""

    def __init__(self, config: Config, backbone: Backbone) -> None:
        self.config, self.backbone, settings = config, backbone, config.ar
        self.statistics = Statistics.load(config.out)
        self.contract = self.statistics.contract(config, backbone.tokenizer, backbone.d_model, "ar")
        self.head = nn.Linear(backbone.d_model, backbone.d_model)
        nn.init.eye_(self.head.weight)
        self.head.weight.data *= settings.head_init
        mean = self.statistics.mean if settings.centred else None
        nn.init.zeros_(self.head.bias)
        self.reconstructor = Reconstructor(backbone, ADAPTER, self.contract, self.head, mean)
        self.tables = [config.out / f"{name}.parquet" for name in settings.tables]
        parts = [load_rows(table, settings.sources, settings.max_rows) for table in self.tables]
        if "on_policy" in settings.sources:
            self.tables.append(config.out / "on_policy.parquet")
            parts.append(load_rows(self.tables[-1], ["on_policy"]))
        vectors = torch.cat([part[0] for part in parts])
        self.rows = rows = [row for part in parts for row in part[1]]
        self.targets = vectors if mean is None else vectors - mean
        self.prompts = self._tokenize(rows)
        self.eval_vectors, self.eval_rows = load_rows(
            config.out / "eval.parquet", settings.sources, settings.eval_rows, spread=True
        )
        torch.manual_seed(config.seed)  # the adapter's first numbers are part of the run
        backbone.add_lora(ADAPTER, lora_config(settings, backbone, self.contract.ar_num_blocks))
        self.parameters = {
            **backbone.adapter_parameters(ADAPTER),
            "head.weight": self.head.weight,
            "head.bias": self.head.bias,
        }
        for parameter in self.parameters.values():
            parameter.requires_grad_(True)

    def _tokenize(self, rows) -> list[list[int]]:
        texts = [row["api_explanation"] for row in rows]
        return [ids for ids, _ in self.contract.ar_prompt_ids_batch(self.backbone.tokenizer, texts)]

    def batch_loss(self, rows: Sequence[int]) -> torch.Tensor:
        """Loss of the training rows with these indices."""
        states = last_token_states(self.backbone, [self.prompts[row] for row in rows], self.contract.ar_num_blocks - 1)
        return direction_loss(self.head(states.float()), self.targets[list(rows)])

    def evaluate(self) -> dict[str, float]:
        """FVE on held-out rows with true, empty and shuffled labels (mean-norm baseline of those rows)."""
        texts = [row["api_explanation"] for row in self.eval_rows]
        baseline = metrics.mean_baselines(self.eval_vectors).mean_norm
        result = {}
        for name, given in (("true", texts), ("empty", [""]), ("shuffled", [*texts[1:], texts[0]])):
            predicted = self.reconstructor(given)
            mse = metrics.direction_mse(predicted, self.eval_vectors)
            result[f"heldout_fve_{name}"] = float(metrics.fve(mse, baseline).mean())
        return result


def run(config: Config) -> Path:
    """Train the AR; returns the folder of the finished half."""
    backbone = Backbone.load(fetch_base(config.base).path, ref=config.base_id, dtype="float32")
    trainer = Trainer(config, backbone)
    settings = config.ar
    head = [trainer.head.weight, trainer.head.bias]
    lora = list(backbone.adapter_parameters(ADAPTER).values())
    optimizer = torch.optim.AdamW(
        [{"params": lora, "lr": settings.lr}, {"params": head, "lr": settings.head_lr}], weight_decay=0.0
    )
    identity = {
        "ar": settings.model_dump(mode="json"),
        "layer": config.layer,
        "seed": config.seed,
        "tables": [sha256_of(table) for table in trainer.tables],
    }
    with backbone.using(ADAPTER):
        loop = Loop(config.out / "run_ar", settings, optimizer, trainer.parameters, identity, config.seed)
        batches = data_order([len(ids) for ids in trainer.prompts], settings.batch_size, settings.epochs, config.seed)
        loop.run(batches, lambda rows, step: trainer.batch_loss(rows), trainer.evaluate, "sft_ar")
    facts = training_facts(config, "ar", trainer.tables, len(trainer.rows), len(batches)) | trainer.evaluate()
    return save_half(
        config.out / "ar", backbone, ADAPTER, trainer.contract, trainer.statistics, facts, head=trainer.head
    )


if __name__ == "__main__":
    typer.run(run_stage(run))
