"""Opt-in, `pytest -m hub`: the real v0.0.1 pair on its own smoke-eval rows.

Needs network, a token that may read the gated base google/gemma-4-E2B, and a CUDA GPU of 4 GB.
"""

from __future__ import annotations

import numpy as np
import pytest

pytestmark = pytest.mark.hub
AV, AR = "Solshine/gemma-4-e2b-nla-L23-av-v0_0_1", "Solshine/gemma-4-e2b-nla-L23-ar-v0_0_1"
SMOKE = "Solshine/gemma-4-e2b-nla-eval-smoke"


@pytest.fixture(scope="module")
def pair():
    import torch

    from nla_sdk import NLAPair

    if not torch.cuda.is_available():
        pytest.fail("pytest -m hub needs a CUDA GPU; none was found.")
    return NLAPair.from_pretrained(AV, AR)


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    import pyarrow.parquet as pq
    from huggingface_hub import hf_hub_download

    from nla_sdk.io.tables import read_vectors

    return read_vectors(pq.read_table(hf_hub_download(SMOKE, "smoke_eval.parquet", repo_type="dataset")))


def test_every_tensor_of_the_release_is_accounted_for(pair):
    loaded = {role: report.loaded + len(report.inert) for role, report in pair.adapter_reports.items()}
    assert loaded == {"av": 410, "ar": 200}


def test_the_round_trip_is_what_was_published(pair, vectors):
    """Published over 42 rows: 0.438 ± 0.054, empty outputs excluded; of 20 rows the mean is known to ± 0.024 (2 SE)."""
    trips = [trip for trip in pair.round_trip(vectors) if trip.status != "empty"]
    mean = float(np.mean([trip.cosine for trip in trips]))
    assert len(trips) >= 12
    assert abs(mean - 0.438) < 0.05


def test_most_of_its_cosine_does_not_depend_on_the_explanation(pair, vectors):
    empty = float(np.mean([score.cosine for score in pair.score("", vectors)]))
    assert abs(empty - 0.405) < 0.05


def test_the_base_and_both_adapters_fit_on_a_4_gb_card(pair, vectors):
    import torch

    torch.cuda.reset_peak_memory_stats()
    pair.round_trip(vectors[:2])
    assert torch.cuda.max_memory_allocated() < 4 * 2**30
