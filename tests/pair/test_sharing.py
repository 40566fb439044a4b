"""Pairs on one base hold it once in memory, and give what each would have given alone."""

from __future__ import annotations

import gc
import shutil
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from nla_sdk import NLAPair
from nla_sdk.errors import AdapterMismatchError
from tests import tiny
from tests.conftest import DEPTHS

TEXTS = ["The cat sat on the mat.", "Go", "An old sailor tells of his ships."]


def build(folder: Path, gemma_base: Path, gemma) -> Path:
    """A base of its own, and two pairs on it that differ."""
    base = shutil.copytree(gemma_base, folder / "base")
    layer, blocks = DEPTHS["shared"]
    for name, seed in (("one", 100), ("two", 4000)):
        tiny.lora_av(folder / name / "av", base, gemma, layer=layer, seed=seed, norms=name == "two")
        tiny.lora_ar(folder / name / "ar", base, gemma, layer=layer, blocks=blocks, seed=seed + 9000)
    return folder


@pytest.fixture(scope="module")
def world(tmp_path_factory, gemma_base, gemma) -> Path:
    """What no test changes."""
    return build(tmp_path_factory.mktemp("sharing"), gemma_base, gemma)


def rows(count: int = 3) -> torch.Tensor:
    return tiny.random(count, tiny.D_MODEL, seed=15, scale=3.0)


def done(pair) -> tuple:
    """What a pair gives: texts, reconstructions, activations."""
    return list(pair.explain(rows())), pair.reconstruct(TEXTS), pair.extract(TEXTS).vectors


def same(found: tuple, expected: tuple) -> bool:
    return found[0] == expected[0] and all(torch.equal(a, b) for a, b in zip(found[1:], expected[1:], strict=True))


def alike(found: tuple, expected: tuple) -> bool:
    """The same up to rounding: rows of several threads share a batch, and products of another shape add otherwise."""
    vectors = zip(found[1:], expected[1:], strict=True)
    return found[0] == expected[0] and all(torch.allclose(a, b, rtol=1e-4, atol=1e-4) for a, b in vectors)


@pytest.fixture(autouse=True)
def nobody_elses():
    """What the test before had in memory is gone."""
    gc.collect()


@pytest.fixture(scope="module")
def alone(world):
    """What each pair gives when no other is in memory."""
    results = {}
    for name in ("one", "two"):
        pair = NLAPair.from_pretrained(world / name)
        results[name] = done(pair)
        del pair
        gc.collect()
    assert results["one"][0] != results["two"][0]
    return results


def test_two_pairs_share_one_base_and_give_what_they_give_alone_also_by_turns(world, alone):
    one, two = NLAPair.from_pretrained(world / "one"), NLAPair.from_pretrained(world / "two")
    assert one.source is two.source is one.verbalizer.backbone is two.reconstructor.backbone
    assert (
        len({one.verbalizer.adapter, two.verbalizer.adapter, one.reconstructor.adapter, two.reconstructor.adapter}) == 4
    )
    for _ in range(2):
        assert same(done(one), alone["one"]) and same(done(two), alone["two"])
    assert one.adapter_reports["av"].loaded != two.adapter_reports["av"].loaded


def test_threads_that_use_both_get_what_each_gives_alone(world, alone):
    with ThreadPoolExecutor(4) as pool:
        pairs = dict(
            zip(
                ("one", "two"),
                pool.map(lambda name: NLAPair.from_pretrained(world / name), ("one", "two")),
                strict=True,
            )
        )
        assert pairs["one"].source is pairs["two"].source, "two threads that want one base load it once"
        wanted = ["one", "two"] * 3
        found = list(pool.map(lambda name: done(pairs[name]), wanted))
    assert all(alike(result, alone[name]) for name, result in zip(wanted, found, strict=True))


def test_a_pair_that_is_gone_takes_its_adapters_along_and_the_last_one_the_base(world, alone):
    one, two = NLAPair.from_pretrained(world / "one"), NLAPair.from_pretrained(world / "two")
    names = {half.adapter for half in (two.verbalizer, two.reconstructor)}
    done(two)
    del two
    gc.collect()
    assert same(done(one), alone["one"])
    live = [name for name, _ in one.source.model.named_parameters()]
    assert not [key for key in live if any(f".{name}." in f"{key}." for name in names)]
    own = {one.verbalizer.adapter, one.reconstructor.adapter}
    assert not own & names and set(one.source.reports) == own
    backbone = weakref.ref(one.source)
    del one
    gc.collect()
    assert backbone() is None


def test_a_half_that_outlives_its_pair_keeps_its_adapter(world, alone):
    verbalizer = NLAPair.from_pretrained(world / "one").verbalizer
    other = NLAPair.from_pretrained(world / "two")
    gc.collect()
    assert same(done(other), alone["two"])
    assert list(verbalizer(rows())) == alone["one"][0]


def test_a_pair_that_fails_to_load_leaves_the_others_as_they_were(world, alone, tmp_path):
    one = NLAPair.from_pretrained(world / "one")
    done(one)
    two = shutil.copytree(world / "two", tmp_path / "two")
    tiny.rename_tensors(two / "ar", lambda key: key.replace("self_attn", "attention"))
    with pytest.raises(AdapterMismatchError):
        NLAPair.from_pretrained(two)
    gc.collect()
    assert same(done(one), alone["one"])
    assert set(one.source.reports) == {one.verbalizer.adapter, one.reconstructor.adapter}


def test_another_precision_and_changed_files_are_another_base(tmp_path, gemma_base, gemma):
    world = build(tmp_path, gemma_base, gemma)
    one = NLAPair.from_pretrained(world / "one")
    assert NLAPair.from_pretrained(world / "one", dtype="bfloat16").source is not one.source
    assert NLAPair.from_pretrained(world / "one").source is one.source
    weights = world / "base" / "model.safetensors"
    weights.write_bytes(weights.read_bytes())
    assert NLAPair.from_pretrained(world / "two").source is not one.source, "the file was written anew"


def test_an_oracle_and_an_nla_share_their_base(world, alone, gemma, tmp_path):
    one = NLAPair.from_pretrained(world / "one")
    question = "<concept>{injection_char}</concept> {question}\n"
    layer = DEPTHS["shared"][0]
    fields = {"question": {"default": "What is it?"}}
    tiny.lora_av(tmp_path / "oracle", world / "base", gemma, layer=layer, seed=700, av_template=question, fields=fields)
    oracle = NLAPair.from_pretrained(tmp_path / "oracle")
    assert oracle.source is one.source and oracle.ar is None
    assert "is an activation oracle, which has no AR" in oracle.missing
    oracle.explain(rows(1))
    assert same(done(one), alone["one"])
