"""Tiny models and pairs, built once a session. Nothing is downloaded, and no test draws from a global generator."""

from __future__ import annotations

import functools
import gc
import os
from collections.abc import Callable
from pathlib import Path

import pytest

# There are as many workers as cores. Read by numpy and torch at their first import, also in commands that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# As in commands (`nla_sdk.cli.boundary`): to look through all that torch and transformers keep takes 0.3 s, each time.
gc.set_threshold(50_000, 10, 10)

# (layer read, AR blocks run) of the LoRA pairs on the tiny Gemma 4, whose KV-shared blocks start at 3
DEPTHS = {"below": (1, 2), "shared": (4, 5), "last": (5, 6)}


# Files of half a minute, the longest first: a worker that began one of them last would leave the others without work.
LONGEST = (
    "notebooks/test_own_pair.py",
    "fit/test_trainers.py",
    "pair/test_demo_pair.py",
    "publish/test_publish.py",
)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    """The longest files come first, all others as pytest-randomly has shuffled them."""
    here = Path(__file__).parent
    order = {here / name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path, len(order)))


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def unsynced():
    """No test loses power, so none waits until the disk has a file: 5 ms each, many thousand times."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(scope="session", autouse=True)
def measured_here(tmp_path_factory):
    """Statistics of the tiny bases are kept in a folder of this run, not in the user's cache."""
    from nla_sdk.halves import measured

    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setattr(measured, "cache_root", lambda: folder)
        yield


@pytest.fixture(scope="session")
def gemma_base(tmp_path_factory) -> Path:
    """A tiny random Gemma 4 on disk."""
    from tests import tiny

    return tiny.save_model(tmp_path_factory.mktemp("bases") / "gemma", tiny.gemma_config(), tiny.tokenizer(), seed=1)


@pytest.fixture(scope="session")
def gemma(gemma_base):
    """The same in memory, to read module paths and shapes from."""
    from tests import tiny

    return tiny.plain_model(gemma_base)


@pytest.fixture(scope="session")
def llama_base(tmp_path_factory) -> Path:
    from tests import tiny

    tokens = tiny.tokenizer(chat=True)
    return tiny.save_model(tmp_path_factory.mktemp("bases") / "llama", tiny.llama_config(), tokens, seed=2)


@pytest.fixture(scope="session")
def base(tmp_path_factory) -> Path:
    """What the training stages run on: a tiny Llama without a chat template."""
    from tests import tiny

    return tiny.save_model(tmp_path_factory.mktemp("bases") / "plain", tiny.llama_config(), tiny.tokenizer(), seed=5)


@pytest.fixture(scope="session")
def lora_folders(tmp_path_factory, gemma_base, gemma) -> dict[str, Path]:
    """Pairs at every depth, one with norms in `modules_to_save` ("norms"), one centred ("centred")."""
    from tests import tiny

    root = tmp_path_factory.mktemp("lora")
    folders = {
        name: tiny.lora_pair(root / name, gemma_base, gemma, layer=layer, blocks=blocks)
        for name, (layer, blocks) in DEPTHS.items()
    }
    layer, blocks = DEPTHS["shared"]
    folders["norms"] = tiny.lora_pair(root / "norms", gemma_base, gemma, layer=layer, blocks=blocks, norms=True)
    folders["centred"] = tiny.lora_pair(root / "centred", gemma_base, gemma, layer=layer, blocks=blocks)
    tiny.centre(folders["centred"], tiny.random(tiny.D_MODEL, seed=77, scale=3.0), norm=20.0, baseline=1.5)
    return folders


@pytest.fixture(scope="session")
def lora_pair(lora_folders) -> Callable:
    """name, quantization → a loaded pair; each is loaded once."""
    from nla_sdk import NLAPair

    @functools.cache
    def load(name: str = "shared", quantization: str | None = None) -> NLAPair:
        return NLAPair.from_pretrained(lora_folders[name], quantization=quantization)

    return load


@pytest.fixture
def pair(lora_pair):
    """A LoRA pair in fp32 that reads a KV-shared block."""
    return lora_pair("shared")


@pytest.fixture(scope="session")
def full_folder(tmp_path_factory, llama_base) -> Path:
    from tests import tiny

    return tiny.full_pair(tmp_path_factory.mktemp("full") / "pair", llama_base)


@pytest.fixture(scope="session")
def full_pair(full_folder):
    """A pair of two whole Llama checkpoints in the reference layout."""
    from nla_sdk import NLAPair

    return NLAPair.from_pretrained(full_folder)


@pytest.fixture
def copied(tmp_path, lora_folders) -> Callable[..., Path]:
    """name → a pair's folder to be damaged at will."""
    import shutil

    def copy(name: str = "shared") -> Path:
        return Path(shutil.copytree(lora_folders[name], tmp_path / name))

    return copy
