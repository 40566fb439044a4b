"""A training step on a CUDA device is the CPU's, and a whole run leaves a half that loads anywhere."""

from __future__ import annotations

import importlib.util
import json

import pytest
import torch

from nla_sdk.model.backbone import Backbone
from tests import configs, tiny
from tests.fit.tables import write_tables
from tests.reference import distance
from training.configs.config import Config
from training.fit import ar as sft_ar
from training.fit import av as sft_av
from training.fit.engine.base import load_base
from training.fit.engine.loop import in_micro_batches
from training.fit.engine.schedule import make_optimizer

pytestmark = pytest.mark.cuda
TRAINERS = {"av": sft_av.AVTrainer, "ar": sft_ar.ARTrainer}
LABELS = ["A cat on a mat.", "Seven dogs ran over the hills.", "Mary read her old books near rivers.", "London."] * 2
roles = pytest.mark.parametrize("role", TRAINERS)


@pytest.fixture
def config(tmp_path, gemma_base):
    """settings of both halves → a config whose tables are there, on the tiny Gemma 4."""

    def make(**train) -> Config:
        usual = {"quantization": None, "dtype": "float32", "gradient_checkpointing": False, "batch_size": 4}
        usual |= {"lora": {"r": 8, "dropout": 0.0}, "sources": ["written"], "eval_rows": 4, "optimizer": "adamw"}
        halves = {role: usual | {"micro_batch": 2} | train for role in ("av", "ar")}
        extract = {"sources": [{"corpus": "none"}]}
        made = Config.load(configs.write(tmp_path, configs.sections(tmp_path, gemma_base, extract=extract, **halves)))
        vectors = tiny.random(len(LABELS), tiny.D_MODEL, seed=9, scale=4.0).numpy()
        write_tables(made.out, vectors, dict.fromkeys(("av_sft", "ar_sft", "eval"), LABELS))
        return made

    return make


def one_step(config: Config, role: str, device: torch.device):
    """Loss, gradients and parameters after one optimizer step of four rows in two micro-batches."""
    settings = getattr(config, role)
    trainer = TRAINERS[role](config, load_base(config, settings, device))
    optimizer = make_optimizer(trainer.groups, settings, device)
    with trainer.backbone.using(role):
        loss = in_micro_batches(trainer.share_of_loss, settings.micro_batch)([0, 1, 2, 3], 0, [0, 1, 2, 3])
    gradients = {name: p.grad.cpu().clone() for name, p in trainer.parameters.items() if p.grad is not None}
    optimizer.step()
    return loss, gradients, {name: p.detach().cpu() for name, p in trainer.parameters.items()}


@roles
@pytest.mark.parametrize("checkpointing", [False, True])
def test_loss_gradients_and_step_are_the_cpus(card, config, role, checkpointing):
    made = config(gradient_checkpointing=checkpointing)
    (loss, gradients, stepped), (same, expected, reached) = (
        one_step(made, role, device) for device in (card, torch.device("cpu"))
    )
    assert loss == pytest.approx(same, rel=1e-5)
    assert gradients.keys() == expected.keys() and gradients
    for name, gradient in expected.items():
        if gradient.any():
            assert distance(gradients[name].flatten()[None], gradient.flatten()[None]) < 1e-3, name
    moved = torch.cat([(stepped[name] - reached[name]).flatten() for name in reached]).abs()
    assert moved.median() < 1e-6, "Adam's first step is the gradient's sign, which tiny gradients may lose"


@roles
def test_a_whole_run_leaves_a_half_that_the_cpu_loads(card, config, role):
    made = config(epochs=2.0)
    half = {"av": sft_av, "ar": sft_ar}[role].run(made)
    log = [json.loads(line) for line in (made.out / role / "log.jsonl").read_text().splitlines()]
    steps = [line for line in log if "loss" in line]
    assert len(steps) == 4 and all(line["peak_memory_gib"] > 0 for line in steps)
    backbone = Backbone.load(made.base, device="cpu")
    assert backbone.load_adapter(role, half).loaded


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
@roles
def test_the_4_bit_recipe_learns(card, config, role):
    made = config(quantization="nf4", dtype="bfloat16", gradient_checkpointing=True, optimizer="adamw8bit", lr=3e-3)
    settings = getattr(made, role)
    trainer = TRAINERS[role](made, load_base(made, settings, card))
    optimizer = make_optimizer(trainer.groups, settings, card)
    accumulate, losses = in_micro_batches(trainer.share_of_loss, settings.micro_batch), []
    with trainer.backbone.using(role):
        for step in range(8):
            losses.append(accumulate([0, 1, 2, 3], step, [0, 1, 2, 3]))
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
    assert losses[-1] < losses[0]
