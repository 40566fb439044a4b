"""A base in memory: run to a block and no further, one adapter active at a time."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig

from nla_sdk.errors import LayerError, LoadError
from nla_sdk.model.backbone import Backbone
from tests import reference, tiny

TEXT = "The cat sat on the mat."


@pytest.fixture(scope="module")
def backbone(gemma_base):
    return Backbone.load(gemma_base, device="cpu")


def test_one_base_serves_all_three_roles(pair):
    assert pair.verbalizer.backbone is pair.reconstructor.backbone is pair.source


# --- running ------------------------------------------------------------------------------------------------------
def test_later_blocks_final_norm_and_lm_head_never_run(backbone):
    ran, handles = [], []
    parts = {f"block {at}": block for at, block in enumerate(backbone.blocks)}
    parts |= {"norm": backbone.model.model.language_model.norm, "lm_head": backbone.model.lm_head}
    for name, module in parts.items():
        handles.append(module.register_forward_hook(lambda *_, name=name: ran.append(name)))
    with torch.no_grad():
        backbone.run_to_block(torch.tensor([[2, 5, 6]]), 3)
    for handle in handles:
        handle.remove()
    assert ran == ["block 0", "block 1", "block 2", "block 3"]
    assert not backbone.blocks[3]._forward_hooks


def test_padding_on_the_right_changes_no_real_token(backbone):
    ids = backbone.tokenizer(TEXT).input_ids
    with torch.no_grad():
        alone = backbone.run_to_block(torch.tensor([ids]), 4)[0]
        padded = backbone.run_to_block(torch.tensor([[*ids, 0, 0, 0, 0], [*ids, 9, 9, 9, 9]]), 4)
    assert reference.distance(padded[0, : len(ids)], alone) < 1e-5
    assert reference.distance(padded[1, : len(ids)], alone) < 1e-5


@pytest.mark.parametrize("block", [-1, tiny.GEMMA_BLOCKS])
def test_a_block_that_does_not_exist_is_refused(backbone, block):
    with pytest.raises(LayerError, match=f"Block {block} does not exist: .* has blocks 0 to 5"):
        backbone.run_to_block(torch.tensor([[2]]), block)


def test_gradients_flow_through_a_forward_that_was_stopped(gemma_base):
    backbone = Backbone.load(gemma_base, device="cpu")
    backbone.add_lora("new", LoraConfig(r=2, target_modules=["q_proj"]))
    trained = backbone.adapter_parameters("new")
    for parameter in trained.values():
        parameter.requires_grad_(True)
    with backbone.using("new"):
        backbone.run_to_block(torch.tensor([[2, 5, 6]]), 3).sum().backward()
    moved = {name for name, parameter in trained.items() if parameter.grad is not None and "lora_B" in name}
    assert {int(name.split("layers.")[1][0]) for name in moved} == {0, 1, 2, 3}


# --- adapters in use ----------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def two(gemma_base, lora_folders):
    backbone = Backbone.load(gemma_base, device="cpu")
    for name in ("av", "ar"):
        backbone.load_adapter(name, lora_folders["shared"] / name)
    return backbone


def states(backbone) -> torch.Tensor:
    with torch.no_grad():
        return backbone.run_to_block(torch.tensor([[2, 5, 6, 7]]), 4)


def test_a_use_inside_a_use_gives_the_outer_one_its_adapter_back(two):
    alone = {}
    for name in ("av", "ar", None):
        with two.using(name):
            alone[name] = states(two)
    assert not torch.equal(alone["av"], alone["ar"]) and not torch.equal(alone["av"], alone[None])
    with two.using("av"):
        with two.using(None):
            with two.using("ar"):
                assert torch.equal(states(two), alone["ar"])
            assert torch.equal(states(two), alone[None])
        assert torch.equal(states(two), alone["av"])
        with pytest.raises(ZeroDivisionError), two.using("ar"):
            raise ZeroDivisionError
        assert torch.equal(states(two), alone["av"])


def test_switching_adapters_does_not_change_what_is_trained(two):
    parameters = two.adapter_parameters("av")
    assert not any(parameter.requires_grad for parameter in two.model.parameters())
    for parameter in parameters.values():
        parameter.requires_grad_(True)
    try:
        for name in ("ar", None, "av", None, "ar"):
            with two.using(name):
                trained = {key for key, parameter in two.model.named_parameters() if parameter.requires_grad}
                assert trained == parameters.keys()
    finally:
        for parameter in parameters.values():
            parameter.requires_grad_(False)


@pytest.mark.parametrize("name", ["other", ""])
def test_an_adapter_that_is_not_there_is_not_taken_for_the_bare_base(backbone, two, name):
    for one in (backbone, two):
        with (
            pytest.raises(LoadError, match=f"holds no adapter '{name}'; load_adapter or add_lora comes first"),
            one.using(name),
        ):
            pass
