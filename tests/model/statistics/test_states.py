"""Statistics of activations on disk, and the discriminants in them."""

import dataclasses

import pytest
import torch

from nla_sdk.errors import DamagedFileError, MismatchedHalvesError
from nla_sdk.model.statistics.measure import _discriminants, built_in_texts, measure
from nla_sdk.model.statistics.states import ActivationStatistics, describe
from tests import tiny


@pytest.fixture(scope="module")
def statistics(lora_pair) -> ActivationStatistics:
    pair = lora_pair("shared")
    return measure(pair.source, pair.layer)


def test_what_is_saved_is_what_is_loaded(statistics, tmp_path):
    statistics.save(tmp_path / "s.safetensors")
    loaded = ActivationStatistics.load(tmp_path / "s.safetensors")
    for field in dataclasses.fields(statistics):
        ours, theirs = getattr(statistics, field.name), getattr(loaded, field.name)
        assert torch.equal(ours, theirs) if isinstance(ours, torch.Tensor) else ours == pytest.approx(theirs)


@pytest.mark.parametrize("content", [b"", b"version https://git-lfs.github.com/spec/v1\n", b"\0" * 64])
def test_a_damaged_file_is_named(tmp_path, content):
    file = tmp_path / "s.safetensors"
    file.write_bytes(content)
    with pytest.raises(DamagedFileError, match=r"s\.safetensors"):
        ActivationStatistics.load(file)


def test_the_file_of_another_layer_or_width_is_refused(statistics):
    statistics.belongs("b", statistics.layer, statistics.d_model, "f")
    for layer, width in ((statistics.layer + 1, statistics.d_model), (statistics.layer, 8)):
        with pytest.raises(MismatchedHalvesError, match=f"layer {layer} and d_model {width}"):
            statistics.belongs("b", layer, width, "f")


def test_every_state_of_the_base_is_there(statistics, lora_pair):
    blocks = [f"block {block}" for block in range(lora_pair("shared").source.num_blocks)]
    expected = {"embedding", *blocks, "final norm", "final norm of the layer", "BOS", "no BOS"}
    assert expected | {"left padding", "right padding"} == set(statistics.states)


def test_measured_states_are_those_of_the_plain_model(lora_pair, gemma_base):
    """hidden_states[L + 1] of transformers, the final norm of the last one, by an independent run."""
    pair = lora_pair("shared")
    model, tokens = tiny.plain_model(gemma_base), tiny.tokenizer()
    rows = []
    for text in built_in_texts():
        ids = tokens(text).input_ids[:72]
        with torch.no_grad():
            rows.append(model(torch.tensor([ids]), output_hidden_states=True).hidden_states[pair.layer + 1][0, 1:])
    mean = measure(pair.source, pair.layer).mean
    assert torch.allclose(mean, torch.cat(rows).mean(0), atol=1e-4)


def test_a_description_is_of_direction_and_norm_at_any_scale():
    vector = tiny.random(1, 16, seed=3)
    for scale in (1e-30, 1.0, 1e30):
        found = describe(vector.double() * scale)
        assert torch.allclose(found[:, :-1], (vector / vector.norm()).double(), atol=1e-6)
    assert describe(vector * 2)[0, -1] > describe(vector)[0, -1]


def test_discriminants_have_unit_covariance_within_states():
    readings = [
        {name: tiny.random(400, 5, seed=at * 9 + half).double() + at for at, name in enumerate("abc")}
        for half in range(2)
    ]
    projection, centres = _discriminants(readings, "abc")
    spread = torch.cat([reading["b"] for reading in readings]) @ projection - centres[1]
    assert torch.allclose(spread.T @ spread / len(spread), torch.eye(2, dtype=torch.double), atol=0.15)
