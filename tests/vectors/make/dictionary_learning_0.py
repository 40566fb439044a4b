"""Dictionaries as dictionary-learning writes them, by its own training loop of two steps.

pip install dictionary-learning==0.1.0 torch==2.13.0        (nnsight 0.3.7; Python 3.11)

All are square, eight of eight numbers: columns and rows cannot be told by shape. What is expected is the decoder
applied to each feature alone, less the decoder applied to none.
"""

import shutil
import tempfile
from pathlib import Path

import torch
from dictionary_learning.buffer import ActivationBuffer
from dictionary_learning.trainers.batch_top_k import BatchTopKTrainer
from dictionary_learning.trainers.gdm import GatedSAETrainer
from dictionary_learning.trainers.jumprelu import JumpReluTrainer
from dictionary_learning.trainers.matryoshka_batch_top_k import MatryoshkaBatchTopKTrainer
from dictionary_learning.trainers.standard import StandardTrainer
from dictionary_learning.trainers.top_k import TopKTrainer
from dictionary_learning.training import trainSAE
from keeping import Kept

D_IN = 8
COMMON = {
    "steps": 20,
    "activation_dim": D_IN,
    "dict_size": D_IN,
    "layer": 5,
    "lm_name": "EleutherAI/pythia-70m-deduped",
    "device": "cpu",
    "warmup_steps": 1,
    "seed": 0,
}
SPARSITY = {"sparsity_warmup_steps": 1}


class Batches:
    """Random activations that say of themselves what the tool's own buffer does."""

    def __init__(self, io: str) -> None:
        buffer = ActivationBuffer.__new__(ActivationBuffer)
        buffer.d_submodule, buffer.io, buffer.n_ctxs, buffer.ctx_len = D_IN, io, 64, 32
        buffer.refresh_batch_size, buffer.out_batch_size, buffer.device = 4, 16, "cpu"
        self.config = buffer.config

    def __iter__(self):
        return iter(torch.randn(2, 16, D_IN))

    def __len__(self) -> int:
        return 2


def caught(trainer, made: list):
    """What makes a trainer and keeps it in `made`: the loop below hands none back."""

    def make(**options):
        made.append(trainer(**options))
        return made[-1]

    return make


torch.manual_seed(0)
kept = Kept("dictionary_learning_0")
for name, trainer, io, more in (
    ("standard", StandardTrainer, "out", {"submodule_name": "resid_post_layer_5", **SPARSITY}),
    ("gated", GatedSAETrainer, "out", SPARSITY),
    ("top_k", TopKTrainer, "in", {"k": 2}),
    ("batch_top_k", BatchTopKTrainer, "out", {"k": 2}),
    ("jumprelu", JumpReluTrainer, "out", SPARSITY),
    ("matryoshka", MatryoshkaBatchTopKTrainer, "out", {"k": 2, "group_fractions": [0.5, 0.5]}),
):
    made = []
    with tempfile.TemporaryDirectory() as folder:
        settings = {"trainer": caught(trainer, made), **COMMON, **more}
        trainSAE(Batches(io), [settings], steps=2, save_dir=folder, save_steps=[1], device="cpu")
        ae = made[0].ae
        with torch.no_grad():
            ones, none = torch.eye(D_IN), torch.zeros(1, D_IN)
            directions = ae.decode(ones) - ae.decode(none)
        facts = {"tensors": sorted(ae.state_dict()), "io": io, "model": COMMON["lm_name"]}
        shutil.copytree(Path(folder) / "trainer_0", kept.case(name, directions, layer=5, **facts))
kept.close()
