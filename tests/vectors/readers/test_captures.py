"""transformer-lens' caches: which hook is which block, what is no residual stream, whether it was centred."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from nla_sdk import vectors
from nla_sdk.errors import ActivationShapeError, InputError, NonFiniteActivationError
from nla_sdk.vectors.faults import SiteError, UnstatedVectorError
from tests.vectors.written import FILES, expected, same

HERE = FILES / "transformer_lens"


@pytest.mark.parametrize("name", ["batch.pt", "outs.safetensors", "inputs.safetensors", "one.safetensors"])
def test_a_hook_is_the_block_whose_output_it_is(name):
    said = expected("transformer_lens", name)
    loaded = vectors.load(f"{HERE / name}@{said['layer']}")
    assert same(loaded, said["rows"])
    assert (loaded.layer, loaded.kind) == (said["layer"], "activation")


def test_the_input_of_a_block_is_the_output_of_the_one_before():
    assert vectors.load(HERE / "inputs.safetensors").layer == 0
    assert vectors.load(f"{HERE / 'batch.pt'}@-1").layer == -1


def test_of_several_blocks_one_is_to_be_picked():
    with pytest.raises(UnstatedVectorError, match="layer .*REF@layer.*1: blocks.1.hook_resid_post"):
        vectors.load(HERE / "batch.pt")
    with pytest.raises(InputError, match="blocks 0, 1, 2, not of 5"):
        vectors.load(f"{HERE / 'outs.safetensors'}@5")


def test_labels_are_texts_and_tokens():
    loaded = vectors.load(f"{HERE / 'batch.pt'}#text 1, token 2@1")
    assert same(loaded, expected("transformer_lens", "batch.pt")["rows"][6:7])
    one = vectors.load(HERE / "one.safetensors")
    assert one.labels[3] == "text 0, token 3"
    assert any("tokens of one text" in said for said in one.assumed)


def test_what_is_not_the_residual_stream_is_refused():
    with pytest.raises(SiteError, match=r"blocks.1.attn.hook_out, blocks.1.mlp.hook_out: none is the residual stream"):
        vectors.load(HERE / "elsewhere.pt")


def test_a_layernorm_models_stream_as_it_is_is_not_asked_about():
    loaded = vectors.load(HERE / "layernorm.safetensors")
    assert same(loaded, expected("transformer_lens", "layernorm.safetensors")["rows"])
    assert any("not centred" in said for said in loaded.assumed)
    with pytest.raises(InputError, match="its rows are not"):
        vectors.load(HERE / "layernorm.safetensors", centred=True)


def test_whether_a_stream_that_sums_to_zero_was_centred_is_asked():
    path = HERE / "centred.safetensors"
    with pytest.raises(UnstatedVectorError, match="centred .*compatibility mode"):
        vectors.load(path)
    loaded = vectors.load(path, centred=True)
    assert same(loaded, expected("transformer_lens", path.name)["rows"])
    assert any("lacks its mean" in said for said in loaded.assumed)
    assert same(vectors.load(path, centred=False), loaded.vectors.numpy())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_rounding_does_not_hide_that_a_stream_was_centred(tmp_path, dtype):
    rows = torch.from_numpy(np.random.default_rng(2).normal(size=(300, 64)).astype(np.float32))
    rows[:, 5] *= 300  # one dimension far above the others, as models have
    rows -= rows.mean(1, keepdim=True)
    save_file({"blocks.2.hook_resid_post": rows.to(dtype)}, tmp_path / "acts.safetensors")
    with pytest.raises(UnstatedVectorError, match="centred"):
        vectors.load(tmp_path / "acts.safetensors")


def test_a_stream_that_overflowed_is_not_asked_about_but_refused(tmp_path):
    torch.save({"blocks.0.hook_out": torch.full((2, 3), torch.inf)}, tmp_path / "inf.pt")
    with pytest.raises(NonFiniteActivationError, match="text 0, token 0 holds NaN or infinity"):
        vectors.load(tmp_path / "inf.pt")


def test_an_array_that_is_no_batch_of_tokens_is_refused(tmp_path):
    torch.save({"blocks.0.hook_out": torch.ones(2, 2, 3, 4)}, tmp_path / "four.pt")
    with pytest.raises(ActivationShapeError, match=r"\(2, 2, 3, 4\); expected \[batch, seq, d\]"):
        vectors.load(tmp_path / "four.pt")
    torch.save({"blocks.0.hook_out": torch.ones(2, 3, dtype=torch.int64)}, tmp_path / "ids.pt")
    with pytest.raises(ActivationShapeError, match="int64; expected floating-point"):
        vectors.load(tmp_path / "ids.pt")
