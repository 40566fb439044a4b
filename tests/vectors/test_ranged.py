"""Rows out of a large file on the Hub: what is transferred, and what is refused before memory is taken."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save

from nla_sdk.errors import DamagedFileError, NLAError, OfflineError
from nla_sdk.vectors import load
from nla_sdk.vectors.faults import VectorFileError
from nla_sdk.vectors.hub import hub_place
from tests.hub.faults import Fault
from tests.hub.server import Hub
from tests.vectors.sparse import ROWS, WIDTH, dictionary, header

pytest_plugins = ["tests.hub.fixtures"]

CFG = json.dumps({"d_in": WIDTH, "num_latents": 0, "expansion_factor": 43, "k": 32})
SPREAD = sorted(np.random.default_rng(0).choice(ROWS, 97, replace=False).tolist())
SOUGHT = [*SPREAD, 0, 1, ROWS - 1]


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A dictionary of 65,536 × 1,536 as a sparse file, and the rows of it that are not zeros."""
    rows = {row: np.random.default_rng(row).normal(size=WIDTH).astype(np.float32) for row in SOUGHT}
    return dictionary(tmp_path_factory.mktemp("large") / "sae.safetensors", rows), rows


@pytest.fixture
def published(hub: Hub, large):
    """The same in a repository, and what a call costs: bytes that the Hub sent, and requests."""
    file, rows = large
    hub.add("ada/sae", {"layers.3/cfg.json": CFG, "layers.3/sae.safetensors": file, "config.json": "{}"})

    class Cost:
        def __enter__(self):
            self._sent, self._requests = hub.sent, len(hub.requests)
            return self

        def __exit__(self, *exception):
            self.sent, self.requests = hub.sent - self._sent, len(hub.requests) - self._requests

    return Cost, rows


def test_one_row_of_a_large_dictionary_costs_kilobytes(published):
    cost, rows = published
    with cost() as first:
        found = load(f"ada/sae/layers.3#{SPREAD[50]}")
    np.testing.assert_array_equal(found.vectors[0].numpy(), rows[SPREAD[50]])
    assert (found.layer, found.kind) == (3, "direction") and "ada/sae/layers.3 (commit " in found.origin
    assert 4 * WIDTH < first.sent <= 64_000


def test_a_hundred_rows_cost_at_most_three_requests_each_and_little_more_than_their_bytes(published):
    cost, rows = published
    with cost() as hundred:
        found = load("ada/sae/layers.3#" + ",".join(map(str, SOUGHT)))
    np.testing.assert_array_equal(found.vectors.numpy(), np.stack([rows[row] for row in SOUGHT]))
    assert hundred.requests <= 3 * len(SOUGHT)
    assert hundred.sent < 1.2 * len(SOUGHT) * 4 * WIDTH


def test_neighbouring_rows_are_one_request_and_no_row_more_is_sent(hub: Hub, tmp_path):
    rows = {row: np.full(WIDTH, row + 1.0) for row in range(64)}
    file = dictionary(tmp_path / "sae.safetensors", rows, count=64)
    hub.add("ada/sae", {"layers.3/cfg.json": CFG, "layers.3/sae.safetensors": file})
    matrix = hub_place("ada/sae/layers.3").matrix("sae.safetensors", "W_dec")
    seen, sent = len(hub.requests), hub.sent
    found = matrix([40, 12, 11, 13, 40, 10])
    assert found[:, 0].tolist() == [41, 13, 12, 14, 41, 11]
    stored = [request for request in hub.requests[seen:] if request.path.startswith("/storage/")]
    assert len(stored) == 2
    assert hub.sent - sent < 5 * 4 * WIDTH + 4000, "five different rows, and four answers' headers"


def test_the_token_goes_to_the_hub_and_not_to_its_storage(hub: Hub, tmp_path):
    token = "hf_" + "t" * 34
    hub.tokens[token] = set()
    file = dictionary(tmp_path / "sae.safetensors", {1: np.ones(WIDTH)}, count=4)
    hub.add("ada/sae", {"layers.3/cfg.json": CFG, "layers.3/sae.safetensors": file}, private=True)
    assert len(load("ada/sae/layers.3#1", token=token)) == 1
    stored = [request for request in hub.requests if request.path.startswith("/storage/")]
    resolved = [request for request in hub.requests if request.path.startswith("/ada/sae/resolve/")]
    assert {request.token for request in resolved} == {token} and {request.token for request in stored} == {None}


def test_a_file_in_the_cache_is_read_without_a_request_for_it(hub: Hub, tmp_path):
    from huggingface_hub import hf_hub_download

    file = dictionary(tmp_path / "sae.safetensors", {1: np.ones(WIDTH)}, count=4)
    hub.add("ada/sae", {"layers.3/cfg.json": CFG, "layers.3/sae.safetensors": file})
    hf_hub_download("ada/sae", "layers.3/sae.safetensors")
    seen = len(hub.requests)
    assert load("ada/sae/layers.3#1").vectors[0, 0] == 1
    assert not [request for request in hub.requests[seen:] if request.path.endswith("sae.safetensors")]


def test_a_server_that_knows_no_ranges_costs_a_download_which_is_said(hub: Hub, tmp_path, capsys):
    file = dictionary(tmp_path / "sae.safetensors", {1: np.ones(WIDTH)}, count=128)
    hub.add("ada/sae", {"layers.3/cfg.json": CFG, "layers.3/sae.safetensors": file})
    hub.ranges = False
    assert load("ada/sae/layers.3#1").vectors[0, 0] == 1
    assert "downloading ada/sae/layers.3/sae.safetensors whole (2 MB)" in capsys.readouterr().err


