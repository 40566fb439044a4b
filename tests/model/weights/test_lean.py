"""Adapters on layers that are not quantised need no bitsandbytes, and what is computed is the same without it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from nla_sdk.errors import first_line

ROOT = Path(__file__).parents[3]
pytest.importorskip("bitsandbytes")

START = """
import sys, warnings
import torch
from nla_sdk.model.backbone import Backbone
base, adapter = sys.argv[1:]

def states(model):
    ids = torch.tensor([model.tokenizer("The cat sat on the mat.").input_ids])
    with torch.no_grad(), model.using("av"):
        return model.run_to_block(ids, 1)

def loaded(**options):
    model = Backbone.load(base, device="cpu", **options)
    model.load_adapter("av", adapter)
    return model
"""


def run(code: str, base: Path, adapter: Path) -> None:
    command = [sys.executable, "-c", START + code, str(base), str(adapter)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=200)
    assert done.returncode == 0, done.stderr + first_line(done.stdout)


@pytest.fixture
def adapter(lora_folders) -> Path:
    return Path(lora_folders["shared"]) / "av"


def test_bitsandbytes_is_not_imported_whoever_does_it_later_gets_the_real_one_and_states_are_the_same_bits(
    gemma_base, adapter
):
    run(
        """
without = states(loaded())
assert "bitsandbytes" not in sys.modules
assert "bitsandbytes.nn" not in sys.modules
import peft.helpers
assert peft.helpers.bnb.nn.Linear4bit is sys.modules["bitsandbytes"].nn.Linear4bit
import bitsandbytes
assert bitsandbytes is sys.modules["bitsandbytes"] and bitsandbytes.__file__
from peft.import_utils import is_bnb_4bit_available, is_bnb_available
assert is_bnb_available() and is_bnb_4bit_available()
assert torch.equal(without, states(loaded()))
""",
        gemma_base,
        adapter,
    )


def test_a_4_bit_model_after_a_plain_one_gets_layers_for_4_bits(gemma_base, adapter):
    run(
        """
warnings.simplefilter("ignore")
loaded()
model = loaded(quantization="nf4")
kinds = {type(module).__module__ for module in model.model.modules() if hasattr(module, "lora_A")}
assert kinds == {"peft.tuners.lora.bnb"}, kinds
""",
        gemma_base,
        adapter,
    )
