"""A pair on a CUDA device gives what it gives on the CPU."""

from __future__ import annotations

import functools

import pytest
import torch

from nla_sdk import NLAPair
from nla_sdk.model.weights.loading import PER_LAYER_TABLE
from tests import tiny
from tests.reference import distance

pytestmark = pytest.mark.cuda
TEXTS = ["The cat sat on the mat.", "Go", "In 1492 a fleet of three ships left for the west."]
NEAR = 1e-4
"""Relative error of float32 vectors: other kernels add up in another order."""
lora_pairs = pytest.mark.parametrize("name", ["below", "shared", "last", "norms", "centred"])


def vectors(count: int) -> torch.Tensor:
    return tiny.random(count, tiny.D_MODEL, seed=5, scale=4.0)


@pytest.fixture(scope="module")
def on_card(card, lora_folders):
    """name, options → a LoRA pair on the CUDA device, float32 unless said otherwise; each is loaded once."""

    @functools.cache
    def load(name: str = "shared", **options) -> NLAPair:
        return NLAPair.from_pretrained(lora_folders[name], **({"device": card, "dtype": "float32"} | options))

    return load


@pytest.fixture(scope="module")
def on_cpu(lora_folders):
    """The same on the CPU."""

    @functools.cache
    def load(name: str = "shared", **options) -> NLAPair:
        return NLAPair.from_pretrained(lora_folders[name], **({"device": "cpu", "dtype": "float32"} | options))

    return load


@lora_pairs
def test_greedy_texts_are_the_cpus(on_card, on_cpu, name):
    rows = vectors(8)
    texts = on_card(name).explain(rows)
    assert texts == on_cpu(name).explain(rows)
    assert len(set(texts)) > 1, "the vector must matter"


def test_sampled_texts_are_the_cpus(on_card, on_cpu):
    how = {"temperature": 0.8, "n": 3, "seed": 4}
    texts = on_card().explain(vectors(3), **how)
    assert texts == on_cpu().explain(vectors(3), **how)
    assert len({text for row in texts for text in row}) > 3, "samples differ"


def test_a_rows_text_does_not_depend_on_its_batch(on_card):
    rows = vectors(6)
    assert on_card().explain(rows) == [on_card().explain(row) for row in rows]


@lora_pairs
def test_vectors_are_near_the_cpus_and_come_back_on_the_cpu(on_card, on_cpu, name):
    for method in ("extract", "reconstruct"):
        found, expected = getattr(on_card(name), method)(TEXTS), getattr(on_cpu(name), method)(TEXTS)
        found, expected = getattr(found, "vectors", found), getattr(expected, "vectors", expected)
        assert (found.dtype, found.device.type) == (torch.float32, "cpu")
        assert distance(found, expected) < NEAR


def test_a_round_trips_scores_are_the_cpus(on_card, on_cpu):
    found, expected = on_card("centred").round_trip(vectors(4)), on_cpu("centred").round_trip(vectors(4))
    assert [trip.explanation for trip in found] == [trip.explanation for trip in expected]
    assert [trip.cosine for trip in found] == pytest.approx([trip.cosine for trip in expected], abs=1e-4)


def test_switching_adapters_leaves_each_role_what_it_was(on_card):
    pair, rows = on_card(), vectors(2)
    before = pair.extract(TEXTS).vectors, pair.explain(rows), pair.reconstruct(TEXTS)
    assert distance(before[0], before[2]) > NEAR, "the AR is another model than the source"
    for _ in range(2):
        assert pair.explain(rows) == before[1]
        assert distance(pair.extract(TEXTS).vectors, before[0]) < 1e-6
        assert distance(pair.reconstruct(TEXTS), before[2]) < 1e-6


def test_whole_checkpoints_give_the_cpus_texts_and_vectors(card, full_folder):
    found, expected = (
        NLAPair.from_pretrained(full_folder, device=device, dtype="float32") for device in (card, torch.device("cpu"))
    )
    assert found.explain(vectors(3)) == expected.explain(vectors(3))
    assert distance(found.reconstruct(TEXTS), expected.reconstruct(TEXTS)) < NEAR


def test_the_dtype_of_a_gpu_is_half_precision_by_itself_and_vectors_stay_near(on_card, on_cpu):
    pair = on_card(dtype="auto")
    assert pair.source.dtype == (torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16)
    found, expected = pair.extract(TEXTS).vectors, on_cpu().extract(TEXTS).vectors
    assert 0 < distance(found, expected) < 0.1


def test_the_per_layer_table_alone_stays_in_cpu_memory(on_card, card):
    parameters = dict(on_card().source.model.named_parameters())
    stayed = [name for name, parameter in parameters.items() if parameter.device != card]
    assert len(stayed) == 1 and f"{PER_LAYER_TABLE}." in stayed[0]
    assert parameters[stayed[0]].device.type == "cpu"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_four_bits_are_the_cpus_and_explain(on_card, on_cpu, dtype):
    pytest.importorskip("bitsandbytes")
    found, expected = (load(quantization="nf4", dtype=dtype) for load in (on_card, on_cpu))
    packed = [
        {name: p.cpu() for name, p in pair.source.model.named_parameters() if p.dtype == torch.uint8}
        for pair in (found, expected)
    ]
    assert packed[0] and packed[0].keys() == packed[1].keys()
    assert all(torch.equal(tensor, packed[1][name]) for name, tensor in packed[0].items())
    near = 1e-3 if dtype == "float32" else 0.1
    assert distance(found.extract(TEXTS).vectors, expected.extract(TEXTS).vectors) < near
    texts = found.explain(vectors(4))
    assert len(set(texts)) > 1 and all(text.tokens for text in texts)
    if dtype == "float32":
        assert texts == expected.explain(vectors(4))


def test_doctor_names_the_card(card, capsys):
    from nla_sdk.cli.app import main

    with pytest.raises(SystemExit) as end:
        main(["doctor"])
    assert end.value.code in (0, 1)
    assert torch.cuda.get_device_name(card).split()[-1] in " ".join(capsys.readouterr().out.split())