# --- trouble ----------------------------------------------------------------------------------------------------------
def rows_of(hub: Hub, content: bytes, tensor: str = "W_dec"):
    hub.add("ada/sae", {"sae.safetensors": content})
    return hub_place("ada/sae").matrix("sae.safetensors", tensor)


@pytest.fixture
def matrix(hub: Hub):
    return rows_of(hub, save({"W_dec": torch.arange(24.0).reshape(6, 4) + 1}))


def test_an_answer_that_breaks_off_is_asked_for_again(hub: Hub, matrix):
    hub.fault(Fault(1, "cut", after_bytes=5))
    np.testing.assert_array_equal(matrix([2]), [[9, 10, 11, 12]])
    assert hub.count == 4


def test_a_refusal_of_the_moment_is_asked_again(hub: Hub, matrix, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    hub.fault(Fault(0, "503", times=2))
    np.testing.assert_array_equal(matrix([2]), [[9, 10, 11, 12]])


def test_a_hub_that_is_gone_is_said_to_be_out_of_reach(hub: Hub, matrix, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    hub.stop()
    with pytest.raises(OfflineError, match="cannot be reached"):
        matrix([2])


def test_a_file_that_is_gone_from_the_hub_is_an_error_of_ours(hub: Hub, matrix):
    hub.store.repositories.clear()
    with pytest.raises(NLAError):
        matrix([2])


# --- the file ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_rows_of_any_float_are_those_that_torch_reads(hub: Hub, dtype):
    made = torch.randn(9, 5, generator=torch.Generator().manual_seed(0)).to(dtype)
    found = rows_of(hub, save({"W_dec": made, "another": torch.ones(3)}))([8, 0, 3])
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, made[[8, 0, 3]].float().numpy())


def test_a_long_header_is_read_whole(hub: Hub):
    made = {f"tensor.{at:04d}": torch.full((2, 3), float(at)) for at in range(300)}
    np.testing.assert_array_equal(rows_of(hub, save(made), "tensor.0299")([1]), [[299, 299, 299]])


def test_a_tensor_of_three_dimensions_tells_its_shape(hub: Hub):
    made = torch.arange(24.0).reshape(4, 3, 2)
    found = rows_of(hub, save({"W_dec": made}))
    assert found.shape == (4, 3, 2)
    np.testing.assert_array_equal(found([2]), made[[2]].numpy())


def test_a_tensor_that_is_not_there_is_named_with_those_that_are(hub: Hub):
    with pytest.raises(VectorFileError, match=r"ada/sae/sae.safetensors holds no tensor w_dec; it holds W_dec"):
        rows_of(hub, save({"W_dec": torch.ones(2, 3)}), "w_dec")


@pytest.mark.parametrize(
    ("dtype", "shape", "size", "error", "why"),
    [
        ("I64", (2, 3), 48, VectorFileError, "dtype I64"),
        ("F8_E4M3", (2, 3), 6, VectorFileError, "dtype F8_E4M3"),
        ("F32", (2, 4), 24, DamagedFileError, "do not fit together"),
        ("F32", (10**9, 10**9), 4 * 10**18, DamagedFileError, "not into the file"),
        ("F32", (), 4, DamagedFileError, "do not fit together"),
    ],
)
def test_a_header_that_does_not_fit_is_refused_before_memory_is_taken(hub: Hub, dtype, shape, size, error, why):
    start, _ = header({"W_dec": (dtype, shape, size)})
    with pytest.raises(error, match=why):
        rows_of(hub, start + b"\0" * min(size, 100))


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F32", "shape": [2, 3], "data_offsets": [24, 0]},
        {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24, 48]},
        {"dtype": "F32", "shape": [-2, -3], "data_offsets": [0, 24]},
        {"dtype": "F32", "shape": [True, 6], "data_offsets": [0, 24]},
        {"dtype": "F32", "shape": [2.0, 3], "data_offsets": [0, 24]},
        {"dtype": "F32", "shape": "23", "data_offsets": [0, 24]},
        {"dtype": ["F32"], "shape": [2, 3], "data_offsets": [0, 24]},
        {"dtype": "F32", "shape": [2, 3], "data_offsets": [1000, 1024]},
        {"dtype": "F32", "shape": [2, 3]},
        "W_dec",
    ],
    ids=str,
)
def test_a_header_of_nonsense_is_refused_by_name(hub: Hub, entry):
    text = json.dumps({"W_dec": entry}).encode()
    with pytest.raises((DamagedFileError, VectorFileError), match="ada/sae/sae.safetensors"):
        rows_of(hub, len(text).to_bytes(8, "little") + text + b"\0" * 24)


@pytest.mark.parametrize(
    "content",
    [b"abc", b"\xff" * 8 + b"{}", (2**40).to_bytes(8, "little") + b"{}", (2).to_bytes(8, "little") + b"[]", b"\0" * 99],
    ids=["short", "endless", "longer than the file", "no object", "zeros"],
)
def test_what_begins_with_no_header_is_refused_by_name(hub: Hub, content):
    with pytest.raises(DamagedFileError, match="ada/sae/sae.safetensors"):
        rows_of(hub, content)


def test_an_empty_file_is_named_as_empty(hub: Hub):
    with pytest.raises(DamagedFileError, match="is empty"):
        rows_of(hub, b"")
